package runner

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// A configuration that an engine does not take any more is that of the next one, unless the runner has
// been stopped.
func TestReconfigureWhileTheEngineEnds(t *testing.T) {
	for name, stopped := range map[string]bool{"panicked": false, "stopped": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{
					Name: "default", Postgres: &pgx.ConnConfig{}, Driver: well{}, Targets: pair{},
					Channels: []channels.Config{{Name: "root", Capacity: 1}},
				}
				r, err := New(cfg)
				require.NoError(t, err)
				defer r.quit()
				r.engine.Store(newEngine(r.config))
				cfg.Channels = []channels.Config{{Name: "root", Capacity: 2}}
				done := make(chan error)
				go func() { done <- r.Reconfigure(cfg) }()
				synctest.Wait()
				if stopped {
					r.quit()
				}
				r.engine.Load().mail.close()
				err = <-done
				if stopped {
					require.ErrorIs(t, err, ErrStopped)
					require.Equal(t, 1, r.config().Channels[0].Capacity)
					return
				}
				require.NoError(t, err)
				require.Equal(t, 2, r.config().Channels[0].Capacity)
			})
		})
	}
}

// That a database names too many channels is said once a minute.
func TestSharedChannelsAreTold(t *testing.T) {
	t.Parallel()
	e, _, logs := telling()
	for i := range channels.NamesPerDatabase + 1 {
		name := "n" + strconv.Itoa(i)
		e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: name}, Channel: name}, channels.Pending)
	}
	require.Positive(t, e.tree.Sharing("prod"))
	now := time.Now()
	for _, c := range []struct {
		after  time.Duration
		checks bool
		logged int
	}{
		{0, true, 1},
		{sharingInterval - 1, true, 1},
		{sharingInterval, true, 2},
		{sharingInterval + sharingCheck - 1, false, 2},
		{sharingInterval + sharingCheck, true, 2},
	} {
		at := now.Add(c.after)
		if c.after == sharingInterval {
			e.databases.sharingAt = at
		}
		before := e.databases.sharingAt
		e.databases.tellSharing(at)
		require.Equal(t, c.checks, !e.databases.sharingAt.Equal(before), c.after)
		require.Equal(t, c.logged, logs.FilterMessageSnippet("more channels").Len(), c.after)
	}
}
