package supervisor

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// TestJobsInNoQueueWait: jobs of a database that is not served have waited since its outage began,
// also if it is tried again in between.
func TestJobsInNoQueueWait(t *testing.T) {
	began := time.Unix(1e9, 0)
	r := &Runner{outages: outages{by: make(map[string]*outage)}}
	st := runner.Status{
		Leader: true,
		Databases: []runner.DatabaseStatus{
			{Name: "held", State: runner.DatabaseHeld, Pending: 12},
			{Name: "paused", State: runner.DatabaseReady, Connected: began, Heard: began.Add(9 * time.Hour), Pending: 1, Pause: &runner.Pause{Since: began.Add(-time.Hour)}},
			{Name: "fine", State: runner.DatabaseReady, Connected: began, Heard: began.Add(9 * time.Hour), Pending: 1},
		},
		Counts: []channels.Count{{DB: "held", Channel: "root.a", Pending: 12}, {DB: "paused", Channel: "root.b", Pending: 1}, {DB: "fine", Channel: "root.c", Pending: 1}},
	}
	ask := func(at time.Time) map[string]time.Time {
		st.Channels = nil
		for _, name := range []string{"root.a", "root.b", "root.c"} {
			st.Channels = append(st.Channels, runner.ChannelStatus{Status: channels.Status{FullName: name}})
		}
		r.wait(&st, at)
		oldest := make(map[string]time.Time)
		for _, c := range st.Channels {
			oldest[c.FullName] = c.Oldest
		}
		return oldest
	}
	observed.set("test", r)
	defer observed.drop("test", r)
	Observe(runner.Event{Kind: runner.EventDatabaseHeld, Runner: "test", Database: "held", Time: began})
	Observe(runner.Event{Kind: runner.EventDatabaseReady, Runner: "test", Database: "held", Time: began.Add(10 * time.Second)})
	Observe(runner.Event{Kind: runner.EventDatabaseHeld, Runner: "test", Database: "held", Time: began.Add(11 * time.Second)})
	require.Equal(t, map[string]time.Time{"root.a": began, "root.b": began.Add(-time.Hour), "root.c": {}}, ask(began.Add(time.Hour)))

	st.DatabaseChannels = true
	require.Zero(t, ask(began.Add(time.Hour))["root.a"], "the tree of another database")
	st.DatabaseChannels = false

	st.Databases[0] = runner.DatabaseStatus{Name: "held", State: runner.DatabaseReady, Connected: began, Heard: began.Add(9 * time.Hour), Pending: 12}
	require.Zero(t, ask(began.Add(time.Hour))["root.a"])
	require.Zero(t, ask(began.Add(time.Hour + 2*outageMemory))["root.a"])
	require.Empty(t, r.outages.by, "it has been served long enough")
	st.Databases[0].State = runner.DatabaseHeld
	require.Equal(t, began.Add(2*time.Hour), ask(began.Add(2 * time.Hour))["root.a"], "that is another outage")
	st.Databases = st.Databases[1:]
	ask(began.Add(3 * time.Hour))
	require.Empty(t, r.outages.by, "what is not there any more is forgotten")
	require.Nil(t, observed.get("other"))
}

// statusOf is an engine that has only a status.
type statusOf struct {
	Operations
	status runner.Status
	err    error
	coming []channels.Coming
	// comingErr is what asking for these ends with.
	comingErr error
}

func (s *statusOf) Coming(context.Context, int) ([]channels.Coming, bool, error) {
	return s.coming, s.coming != nil, s.comingErr
}

func (s *statusOf) Status(context.Context) (runner.Status, error) { return s.status, s.err }

// TestStatusWithWhatWaits: the engine's status comes with what waits, and not at all if there is none.
func TestStatusWithWhatWaits(t *testing.T) {
	began := time.Unix(1e9, 0)
	engine := &statusOf{status: runner.Status{
		Leader: true, Databases: []runner.DatabaseStatus{{Name: "prod", State: runner.DatabaseReady, Pending: 1, Pause: &runner.Pause{Since: began}}},
		Counts:   []channels.Count{{DB: "prod", Channel: "root", Pending: 1}},
		Channels: []runner.ChannelStatus{{Status: channels.Status{FullName: "root"}}},
	}}
	now := time.Now()
	engine.status.Databases[0].Connected, engine.status.Databases[0].Heard = began, now.Add(time.Hour)
	r := &Runner{Operations: engine, outages: outages{by: make(map[string]*outage)}}
	st, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, began, st.Channels[0].Oldest)

	engine.err = errors.New("busy")
	engine.status.Channels[0].Oldest = time.Time{}
	st, err = r.Status(t.Context())
	require.ErrorIs(t, err, engine.err)
	require.Zero(t, st.Channels[0].Oldest)
}

// TestOutagesWhileAnotherNodeLeads: what has been observed of a database that still exists is kept.
func TestOutagesWhileAnotherNodeLeads(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := &Runner{outages: outages{by: map[string]*outage{"a": {since: now}, "b": {since: now}, "gone": {since: now}}}}
	r.wait(&runner.Status{Databases: []runner.DatabaseStatus{{Name: "a"}, {Name: "b"}}}, now)
	require.Len(t, r.outages.by, 2)
	require.NotContains(t, r.outages.by, "gone")
}
