package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// profiles writes profiles instead of a table: measuring them costs something.
var profiles = scenario{
	"profile", "profiles of the drain, of single jobs, of an idle runner and of a full memory",
	[]string{benchDB, limitDB, templateDB}, profileAll,
}

// profileBlocking switches on what costs something: waits on channels and locks.
func profileBlocking() {
	runtime.SetBlockProfileRate(int(10 * time.Microsecond))
	runtime.SetMutexProfileFraction(10)
}

func profileAll(ctx context.Context, l *lab) error {
	if err := os.MkdirAll(l.profile, 0o755); err != nil {
		return fmt.Errorf("making the folder for profiles: %w", err)
	}
	names, err := l.copies(ctx)
	if err != nil {
		return err
	}
	for _, part := range []struct {
		name   string
		served served
		// work keeps the runner busy for longer than the profile takes.
		work func() error
	}{
		{"drain", one(benchDB, "root:16"), func() error {
			return l.insertAndWait(ctx, jobs{count: pick(l.bench, 20_000, 2_000)})
		}},
		{"single", one(benchDB, "root:16"), func() error {
			return l.alternate(ctx, pick(l.bench, 1_500, 200), &lane{databases: []string{benchDB}, priority: 10})
		}},
		{"idle", many(names, "root:16"), func() error {
			return sleep(ctx, pick(l.bench, 16*time.Second, 3*time.Second))
		}},
	} {
		if err := l.clear(ctx, benchDB, limitDB); err != nil {
			return err
		}
		if err := l.whileServed(ctx, part.served, func(c *testbed.Caddy) error {
			return l.saveWhile(ctx, c, part.name, part.work)
		}); err != nil {
			return err
		}
	}
	if err := l.clear(ctx, benchDB); err != nil {
		return err
	}
	if err := l.insertBacklog(ctx, benchDB, pick(l.bench, 1_000_000, 50_000), 0); err != nil {
		return err
	}
	return l.whileServed(ctx, one(benchDB, backlogTree), func(c *testbed.Caddy) error {
		return l.save(ctx, c, "million", "heap", "?gc=1")
	})
}

// saveWhile saves all profiles of a time in which something is done.
func (l *lab) saveWhile(ctx context.Context, c *testbed.Caddy, name string, work func() error) error {
	worked := make(chan error, 1)
	go func() { worked <- work() }()
	seconds := pick(l.bench, 15*time.Second, 3*time.Second).Seconds()
	err := l.save(ctx, c, name, "profile", fmt.Sprintf("?seconds=%.0f", seconds))
	err = errors.Join(err, <-worked)
	for _, kind := range []string{"heap", "allocs", "block", "mutex", "goroutine"} {
		if err == nil {
			err = l.save(ctx, c, name, kind, "")
		}
	}
	return err
}

// save writes one profile.
func (l *lab) save(ctx context.Context, c *testbed.Caddy, name, kind, query string) error {
	body, err := c.Get(ctx, "/debug/pprof/"+kind+query)
	if err != nil {
		return err
	}
	if kind == "profile" {
		kind = "cpu"
	}
	file := filepath.Join(l.profile, name+"-"+kind+".pprof")
	if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	say("   %s", file)
	return nil
}
