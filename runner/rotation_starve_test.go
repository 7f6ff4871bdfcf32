package runner_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
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
