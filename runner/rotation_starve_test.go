package runner_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// TestCheckIsNoTrap: databases that are to be checked wait for connections that others with jobs
// without end have. A job that is written to one of them meanwhile does not wait for longer than it
// would in a database that sleeps.
func TestCheckIsNoTrap(t *testing.T) {
	inBubble(t, func(b *bench) {
		names := b.many(9)
		b.LimitConnections(1000, 0)
		b.SetPlan(mock.Plan{RunFor: time.Second})
		for i := range 3000 {
			for _, name := range names[:3] {
				b.one(name, fmt.Sprintf("job%d", i))
			}
		}
		cfg := b.config("root:3")
		cfg.Connections = 5 // three sessions
		b.start(cfg)
		b.settle(3 * time.Minute) // the checks wait
		began := time.Now()
		keys := []channels.Key{b.one(names[5], "late"), b.one(names[8], "late")}
		b.settle(3 * time.Minute)
		for _, k := range keys {
			row, _ := b.Row(k)
			require.Equal(b, channels.Done, row.State, "%s", k)
			require.Less(b, row.Done.Sub(began), 90*time.Second)
		}
	})
}

// settling is a session of a database in which somebody may have been at work.
type settling struct {
	driver.Session
	driver.Sleeper
}

func (settling) Unsettled(context.Context) (string, bool, error) { return "", false, nil }

// TestNewDatabasesTakeNoTurn: many databases appear at the same time, and each keeps its connection until
// nobody seems to be making it any more. One with jobs does not wait for that.
func TestNewDatabasesTakeNoTurn(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("good")
		b.SetPlan(mock.Plan{RunFor: 150 * time.Millisecond})
		b.LimitConnections(1000, 0)
		cfg := b.config("root:3")
		cfg.Connections, cfg.DiscoverInterval = 7, time.Second // five sessions
		sessions(func(s driver.Session) driver.Session { return settling{s, s.(driver.Sleeper)} })(&cfg)
		r := b.start(cfg)
		b.settle(time.Minute)
		b.many(40)
		waited := time.Duration(0)
		for i := range 1800 {
			key := b.one("good", fmt.Sprintf("job%d", i))
			if i%10 > 0 {
				b.settle(100 * time.Millisecond)
				continue
			}
			began := time.Now()
			require.Eventually(b, func() bool {
				row, _ := b.Row(key)
				return row.State == channels.Done
			}, time.Hour, 50*time.Millisecond)
			waited = max(waited, time.Since(began))
		}
		require.LessOrEqual(b, waited, 200*time.Millisecond)
		require.Zero(b, b.states(r)["waiting"]+b.states(r)["connecting"], "all have been read")
	})
}
