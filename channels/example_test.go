package channels_test

import (
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

func ExampleParseConfig() {
	entries, err := channels.ParseConfig("root:4, root.mail:2:throttle=1, root.invoices:1:sequential")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range entries {
		cfg, _, err := e.Config()
		fmt.Println(cfg.Name, cfg.Capacity, cfg.Sequential, cfg.Throttle, err)
	}
	// Output:
	// root 4 false 0s <nil>
	// root.mail 2 false 1s <nil>
	// root.invoices 1 true 0s <nil>
}

func ExampleManager_Next() {
	m := channels.NewManager()
	cfgs, _, err := channels.ParseConfigs("root:4,mail:1")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := m.Configure(cfgs); err != nil {
		fmt.Println(err)
		return
	}

	mail := func(uuid string, id int64, priority int32) channels.Job {
		return channels.Job{Key: channels.Key{DB: "prod", UUID: uuid}, Channel: "root.mail", ID: id, Priority: priority}
	}
	m.Set(mail("first", 1, 10), channels.Pending)
	m.Set(mail("urgent", 2, 1), channels.Pending)

	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	fmt.Println(m.Next(now, 0))

	why, _ := m.Explain(channels.Key{DB: "prod", UUID: "first"}, now)
	fmt.Println(why)

	m.Set(mail("urgent", 2, 1), channels.Done)
	fmt.Println(m.Next(now, 0))
	// Output:
	// [prod/urgent]
	// job prod/first waits: channel root.mail is full (1 running, capacity 1)
	// [prod/first]
}
