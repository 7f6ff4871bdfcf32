package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// What operators order is told when it changes, and ends with its time.
func TestControlsAreTold(t *testing.T) {
	t.Parallel()
	e, db := served()
	e.control(Controls{})
	var told []string
	e.with(func(cfg *Config) {
		cfg.Events = func(ev Event) { told = append(told, string(ev.Kind)+" "+ev.Database+ev.Channel+ev.Upstream) }
	})
	now := time.Now()
	all, prod, channel := Pause{}, Pause{Database: "prod"}, Pause{Channel: "root.a"}
	noted, over := Pause{Database: "prod", Note: "why"}, Pause{Channel: "root.a", Until: now}
	for i, c := range []struct {
		pauses        []Pause
		drains        []Drain
		told          []string
		all, database bool
	}{
		{[]Pause{all}, nil, []string{"paused "}, true, false},
		{[]Pause{all}, nil, nil, true, false},
		{[]Pause{prod, channel}, nil, []string{"resumed ", "paused prod", "paused root.a"}, false, true},
		{[]Pause{noted, channel}, nil, []string{"paused prod"}, false, true},
		{[]Pause{over}, nil, []string{"resumed prod", "resumed root.a"}, false, false},
		{nil, []Drain{{Upstream: "odoo1"}}, []string{"upstream_drained odoo1"}, false, false},
		{nil, []Drain{{Upstream: "odoo1"}}, nil, false, false},
		{nil, nil, []string{"upstream_undrained odoo1"}, false, false},
	} {
		told = nil
		e.control(Controls{Pauses: c.pauses, Drains: c.drains})
		require.Equal(t, c.told, told, i)
		require.Equal(t, c.all, e.pausedAll != nil, i)
		require.Equal(t, c.database, db.pause != nil, i)
	}
}

// The next pause that ends is the first of those that end at all.
func TestWhenPausesEnd(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	require.True(t, Controls{}.expiry().IsZero())
	require.True(t, Controls{Pauses: []Pause{{}}}.expiry().IsZero())
	require.Equal(t, now, Controls{Pauses: []Pause{{Until: now.Add(1)}, {}, {Until: now}, {Until: now.Add(2)}}}.expiry())
}

// A pause, or drain, is one with that of the same thing.
func TestControlsOfTheSameThing(t *testing.T) {
	t.Parallel()
	c := Controls{}.WithPause(Pause{Channel: "a", By: "Ada"}).WithPause(Pause{Database: "a"}).WithPause(Pause{}).WithPause(Pause{Channel: "root.a", By: "Bob"})
	require.Equal(t, []Pause{{Database: "a"}, {}, {Channel: "root.a", By: "Bob"}}, c.Pauses)
	require.Equal(t, "Bob", c.pause("", "root.a").By)
	require.Nil(t, c.pause("a", "root.a"))
	less, found := c.WithoutPause(Pause{Channel: "a"})
	require.True(t, found)
	require.Len(t, less.Pauses, 2)
	require.Len(t, c.Pauses, 3, "it is as it was")
	_, found = less.WithoutPause(Pause{Channel: "a"})
	require.False(t, found)

	c = c.WithDrain(Drain{Upstream: "x"}).WithDrain(Drain{Upstream: "y"}).WithDrain(Drain{Upstream: "x", By: "Ada"})
	require.Equal(t, []Drain{{Upstream: "y"}, {Upstream: "x", By: "Ada"}}, c.Drains)
	less, found = c.WithoutDrain("x")
	require.True(t, found)
	require.Len(t, less.Drains, 1)
	_, found = less.WithoutDrain("x")
	require.False(t, found)
}

// A pause is described by what is known of it.
func TestWordsOfAPause(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	for want, p := range map[string]Pause{
		"paused":                            {},
		"paused by Ada":                     {By: "Ada"},
		"paused since 2023-11-14T22:13:20Z": {Since: at},
		"paused until 2023-11-14T22:13:20Z": {Until: at},
		"paused (a note)":                   {Note: "a note"},
	} {
		require.Equal(t, want, p.String())
	}
}

// Jobs are read anew of the databases that are served, and of those that are woken for it.
func TestWhatIsReadAnew(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for of, want := range map[string]int{"": 2, "prod": 1, "asleep": 1, "loading": 0, "closed": 0, "lost": 0, "unknown": 0} {
		e := dozing(now, now.Add(time.Hour), "asleep")
		for name, s := range map[string]stage{"prod": stageServed, "loading": stageLoading, "closed": stageServed, "lost": stageUnreachable} {
			db := &database{Database: driver.Database{Name: name}, stage: s}
			if name != "closed" {
				db.session = session.New(name, nil, nil)
			}
			e.databases.byName[name] = db
		}
		require.Equal(t, want, e.resync(of), of)
		require.Equal(t, of == "" || of == "asleep", len(awakeNow(e, "asleep")) == 1, of)
	}
}
