package runner_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// running inserts jobs that another node has left running.
func (b *bench) running(db string, n int) (keys []channels.Key) {
	now := time.Now().UnixMicro()
	for i := range n {
		keys = append(keys, b.one(db, fmt.Sprintf("running%d", i), func(j *mock.Job) {
			j.State, j.Enqueued, j.LockRow, j.LockPID = channels.Started, now, true, 7
		}))
	}
	return keys
}

// A new leader waits for a database that has stumbled, too: it may still tell of jobs that run.
func TestTakeOverWaitsForADatabaseThatStumbles(t *testing.T) {
	for name, fault := range map[string]func(*bench){
		"unreachable": func(b *bench) { b.Fault("slow", func(f *mock.Faults) { f.OpenErr = errFault }) },
		"snapshot":    func(b *bench) { b.Fault("slow", func(f *mock.Faults) { f.SnapshotErr = errFault }) },
		"unhealthy":   func(b *bench) { b.Unhealthy("slow", "the trigger is missing") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("slow", "fast")
				left := b.running("slow", 2)
				keys := b.jobs("fast", "", "a", 10)
				fault(b)
				r := b.start(b.config("root:2"))
				b.Fault("slow", func(f *mock.Faults) { *f = mock.Faults{} })
				b.settle(3 * time.Second)
				require.Equal(b, 2, b.status(r).Watched)
				require.Empty(b, b.Runs(), "all slots are taken")
				for _, k := range left {
					b.SetState(k, channels.Done)
				}
				b.settle(time.Minute)
				b.requireRanOnce(keys...)
				b.requireIdle(r)
			})
		})
	}
}

// Nor does a leader that comes back trust what it knew: another one may have led meanwhile.
func TestTakeOverAfterALossOfBothConnections(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("slow", "fast")
		r := b.start(b.config("root:2"))
		b.settle(10 * time.Second)
		b.Fault("slow", func(f *mock.Faults) { f.OpenErr = errFault })
		b.Down()
		left := b.running("slow", 2)
		keys := b.jobs("fast", "", "a", 10)
		b.settle(2 * time.Second)
		b.Up()
		for !b.status(r).Leader {
			b.settle(100 * time.Millisecond)
		}
		b.Fault("slow", func(f *mock.Faults) { *f = mock.Faults{} })
		b.settle(4 * time.Second)
		require.Empty(b, b.Runs(), "all slots are taken")
		for _, k := range left {
			b.SetState(k, channels.Done)
		}
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		b.requireIdle(r)
	})
}
