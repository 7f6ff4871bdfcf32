package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

func channelsAll(_ context.Context, l *lab) error {
	for _, jobs := range []int{pick(l.bench, 100_000, 10_000), pick(l.bench, 1_000_000, 20_000)} {
		if err := compareTrees(l.bench, jobs, pick(l.bench, 100_000, 2_000)); err != nil {
			return err
		}
	}
	return nil
}

// compareTrees compares two trees with the same jobs, in short turns.
func compareTrees(b *bench, count, many int) error {
	const few = 10
	small, err := newTree(count, few)
	if err != nil {
		return err
	}
	large, err := newTree(count, many)
	if err != nil {
		return err
	}
	runtime.GC()
	const turns, changes = 100, 1_000
	for range b.runs {
		var of [2]time.Duration
		for turn := range turns {
			for k := range 2 {
				which := (turn + k) % 2
				d, err := []*tree{small, large}[which].change(changes)
				if err != nil {
					return err
				}
				of[which] += d
			}
		}
		per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / (turns * changes) }
		r := b.report
		r.add(fmt.Sprintf("a change of %d jobs in %d channels", count, few), "ns", 0, nil, per(of[0]))
		r.add(fmt.Sprintf("a change of %d jobs in %d channels", count, many), "ns", 0, nil, per(of[1]))
		r.add(fmt.Sprintf("%d jobs, ratio of %d channels to %d", count, many, few), "", 2, atMost(1.5), per(of[1])/per(of[0]))
	}
	return nil
}

// tree is a scheduler whose root is full, with many jobs that wait.
type tree struct {
	manager *channels.Manager
	running []channels.Key
	now     time.Time
}

const treeCapacity = 8

func newTree(count, channelCount int) (*tree, error) {
	t := &tree{manager: channels.NewManager(), now: time.Unix(1, 0)}
	// Of those that only rows name, most would share one.
	configured := []channels.Config{{Name: "root", Capacity: treeCapacity}}
	for i := range channelCount {
		configured = append(configured, channels.Config{Name: fmt.Sprintf("root.c%d", i)})
	}
	if err := t.manager.Configure(configured); err != nil {
		return nil, fmt.Errorf("configuring the channels: %w", err)
	}
	for i := range count {
		t.manager.Set(channels.Job{
			// Scattered like the random uuids of real jobs.
			Key:      channels.Key{DB: "db", UUID: fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(i)*2654435761, i)},
			Channel:  fmt.Sprintf("root.c%d", i%channelCount),
			ID:       int64(i + 1),
			Priority: int32(i*7919) % 20,
			Created:  int64(i),
		}, channels.Pending)
	}
	t.running = t.manager.Next(t.now, 0)
	return t, nil
}

// change is what a busy runner does all the time: a job ends, the next one starts. What ended comes
// again, so that the queue stays as long as it is.
func (t *tree) change(n int) (time.Duration, error) {
	began := time.Now()
	for range n {
		j, _, ok := t.manager.Lookup(t.running[0])
		if !ok {
			return 0, errors.New("a running job is unknown")
		}
		t.manager.Set(j, channels.Done)
		j.Created++
		t.manager.Set(j, channels.Pending)
		t.running = append(t.running[1:], t.manager.Next(t.now, 0)...)
	}
	if len(t.running) != treeCapacity {
		return 0, fmt.Errorf("%d jobs run instead of %d", len(t.running), treeCapacity)
	}
	return time.Since(began), nil
}
