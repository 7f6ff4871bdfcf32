package supervisor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// TestBacklogs: what waits is sampled by the leader of a runner with a history, for an hour.
func TestBacklogs(t *testing.T) {
	engine := &statusOf{status: runner.Status{Leader: true, Counts: []channels.Count{{DB: "a", Channel: "root", Pending: 3}, {DB: "a", Channel: "root.x"}}}}
	r := &Runner{Operations: engine}
	r.sample(t.Context())
	require.Empty(t, r.Backlogs(), "nothing is remembered")
	l := history.Start("backlogs", history.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	defer func() { l.Stop(); l.Wait() }()
	r.remember(l)
	for range backlogKeep + 3 {
		r.sample(t.Context())
	}
	list := r.Backlogs()
	require.Len(t, list, backlogKeep)
	require.Equal(t, map[channels.ID]int{{DB: "a", Channel: "root"}: 3}, list[0].Waiting)
	require.WithinDuration(t, time.Now(), list[0].At, time.Minute)
	require.Nil(t, list[0].Later, "too many wait for their eta")
	engine.coming = []channels.Coming{{DB: "a", Channel: "root", Jobs: 2}, {DB: "a", Channel: "root", Minutes: 1, Jobs: 5}}
	r.sample(t.Context())
	last := r.Backlogs()[backlogKeep-1]
	require.Equal(t, map[channels.ID]int{{DB: "a", Channel: "root"}: 7}, last.Later)
	require.Equal(t, map[channels.ID]int{{DB: "a", Channel: "root"}: 2}, last.Due)
	engine.status.Leader = false
	r.sample(t.Context())
	require.Empty(t, r.Backlogs(), "another node knows")
}

// TestBacklogsThatAreNotKnown: there are none of a runner that does not answer, is taking over, or has more
// channels than are kept, and they begin anew.
func TestBacklogsThatAreNotKnown(t *testing.T) {
	l := history.Start("unknown backlogs", history.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	defer func() { l.Stop(); l.Wait() }()
	leads := runner.Status{Leader: true, Counts: []channels.Count{{DB: "a", Channel: "root", Pending: 1}}}
	for name, c := range map[string]struct {
		status      runner.Status
		err, coming error
		want        int
	}{
		"it leads":            {leads, nil, nil, 2},
		"no answer":           {leads, errors.New("stopped"), nil, 0},
		"half an answer":      {leads, nil, errors.New("stopped"), 0},
		"another one leads":   {runner.Status{Counts: leads.Counts}, nil, errors.New("not asked"), 0},
		"taking over":         {runner.Status{Leader: true, TakingOver: true, Counts: leads.Counts}, nil, nil, 0},
		"as many as are kept": {runner.Status{Leader: true, Counts: make([]channels.Count, backlogLimit)}, nil, nil, 2},
		"too many channels":   {runner.Status{Leader: true, Counts: make([]channels.Count, backlogLimit+1)}, nil, nil, 0},
	} {
		engine := &statusOf{status: leads}
		r := &Runner{Operations: engine}
		r.remember(l)
		r.sample(t.Context())
		require.Len(t, r.Backlogs(), 1, name)
		engine.status, engine.err, engine.comingErr = c.status, c.err, c.coming
		r.sample(t.Context())
		require.Len(t, r.Backlogs(), c.want, name)
	}
}

// leading is an engine that leads.
type leading struct{ obedient }

func (*leading) Status(context.Context) (runner.Status, error) {
	return runner.Status{Leader: true}, nil
}

func (*leading) Coming(context.Context, int) ([]channels.Coming, bool, error) { return nil, true, nil }

// TestBacklogsInTime: there is a sample soon after the start, and then one in each minute.
func TestBacklogsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner("default", &leading{}, &memory{}, zap.NewNop())
		defer r.stop()
		r.remember(new(history.Log))
		began := time.Now()
		<-time.After(10 * time.Minute)
		list := r.Backlogs()
		require.Len(t, list, 10)
		for i, b := range list {
			require.Equal(t, began.Add(controlsInterval+time.Duration(i)*backlogInterval), b.At)
		}
	})
}
