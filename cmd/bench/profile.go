package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// profiles writes profiles instead of a table: measuring them costs something.
var profiles = scenario{
	name: "profile", about: "profiles of the drain, of single jobs, of an idle runner and of a full memory",
	run: func(ctx context.Context, b *bench) error {
		if err := os.MkdirAll(b.profile, 0o755); err != nil {
			return fmt.Errorf("making the folder for profiles: %w", err)
		}
		return b.withLab(ctx, []string{benchDB, limitDB, templateDB}, profileAll)
	},
}

// profileBlocking switches on what costs something: waits on channels and locks.
func profileBlocking() {
	runtime.SetBlockProfileRate(int(10 * time.Microsecond))
	runtime.SetMutexProfileFraction(10)
}

func profileAll(ctx context.Context, l *lab) error {
	if err := warmUp(ctx, l); err != nil {
		return err
	}
	if err := l.clear(ctx, benchDB, limitDB); err != nil {
		return err
	}
	parts := []struct {
		name   string
		config config
		work   func(context.Context, *lab) error
	}{
		{"drain", config{Databases: benchDB, Channels: "root:16", Profiled: true}, profileDrain},
		{"single", config{Databases: benchDB, Channels: "root:16", Profiled: true}, profileSingle},
		{"idle", config{Databases: manyPattern, Count: l.size(300, 30), Channels: "root:16", Profiled: true}, profileIdle},
	}
	if _, err := l.copies(ctx, templateDB, l.size(300, 30)); err != nil {
		return err
	}
	for _, part := range parts {
		c, err := l.startReady(ctx, part.config)
		if err != nil {
			return err
		}
		if err := c.saveWhile(ctx, part.name, l.duration(15*time.Second, 3*time.Second), func() error { return part.work(ctx, l) }); err != nil {
			return err
		}
		if err := c.Stop(); err != nil {
			return err
		}
		if err := l.clear(ctx, benchDB); err != nil {
			return err
		}
	}
	return profileMemory(ctx, l)
}

// profileDrain keeps the runner busy for longer than the profile takes.
func profileDrain(ctx context.Context, l *lab) error {
	count := l.size(20_000, 2_000)
	if err := l.insert(ctx, benchDB, jobs{count: count}); err != nil {
		return err
	}
	return l.stub.awaitDone(ctx, count)
}

func profileSingle(ctx context.Context, l *lab) error {
	return l.alternate(ctx, l.size(1_500, 200), &lane{name: "single", databases: []string{benchDB}, priority: 10})
}

func profileIdle(ctx context.Context, l *lab) error {
	return sleep(ctx, l.duration(16*time.Second, 3*time.Second))
}

// profileMemory saves the heap with very many waiting jobs.
func profileMemory(ctx context.Context, l *lab) error {
	if err := l.backlog(ctx, benchDB, l.size(1_000_000, 50_000), 0); err != nil {
		return err
	}
	c, err := l.startReady(ctx, config{Databases: benchDB, Channels: backlogTree, Profiled: true})
	if err != nil {
		return err
	}
	return c.save(ctx, "million", "heap", "?gc=1")
}

// saveWhile saves all profiles of a time in which something is done.
func (c *caddy) saveWhile(ctx context.Context, name string, d time.Duration, work func() error) error {
	worked := make(chan error, 1)
	go func() { worked <- work() }()
	err := c.save(ctx, name, "profile", fmt.Sprintf("?seconds=%d", int(d.Seconds())))
	if workErr := <-worked; err == nil {
		err = workErr
	}
	for _, kind := range []string{"heap", "allocs", "block", "mutex", "goroutine"} {
		if err == nil {
			err = c.save(ctx, name, kind, "")
		}
	}
	return err
}

// save writes one profile.
func (c *caddy) save(ctx context.Context, name, kind, query string) error {
	body, err := c.get(ctx, "/debug/pprof/"+kind+query)
	if err != nil {
		return err
	}
	if kind == "profile" {
		kind = "cpu"
	}
	file := filepath.Join(c.lab.profile, name+"-"+kind+".pprof")
	if err := os.WriteFile(file, body, 0o644); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	say("   %s", file)
	return nil
}
