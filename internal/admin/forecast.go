package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/forecast"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// lately is from when on attempts tell how long jobs run, and forecastLimit bounds the jobs that wait of
	// which a forecast is made.
	lately        = time.Hour
	forecastLimit = 100_000
	// minutesLeast is for how many minutes arrivals have to be known.
	minutesLeast = 3
)

// GetForecast tells when the jobs of one runner that wait will have been started.
func GetForecast(w http.ResponseWriter, r *http.Request) error {
	q, err := Query(r, "runner")
	if err != nil {
		return err
	}
	name, k, err := OneRunner(q.Get("runner"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), api.QuestionTimeout)
	defer cancel()
	release, err := simulatingTurn(ctx, "forecast")
	if err != nil {
		return err
	}
	defer release()
	doc, err := predict(ctx, k, time.Now())
	if err != nil {
		return err
	}
	doc.Runner = name
	return Answer(w, http.StatusOK, doc)
}

func predict(ctx context.Context, k *supervisor.Runner, now time.Time) (*api.Forecast, error) {
	st, err := k.Status(ctx)
	if err != nil {
		return nil, Failure(err)
	}
	if !st.Leader {
		return nil, Error(http.StatusConflict, "this process stands by and does not know what waits, ask the leader: %s", st.LeaderDetail)
	}
	tasks, err := k.Tasks(ctx)
	if err != nil {
		return nil, Failure(err)
	}
	recent, _, err := recordedJobs(ctx, k, now.Add(-lately), now)
	if err != nil {
		return nil, err
	}
	coming, all, err := k.Coming(ctx, forecastLimit)
	if err != nil {
		return nil, Failure(err)
	}
	p := forecast.Present{Now: now, Waiting: make(map[forecast.Place]int), Recent: recent, Own: st.DatabaseChannels}
	waiting := 0
	for _, c := range st.Counts {
		p.Waiting[forecast.Place{Database: c.DB, Channel: c.Channel}] += c.Pending
		waiting += c.Pending
	}
	if waiting > forecastLimit {
		return nil, Error(http.StatusConflict, "%d jobs wait, and of more than %d no forecast is made", waiting, forecastLimit)
	}
	later(&p, coming)
	for i := range tasks {
		if t := &tasks[i]; !t.Since.IsZero() {
			p.Running = append(p.Running, forecast.Job{Database: t.Key.DB, Channel: channels.Normalize(t.Channel), Priority: 10, Sent: t.Since})
		}
	}
	arrivals(&p, k.Backlogs())
	cfg := k.Config()
	list, err := forecast.Predict(ctx, presentTree(cfg, &st, now), p, uint64(now.Unix())) //nolint:gosec // any number does
	if err != nil {
		return nil, Failure(err)
	}
	doc := &api.Forecast{At: now.UTC(), Channels: []api.ChannelForecast{}, Assumes: []string{"jobs run for as long as those of the last hour did"}}
	if !all {
		doc.Assumes = append(doc.Assumes, fmt.Sprintf("those that wait for their eta could run now, because they are more than %d", forecastLimit))
	}
	if p.Minutes < minutesLeast {
		doc.Assumes = append(doc.Assumes, "no more jobs come: how many do is known a few minutes after the start")
	} else {
		doc.Assumes = append(doc.Assumes, fmt.Sprintf("jobs come as in the last %d minutes, apart from bursts", p.Minutes))
	}
	for i := range list {
		doc.Channels = append(doc.Channels, newForecast(&list[i]))
	}
	return doc, nil
}

// later makes those that wait for their eta come then.
func later(p *forecast.Present, coming []channels.Coming) {
	p.Coming = make(map[forecast.Place]map[int]int)
	for i := range coming {
		c := &coming[i]
		at := forecast.Place{Database: c.DB, Channel: c.Channel}
		if p.Coming[at] == nil {
			p.Coming[at] = make(map[int]int)
		}
		p.Coming[at][c.Minutes] += c.Jobs
		p.Waiting[at] = max(p.Waiting[at]-c.Jobs, 0) // it was counted a moment earlier
	}
}

// arrivals finds how many jobs came in each minute between samples of what waited: what was sent, and what
// waits in addition. Those whose eta came are told apart, where it is known how many waited for theirs.
func arrivals(p *forecast.Present, samples []supervisor.Backlog) {
	p.Minutes = max(len(samples)-1, 0)
	if p.Minutes < minutesLeast {
		p.Minutes = 0
		return
	}
	a := counted{p.Minutes, make(map[forecast.Place][]int)}
	due := counted{p.Minutes, make(map[forecast.Place][]int)}
	p.Arrived, p.Due = a.of, due.of
	for i := range p.Minutes {
		before, after := &samples[i], &samples[i+1]
		a.add(i, before.Waiting, -1)
		a.add(i, after.Waiting, 1)
		if before.Later != nil && after.Later != nil {
			a.add(i, before.Later, 1)
			a.add(i, after.Later, -1)
			a.add(i, before.Due, -1)
			due.add(i, before.Due, 1)
		}
	}
	minute := func(sent time.Time) int {
		for i := range p.Minutes {
			if sent.After(samples[i].At) && !sent.After(samples[i+1].At) {
				return i
			}
		}
		return -1
	}
	for _, jobs := range [][]forecast.Job{p.Recent, p.Running} {
		for i := range jobs {
			if m := minute(jobs[i].Sent); m >= 0 {
				a.add(m, map[channels.ID]int{{DB: jobs[i].Database, Channel: jobs[i].Channel}: 1}, 1)
			}
		}
	}
}

// counted is how many jobs came in each minute.
type counted struct {
	minutes int
	of      map[forecast.Place][]int
}

func (c *counted) add(minute int, jobs map[channels.ID]int, by int) {
	for id, n := range jobs {
		at := forecast.Place{Database: id.DB, Channel: id.Channel}
		if c.of[at] == nil {
			c.of[at] = make([]int, c.minutes)
		}
		c.of[at][minute] += by * n
	}
}

// presentTree returns what makes the tree that is in force, with what operators hold back, and with no more
// slots than the servers bear.
func presentTree(cfg runner.Config, st *runner.Status, now time.Time) func() (*channels.Forest, error) {
	set := make(map[string]int)
	if n := bear(st); n > 0 && cfg.DatabaseChannels == nil {
		for i := range st.Channels {
			if c := &st.Channels[i]; c.FullName == "root" && !c.Sequential && (c.Capacity == 0 || c.Capacity > n) {
				set["root"] = n
			}
		}
	}
	build := trees(cfg, st, set)
	return func() (*channels.Forest, error) {
		tree, err := build()
		if err != nil {
			return nil, err
		}
		for i := range st.Channels {
			if c := &st.Channels[i]; c.Stopped {
				tree.Pause(c.FullName, true)
			}
		}
		for i := range st.Controls.Pauses {
			if st.Controls.Pauses[i].Scope() == "all" {
				tree.Pause("root", true)
			}
		}
		for i := range st.Databases {
			if db := &st.Databases[i]; db.Pause != nil || db.Obstacle(now) != "" && db.State != runner.DatabaseAsleep {
				tree.Suspend(db.Name)
			}
		}
		return tree, nil
	}
}

func newForecast(o *forecast.Outlook) api.ChannelForecast {
	out := api.ChannelForecast{Database: o.Database, Channel: o.Channel, Waiting: o.Waiting, Scheduled: o.Scheduled, PerHour: o.PerHour, Verdict: string(o.Verdict)}
	switch o.Verdict {
	case forecast.Drains:
		out.In, out.Least, out.Most = new(o.In.Seconds()), new(o.Least.Seconds()), new(o.Most.Seconds())
	case forecast.Later:
		out.Least = new(o.Least.Seconds())
	case forecast.Empty, forecast.Never, forecast.Unknown:
	}
	return out
}
