package runner_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// A runner needs a driver and servers. That of package mock plays PostgreSQL and Odoo in memory; with
// package odoo in its place, Postgres says where the databases are.
func Example() {
	world := mock.NewWorld()
	defer world.Close()
	world.AddDatabase("prod")

	ended := make(chan runner.Event, 1)
	r, err := runner.New(runner.Config{
		Name:     "default",
		Postgres: &pgx.ConnConfig{},
		Driver:   world.Driver(),
		Targets:  upstreams{"http://10.0.0.5:8069"},
		Channels: []channels.Config{{Name: "root", Capacity: 4}},
		Events: func(ev runner.Event) {
			if ev.Kind.Final() {
				ended <- ev
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	r.Start()
	world.Insert(mock.NewJob("prod", "first"))
	ev := <-ended
	fmt.Println(ev.Kind, ev.Database, ev.UUID, ev.Channel, ev.Upstream)
	fmt.Println(r.Stop(context.Background()))
	// Output:
	// job_done prod first root http://10.0.0.5:8069
	// <nil>
}
