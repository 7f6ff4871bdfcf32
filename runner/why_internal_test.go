package runner

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// The pause after an attempt that came to nothing is why a job waits as long as it lasts. If the
// job waits for longer, it is for its eta.
func TestWhyOfADelay(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	key := channels.Key{DB: "prod", UUID: "a"}
	for name, c := range map[string]struct {
		until   time.Time
		suspect bool
		want    string
	}{
		"it lasts":                {now.Add(time.Microsecond), false, WhyRetryDelay},
		"it is over":              {now, false, channels.ReasonETA.String()},
		"it lasts, and a suspect": {now.Add(time.Microsecond), true, WhySuspected},
		"it is over, and suspect": {now, true, channels.ReasonETA.String()},
	} {
		e := quarantining()
		e.delays[key] = delay{until: c.until.UnixMicro()}
		if c.suspect {
			e.setbacks.add(key, Setback{At: now.Add(-time.Second), Shared: true}, time.Hour)
		}
		w := Why{Key: key}
		w.queued(e, channels.Explanation{Reason: channels.ReasonETA, Until: now.Add(time.Hour)}, now)
		require.Equal(t, c.want, w.Code, name)
	}
}

// Only a job that has had setbacks is told how many it may have.
func TestWhyWithoutSetbacks(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	key := channels.Key{DB: "prod", UUID: "a"}
	e := quarantining()
	w := Why{Key: key, Code: WhyClaiming, Text: "the job is being claimed"}
	w.setbacks(e, now)
	require.Equal(t, "the job is being claimed", w.Text)
	e.setbacks.add(key, Setback{At: now.Add(-time.Second)}, time.Hour)
	w.setbacks(e, now)
	require.Equal(t, "the job is being claimed; 1 attempt came to nothing within 1h, and a job with 3 is quarantined", w.Text)
}

// What the configuration pauses is a channel, or all of a database that may have no slot.
func TestWhyOfAConfiguredPause(t *testing.T) {
	t.Parallel()
	all := "nothing runs in database prod: its db_max_capacity, or without one max_capacity, is 0"
	for name, c := range map[string]struct {
		own     *channels.Capacities
		channel string
		says    string
	}{
		"a channel":               {nil, "root.a", "channel root.a is paused by its configuration"},
		"root":                    {nil, "root", "channel root is paused by its configuration"},
		"of a database":           {&channels.Capacities{Max: 1}, "root", "channel root is paused by its configuration"},
		"without slots":           {&channels.Capacities{}, "root", all},
		"a channel, and no slots": {&channels.Capacities{}, "root.a", "channel root.a is paused by its configuration"},
	} {
		e, _ := served()
		e.with(func(cfg *Config) { cfg.DatabaseChannels = c.own })
		w := Why{Key: channels.Key{DB: "prod", UUID: "a"}}
		w.queued(e, channels.Explanation{Reason: channels.ReasonPaused, Channel: c.channel}, time.Now())
		require.Equal(t, WhyPausedConfig, w.Code, name)
		require.Equal(t, c.says, w.Text, name)
	}
}

// Why a job finds no room is said of the servers of its pool, and of those that stand in for them.
func TestWhyThereIsNoRoomInAPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		visitors := new(atomic.Int32)
		visitors.Store(4)
		for _, down := range []bool{false, true} {
			e := pooling(t, visitors)
			if down {
				e.pool.Suspect("odooheavy", errors.New("gone"))
			}
			w := Why{Key: channels.Key{DB: "prod", UUID: "a"}}
			w.noRoom(e, &channels.Explanation{Gate: upstream.Class{Pool: "heavy", Fallback: true}.String()})
			require.Equal(t, WhyNoServer, w.Code)
			require.Contains(t, w.Text, "odooheavy: ")
			require.Equal(t, down, strings.Contains(w.Text, "odoo: "), w.Text)
			require.Equal(t, down, strings.Contains(w.Text, "of pool heavy, or that belongs to none, takes"), w.Text)
			require.NotContains(t, w.Text, "odoolight: ")
		}
	})
}
