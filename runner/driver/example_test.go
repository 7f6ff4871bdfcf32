package driver_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// What the engine asks a driver for, in the order of one job: find it, claim it, have a server run it,
// read what has become of it.
func Example() {
	world := mock.NewWorld()
	defer world.Close()
	world.AddDatabase("prod")
	world.Insert(mock.NewJob("prod", "first"))
	if err := oneJob(world.Driver(), func(words ...any) { fmt.Println(words...) }); err != nil {
		fmt.Println(err)
	}
	// Output:
	// healthy mock+lock
	// lock: true
	// pending first
	// answered
	// done first
}

func oneJob(d driver.Driver, say func(words ...any)) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := d.OpenSession(ctx, &pgx.ConnConfig{}, "prod")
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	found, err := s.Fingerprint(ctx)
	if err != nil {
		return err
	}
	say(found.Health, found.Generation)
	lock, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	say("lock:", lock.Held)
	if err := s.Listen(ctx); err != nil {
		return err
	}
	var uuids []string
	err = s.Snapshot(ctx, func(row driver.Row) {
		say(row.State, row.UUID)
		uuids = append(uuids, row.UUID)
	})
	if err != nil {
		return err
	}
	tasks, _, err := s.Claim(ctx, uuids, nil)
	if err != nil {
		return err
	}
	result := d.Run(ctx, driver.Upstream{Name: "http://10.0.0.5:8069"}, tasks[0])
	say(result.Outcome)
	rows, err := s.Read(ctx, uuids)
	if err != nil {
		return err
	}
	say(rows[0].State, rows[0].UUID)
	return nil
}
