package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/forecast"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// office is a runner of which tests say what runs.
type office struct {
	fakerunner.Engine
	tasks  []runner.TaskStatus
	coming []channels.Coming
}

func (o *office) Coming(_ context.Context, limit int) ([]channels.Coming, bool, error) {
	return o.coming, limit == forecastLimit && o.coming != nil, nil
}

func (o *office) Tasks(context.Context) ([]runner.TaskStatus, error) { return o.tasks, nil }

// TestForecast: of each channel it is said when none of its jobs will wait, with what that assumes; a
// stand-by says who knows.
func TestForecast(t *testing.T) {
	now := time.Now()
	e := &office{tasks: []runner.TaskStatus{{Key: channels.Key{DB: "prod"}, Channel: "root.mail", Since: now.Add(-time.Second)}}}
	e.Says = runner.Status{
		Leader: true, Counts: []channels.Count{{DB: "prod", Channel: "root.mail", Pending: 30}, {DB: "shut", Channel: "root.shut", Pending: 2}},
		Databases: []runner.DatabaseStatus{
			{Name: "prod", State: runner.DatabaseReady, Connected: now, Heard: now.Add(time.Hour)}, {Name: "shut", State: runner.DatabaseReady, Connected: now, Heard: now.Add(time.Hour), Pause: &runner.Pause{}},
		},
	}
	k := fakerunner.RunWith(t, "default", e, zap.NewNop(), &history.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	ask := func() (int, api.Forecast, string) {
		_, w := fakerunner.Ask(t, adminMux("forecast"), http.MethodGet, "/jobrunner/forecast", nil, nil)
		var doc api.Forecast
		_ = json.Unmarshal(w.Body.Bytes(), &doc) // of an error, only the text counts
		return w.Code, doc, w.Body.String()
	}
	status, doc, body := ask()
	require.Equal(t, http.StatusOK, status, body)
	require.Equal(t, "unknown", doc.Channels[0].Verdict)
	queue(t, "default", 60, 10*time.Second)
	require.Eventually(t, func() bool {
		r, err := k.History().Recording(t.Context(), now.Add(-time.Hour), now)
		return err == nil && len(r.Attempts) == 60
	}, time.Minute, 10*time.Millisecond)
	_, doc, body = ask()
	require.Len(t, doc.Channels, 3, body)
	mail, shut := doc.Channels[1], doc.Channels[2]
	require.Equal(t, "drains", mail.Verdict)
	require.Equal(t, 30, mail.Waiting)
	require.InDelta(t, 300, *mail.In, 30)
	require.Equal(t, "never", shut.Verdict, "its database is paused")
	require.Contains(t, doc.Assumes[1], "those that wait for their eta could run now")
	require.Contains(t, doc.Assumes[2], "no more jobs come")
	e.coming = []channels.Coming{{DB: "prod", Channel: "root.mail", Minutes: 5, Jobs: 7}, {DB: "prod", Channel: "root.mail", Minutes: 700, Jobs: 8}, {DB: "prod", Channel: "root", Jobs: 2}}
	_, doc, body = ask()
	require.Len(t, doc.Assumes, 2)
	require.Equal(t, "root.mail", doc.Channels[1].Channel)
	require.Equal(t, 15, doc.Channels[1].Waiting, body)
	require.Equal(t, 15, doc.Channels[1].Scheduled)
	require.InDelta(t, 150, *doc.Channels[1].In, 20)
	require.Equal(t, 17, doc.Channels[0].Scheduled)
	require.Equal(t, 17, doc.Channels[0].Waiting, "no fewer than none in root itself")

	e.Says.Channels = []runner.ChannelStatus{{Status: channels.Status{FullName: "root", Stopped: true}}}
	_, doc, _ = ask()
	require.Equal(t, "never", doc.Channels[1].Verdict)
	e.Says.Channels, e.Says.Controls = nil, runner.Controls{Pauses: []runner.Pause{{}}}
	_, doc, _ = ask()
	require.Equal(t, "never", doc.Channels[1].Verdict)
	e.Says.Counts[0].Pending = forecastLimit + 1
	status, _, body = ask()
	require.Equal(t, http.StatusConflict, status)
	require.Contains(t, body, "no forecast is made")
	e.Says.Leader, e.Says.LeaderDetail = false, "node-b"
	status, _, body = ask()
	require.Equal(t, http.StatusConflict, status)
	require.Contains(t, body, "ask the leader: node-b")
}

// TestArrivals: how many jobs came in a minute is what was sent, and what waits in addition.
func TestArrivals(t *testing.T) {
	began := time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)
	id := channels.ID{DB: "prod", Channel: "root.mail"}
	at := forecast.Place{Database: "prod", Channel: "root.mail"}
	var samples []supervisor.Backlog
	for i, n := range []int{10, 7, 7, 100} {
		samples = append(samples, supervisor.Backlog{At: began.Add(time.Duration(i) * time.Minute), Waiting: map[channels.ID]int{id: n}})
	}
	var p forecast.Present
	for i := range 3 * 5 { // five a minute
		p.Recent = append(p.Recent, forecast.Job{Database: "prod", Channel: "root.mail", Sent: began.Add(time.Duration(12*i+1) * time.Second)})
	}
	p.Running = []forecast.Job{{Database: "prod", Channel: "root.mail", Sent: began.Add(90 * time.Second)}, {Sent: began.Add(time.Hour)}}
	arrivals(&p, samples)
	require.Equal(t, 3, p.Minutes)
	require.Equal(t, map[forecast.Place][]int{at: {2, 6, 98}}, p.Arrived)
	p.Arrived = nil
	samples[1].Later, samples[1].Due = map[channels.ID]int{id: 3}, map[channels.ID]int{id: 2}
	samples[2].Later, samples[2].Due = map[channels.ID]int{id: 5}, map[channels.ID]int{}
	arrivals(&p, samples)
	require.Equal(t, map[forecast.Place][]int{at: {2, 2, 98}}, p.Arrived, "two of six got an eta, and two more had one")
	require.Equal(t, map[forecast.Place][]int{at: {0, 2, 0}}, p.Due)
	p.Arrived = nil
	arrivals(&p, samples[:3])
	require.Zero(t, p.Minutes)
	require.Nil(t, p.Arrived)
}

// TestPresentTree: root has no more slots than the servers bear.
func TestPresentTree(t *testing.T) {
	st := &runner.Status{
		Channels:  []runner.ChannelStatus{{Status: channels.Status{FullName: "root", Capacity: 8}}},
		Upstreams: []runner.UpstreamStatus{{Up: true}, {Up: false}, {Up: true, Drain: &runner.Drain{}}},
	}
	cfg := runner.Config{Channels: []channels.Config{{Name: "root", Capacity: 8}}}
	require.Equal(t, 8, capacitiesOf(presentTree(cfg, st, time.Now()))[channels.ID{Channel: "root"}], "nothing is known of the servers")
	st.Upstreams[0].Limits.MaxJobs = 3
	require.Equal(t, 3, capacitiesOf(presentTree(cfg, st, time.Now()))[channels.ID{Channel: "root"}])
}
