package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// An outage lasts until the database has been served for longer than outageMemory.
func TestOutages(t *testing.T) {
	began := time.Unix(1e9, 0)
	o := outages{by: make(map[string]*outage)}
	at := func(after time.Duration, served bool) time.Time {
		o.observe("prod", served, began.Add(after))
		return o.since("prod")
	}
	require.True(t, at(-time.Hour, true).IsZero(), "it is served")
	require.Equal(t, began, at(0, false))
	require.Equal(t, began, at(time.Second, true))
	require.Equal(t, began, at(2*time.Second, true))
	require.Equal(t, began, at(time.Second+outageMemory, false), "the same outage goes on")
	require.Equal(t, began, at(time.Hour, false))
	require.Equal(t, began, at(time.Hour+1, true))
	require.Equal(t, began, at(time.Hour+1+outageMemory, true))
	require.True(t, at(time.Hour+2+outageMemory, true).IsZero())
	require.Empty(t, o.by)

	require.Equal(t, began, at(0, false))
	require.Equal(t, began, at(time.Second, true))
	again := time.Second + outageMemory + 1
	require.Equal(t, began.Add(again), at(again, false), "that is another one")
	require.True(t, o.since("other").IsZero())
	o.keep(map[string]bool{"prod": true})
	require.Len(t, o.by, 1)
	o.keep(nil)
	require.Empty(t, o.by)
}

// Each event that tells of a database's state counts, for the runner that it names, and no other event.
func TestObserve(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := &Runner{outages: outages{by: make(map[string]*outage)}}
	observed.set("test", r)
	defer observed.drop("test", r)
	for _, kind := range []runner.EventKind{
		runner.EventDatabaseHeld, runner.EventDatabaseLost, runner.EventDatabaseUnhealthy, runner.EventDatabaseStandby,
	} {
		Observe(runner.Event{Kind: kind, Runner: "test", Database: "prod", Time: now})
		require.Equal(t, now, r.outages.since("prod"), kind)
		r.outages.keep(nil)
	}
	Observe(runner.Event{Kind: runner.EventJobDone, Runner: "test", Database: "prod", Time: now})
	Observe(runner.Event{Kind: runner.EventDatabaseHeld, Runner: "test", Time: now})
	Observe(runner.Event{Kind: runner.EventDatabaseHeld, Runner: "nobody", Database: "prod", Time: now})
	require.Empty(t, r.outages.by)
	Observe(runner.Event{Kind: runner.EventDatabaseHeld, Runner: "test", Database: "prod", Time: now})
	Observe(runner.Event{Kind: runner.EventDatabaseReady, Runner: "test", Database: "prod", Time: now})
	require.False(t, r.outages.by["prod"].served.IsZero())

	next := &Runner{}
	observed.set("test", next)
	observed.drop("test", r)
	require.Same(t, next, observed.get("test"), "it has taken the name")
	observed.drop("test", next)
	require.Nil(t, observed.get("test"))
}

// What waits in no queue counts for the leader alone, and never makes what waits in one look younger.
func TestOldestOfJobsInNoQueue(t *testing.T) {
	now := time.Unix(1e9, 0)
	ask := func(change func(*runner.Status)) time.Time {
		r := &Runner{outages: outages{by: map[string]*outage{"b": {since: now.Add(-time.Hour)}}}}
		st := runner.Status{
			Leader: true,
			Databases: []runner.DatabaseStatus{
				{Name: "a", State: runner.DatabaseHeld, Pending: 1}, {Name: "b", State: runner.DatabaseHeld, Pending: 1},
			},
			Counts:   []channels.Count{{DB: "b", Channel: "root", Pending: 1}, {DB: "a", Channel: "root", Pending: 1}},
			Channels: []runner.ChannelStatus{{Status: channels.Status{FullName: "root"}}},
		}
		change(&st)
		r.wait(&st, now)
		require.Equal(t, st.Leader, r.outages.by["a"] != nil)
		return st.Channels[0].Oldest
	}
	require.Equal(t, now.Add(-time.Hour), ask(func(*runner.Status) {}), "the longest outage")
	require.True(t, ask(func(st *runner.Status) { st.Leader = false }).IsZero())
	require.Equal(t, now, ask(func(st *runner.Status) { st.Databases[1].Pending = 0 }))
	require.Equal(t, now, ask(func(st *runner.Status) { st.Counts[0].Pending = 0 }))
	older, younger := now.Add(-2*time.Hour), now.Add(-time.Minute)
	require.Equal(t, older, ask(func(st *runner.Status) { st.Channels[0].Oldest = older }))
	require.Equal(t, now.Add(-time.Hour), ask(func(st *runner.Status) { st.Channels[0].Oldest = younger }))
	require.Equal(t, now.Add(-time.Hour), ask(func(st *runner.Status) { slices.Reverse(st.Counts) }))
	require.Equal(t, younger, ask(func(st *runner.Status) {
		st.Channels[0].FullName, st.Channels[0].Oldest = "root.other", younger
	}))
	require.True(t, ask(func(st *runner.Status) { st.Channels[0].FullName = "root.other" }).IsZero())
}

func TestFailsOn(t *testing.T) {
	for on, want := range map[runner.Health][3]bool{
		runner.Ready: {false, false, true}, runner.NotReady: {false, false, true}, runner.Degraded: {false, true, true},
	} {
		r := &Runner{}
		r.use(&Member{FailsOn: on})
		require.Equal(t, want, [3]bool{r.Fails(runner.Ready), r.Fails(runner.Degraded), r.Fails(runner.NotReady)}, on)
	}
}

// refusing is an engine that does not take orders.
type refusing struct {
	obedient
	err error
}

func (e *refusing) Control(ctx context.Context, c runner.Controls) error {
	if e.err != nil {
		return e.err
	}
	return e.obedient.Control(ctx, c)
}

// An order that the engine refuses is neither in force nor stored. What is in force is put into force
// again and again, and only what a stopped engine says is no news.
func TestOrdersThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, engine := &memory{}, &refusing{}
		core, logs := observer.New(zap.WarnLevel)
		r := newRunner("default", engine, store, zap.New(core))
		defer r.stop()
		order := func(c runner.Controls) runner.Controls { return c.WithDrain(runner.Drain{Upstream: "http://a"}) }
		engine.err = errors.New("no")
		unsaved, err := r.Order(t.Context(), order)
		require.ErrorIs(t, err, engine.err)
		require.NoError(t, unsaved)
		require.Empty(t, store.text())
		require.Empty(t, r.now.Drains)
		r.sync(t.Context())
		require.Equal(t, 1, logs.Len())
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		r.sync(ended)
		engine.err = runner.ErrStopped
		r.sync(t.Context())
		require.Equal(t, 1, logs.FilterMessage("pauses and drains could not be put into force").Len())
		engine.err = nil
		_, err = r.Order(t.Context(), order)
		require.NoError(t, err)
		require.Contains(t, store.text(), "http://a")
		require.Len(t, engine.told().Drains, 1)
	})
}

// What is stored may be anything: it is bounded, and a complaint that ends can be made again.
func TestStoredControlsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var doc document
		for i := range ControlsLimit + 1 {
			name := strings.Repeat("x", i)
			doc.Pauses, doc.Drains = append(doc.Pauses, pause{Channel: "root." + name}), append(doc.Drains, drain{Upstream: name})
		}
		raw, err := json.Marshal(doc)
		require.NoError(t, err)
		store := &memory{doc: raw}
		core, logs := observer.New(zap.WarnLevel)
		engine := &obedient{}
		r := newRunner("default", engine, store, zap.New(core))
		defer r.stop()
		require.Len(t, engine.told().Pauses, ControlsLimit)
		require.Len(t, engine.told().Drains, ControlsLimit)
		set := func(doc []byte) {
			store.mu.Lock()
			defer store.mu.Unlock()
			store.doc = doc
		}
		large := append([]byte("{}"), []byte(strings.Repeat(" ", controlsSize-2))...)
		for _, c := range []struct {
			doc        []byte
			drains     int
			complaints int
		}{
			{append(large, ' '), ControlsLimit, 1}, {append(large, ' '), ControlsLimit, 1}, {large, 0, 1}, {append(large, ' '), 0, 2},
		} {
			set(c.doc)
			r.sync(t.Context())
			require.Len(t, engine.told().Drains, c.drains)
			require.Equal(t, c.complaints, logs.Len())
		}
	})
}

// Two nodes that share a storage do not undo each other's orders, also after an outage of the storage.
func TestOrdersOfTwoNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		core, logs := observer.New(zap.WarnLevel)
		a, b := newRunner("default", &obedient{}, store, zap.New(core)), newRunner("default", &obedient{}, store, zap.New(core))
		defer a.stop()
		defer b.stop()
		drain := func(r *Runner, upstream string) (error, error) {
			return r.Order(t.Context(), func(c runner.Controls) runner.Controls { return c.WithDrain(runner.Drain{Upstream: upstream}) })
		}
		drains := func(r *Runner) int {
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.now.Drains)
		}
		for i, r := range []*Runner{a, b} {
			unsaved, err := drain(r, strings.Repeat("x", i+1))
			require.NoError(t, errors.Join(unsaved, err))
		}
		require.Equal(t, 2, drains(b))

		store.mu.Lock()
		store.err = errors.New("down")
		store.mu.Unlock()
		for _, upstream := range []string{"y", "z"} {
			unsaved, err := drain(b, upstream)
			require.NoError(t, err)
			require.Error(t, unsaved)
		}
		require.Equal(t, 4, drains(b), "what is not stored is not replaced by what is")
		require.Equal(t, 1, logs.Len())
		store.repair()
		<-time.After(2 * controlsInterval)
		require.Equal(t, 4, drains(a))
		_, err := a.Order(t.Context(), func(runner.Controls) runner.Controls { return runner.Controls{} })
		require.NoError(t, err)
		<-time.After(2 * controlsInterval)
		require.Zero(t, drains(b), "what was stored later counts")
		require.NotContains(t, store.text(), "x")
	})
}
