package forecast_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/forecast"
)

// in reports whether a job belongs to a channel or to one below it.
func in(j *forecast.Job, channel string) bool {
	return j.Channel == channel || strings.HasPrefix(j.Channel, channel+".")
}

// present is what was known at a time of a recorded run.
func (r *recorded) present(now time.Time, minutes int) forecast.Present {
	p := forecast.Present{
		Now: now, Minutes: min(minutes, int(now.Sub(r.from)/time.Minute)), Waiting: make(map[forecast.Place]int),
		Coming: make(map[forecast.Place]map[int]int), Arrived: make(map[forecast.Place][]int), Due: make(map[forecast.Place][]int),
	}
	begin := now.Add(-time.Duration(p.Minutes) * time.Minute)
	for i := range r.jobs {
		j := r.jobs[i]
		at := forecast.Place{Database: j.Database, Channel: j.Channel}
		if j.Ready.After(now) {
			if !r.made[i].After(now) {
				comes(&p, &j)
			}
			continue
		}
		if m := int(j.Ready.Sub(begin) / time.Minute); !j.Ready.Before(begin) && m < p.Minutes {
			of := p.Arrived
			if j.Ready.Sub(r.made[i]) > time.Minute {
				of = p.Due
			}
			if of[at] == nil {
				of[at] = make([]int, p.Minutes)
			}
			of[at][m]++
		}
		switch {
		case j.Sent.After(now):
			p.Waiting[at]++
		case j.Sent.Add(j.Run).After(now):
			p.Running = append(p.Running, j)
		case j.Sent.Add(j.Run).After(begin):
			p.Recent = append(p.Recent, j)
		}
	}
	return p
}

// empty is when no job of a channel waits for the first time after another time; zero if that was not before
// the end.
func (r *recorded) empty(channel string, now time.Time) time.Time {
	type edge struct {
		at   time.Time
		step int
	}
	var edges []edge
	n := 0
	for i := range r.jobs {
		j := &r.jobs[i]
		if !in(j, channel) || !j.Sent.After(now) {
			continue
		}
		if j.Ready.After(now) {
			edges = append(edges, edge{j.Ready, 1})
		} else {
			n++
		}
		edges = append(edges, edge{j.Sent, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.step - b.step
	})
	for _, e := range edges {
		if n += e.step; n == 0 {
			return e.at
		}
	}
	return time.Time{}
}

// foresees makes known what will come: all else in the outlook is how long jobs run, and the scheduler.
func (r *recorded) foresees(p forecast.Present) forecast.Present {
	p.Arrived, p.Due, p.Minutes, p.Coming = nil, nil, 0, make(map[forecast.Place]map[int]int)
	for i := range r.jobs {
		if j := &r.jobs[i]; j.Ready.After(p.Now) {
			comes(&p, j)
		}
	}
	return p
}

// comes adds a job that will come.
func comes(p *forecast.Present, j *forecast.Job) {
	at := forecast.Place{Database: j.Database, Channel: j.Channel}
	if p.Coming[at] == nil {
		p.Coming[at] = make(map[int]int)
	}
	p.Coming[at][int(j.Ready.Sub(p.Now)/time.Minute)]++
}

// judged says how good an outlook was, and whether it was within fifteen percent, or five seconds.
func judged(o *forecast.Outlook, is time.Duration) (word, off string, good bool) {
	if o.Verdict != forecast.Drains {
		return string(o.Verdict), "-", false
	}
	word = fmt.Sprintf("%s (%s to %s)", o.In.Round(time.Second), o.Least.Round(time.Second), o.Most.Round(time.Second))
	off = fmt.Sprintf("%+.0f%%", 100*(o.In.Seconds()/is.Seconds()-1))
	return word, off, o.In.Seconds() < 1.15*is.Seconds()+5 && o.In.Seconds() > .85*is.Seconds()-5
}

// TestOutlooks judges forecasts on recorded runs of a real runner: at several times, when will a channel in
// which jobs wait be empty? And had it been known what came? It prints the table of docs/forecast.md, and
// writes it there with UPDATE=1.
func TestOutlooks(t *testing.T) {
	table := "| Load | At | Channel | Waiting | Forecast | It was | Off by | Off by, had it known what came |\n|---|---|---|---|---|---|---|---|\n"
	good, knowing, asked := 0, 0, 0
	for _, l := range loads {
		r := record(t, l)
		for _, at := range []time.Duration{4 * time.Minute, 8 * time.Minute, 12 * time.Minute, 17 * time.Minute} {
			now := r.from.Add(at)
			p := r.present(now, 15)
			list, err := forecast.Predict(t.Context(), r.tree(nil), p, 1)
			require.NoError(t, err)
			sure, err := forecast.Predict(t.Context(), r.tree(nil), r.foresees(p), 1)
			require.NoError(t, err)
			for _, o := range list {
				if o.Waiting < 20 {
					continue // it is over before that is read
				}
				is := r.empty(o.Channel, now).Sub(now)
				word, off, ok := judged(&o, is)
				_, best, could := judged(&sure[slices.IndexFunc(sure, func(s forecast.Outlook) bool { return s.Channel == o.Channel })], is)
				for n, yes := range map[*int]bool{&good: ok, &knowing: could, &asked: true} {
					if yes {
						*n++
					}
				}
				table += fmt.Sprintf("| %s | %s | `%s` | %d | %s | %s | %s | %s |\n", l.name, at, o.Channel, o.Waiting, word, is.Round(time.Second), off, best)
			}
		}
	}
	t.Logf("of %d, %d within 15 percent, or five seconds, and %d had it been known what came\n%s", asked, good, knowing, table)
	require.Greater(t, good*10, asked*5, "half of them, at least: arrivals are as they like")
	require.Greater(t, knowing*10, asked*9, "all else is known well")
	if os.Getenv("UPDATE") != "" {
		updateTable(t, table)
	}
}

// updateTable writes the table of docs/forecast.md.
func updateTable(t *testing.T, table string) {
	t.Helper()
	const begin, end = "<!-- outlooks -->\n", "<!-- end -->\n"
	page := filepath.FromSlash("../../docs/forecast.md")
	raw, err := os.ReadFile(page)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(raw), begin)
	require.True(t, ok)
	_, tail, ok := strings.Cut(rest, end)
	require.True(t, ok)
	require.NoError(t, os.WriteFile(page, []byte(head+begin+table+end+tail), 0o600))
}

// every is so many minutes with that many jobs.
func every(minutes, n int) []int { return slices.Repeat([]int{n}, minutes) }

// TestVerdicts: what is empty, what never will be, and of what nothing is known.
func TestVerdicts(t *testing.T) {
	now := time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)
	build := func() (*channels.Forest, error) {
		f := channels.NewForest()
		return f, f.Configure([]channels.Config{{Name: "root", Capacity: 4}, {Name: "root.slow", Capacity: 1}, {Name: "root.held", Capacity: 1, Paused: true}})
	}
	place := func(channel string) forecast.Place { return forecast.Place{Database: "prod", Channel: channel} }
	p := forecast.Present{
		Now: now, Minutes: 60,
		Waiting: map[forecast.Place]int{place("root.slow"): 60, place("root.mail"): 90, place("root.held"): 5, place("root.done"): 0},
		Arrived: map[forecast.Place][]int{place("root.slow"): every(60, 2), place("root.mail"): every(60, 1)},
		Running: []forecast.Job{{Database: "prod", Channel: "root.slow", Sent: now.Add(-24 * time.Hour)}, {Database: "prod", Channel: "root.mail", Sent: now.Add(time.Hour)}},
	}
	verdicts := func() map[string]forecast.Outlook {
		all := make(map[string]forecast.Outlook)
		list, err := forecast.Predict(t.Context(), build, p, 1)
		require.NoError(t, err)
		for _, o := range list {
			all[o.Channel] = o
		}
		return all
	}
	all := verdicts()
	require.Equal(t, forecast.Unknown, all["root.slow"].Verdict)
	require.Equal(t, forecast.Empty, all["root.done"].Verdict)
	require.InDelta(t, 180, all["root"].PerHour, 1e-9)
	for range 10 {
		p.Recent = append(p.Recent, forecast.Job{Database: "prod", Channel: "root.slow", Run: time.Minute}, forecast.Job{Database: "other", Channel: "root.mail", Run: 10 * time.Second})
	}
	all = verdicts()
	require.Equal(t, forecast.Never, all["root.slow"].Verdict, "two a minute, each of which takes that long")
	require.Equal(t, forecast.Never, all["root.held"].Verdict)
	require.Equal(t, forecast.Never, all["root"].Verdict)
	mail := all["root.mail"]
	require.Equal(t, forecast.Drains, mail.Verdict)
	require.InDelta(t, 300, mail.In.Seconds(), 60, "90 jobs of ten seconds in three slots")
	require.LessOrEqual(t, mail.Least, mail.In)
	require.GreaterOrEqual(t, mail.Most, mail.In)

	delete(p.Arrived, place("root.slow"))
	p.Waiting[place("root.slow")] = 2000
	require.Equal(t, forecast.Later, verdicts()["root.slow"].Verdict, "33 hours of work")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := forecast.Predict(ctx, build, p, 1)
	require.ErrorIs(t, err, context.Canceled)
	broken := errors.New("no such tree")
	_, err = forecast.Predict(t.Context(), func() (*channels.Forest, error) { return nil, broken }, p, 1)
	require.ErrorIs(t, err, broken)
}

// TestScheduled: jobs that wait for their eta come then, and count once: those of the near future are known,
// and of later, as many come as lately.
func TestScheduled(t *testing.T) {
	now := time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)
	build := func() (*channels.Forest, error) {
		f := channels.NewForest()
		return f, f.Configure([]channels.Config{{Name: "root", Capacity: 1}})
	}
	at := forecast.Place{Database: "prod", Channel: "root"}
	outlook := func(waiting int, due []int, coming map[int]int) forecast.Outlook {
		p := forecast.Present{Now: now, Minutes: 20, Waiting: map[forecast.Place]int{at: waiting}, Coming: map[forecast.Place]map[int]int{at: coming}}
		if due != nil {
			p.Due = map[forecast.Place][]int{at: due}
		}
		for range 100 {
			p.Recent = append(p.Recent, forecast.Job{Database: "prod", Channel: "root", Run: 5 * time.Second})
		}
		list, err := forecast.Predict(t.Context(), build, p, 1)
		require.NoError(t, err)
		require.Len(t, list, 1)
		return list[0]
	}
	minutes := func(n, each int, more ...int) map[int]int {
		of := make(map[int]int)
		for m := range n {
			of[m] = each
		}
		for i := 0; i < len(more); i += 2 {
			of[more[i]] = more[i+1]
		}
		return of
	}
	for name, c := range map[string]struct {
		due             []int
		coming          map[int]int
		seconds, within float64
	}{
		"none":                             {seconds: 295},
		"only far ones":                    {coming: minutes(0, 0, 700, 5000), seconds: 295},
		"known ones":                       {coming: minutes(40, 6), seconds: 590, within: 40},
		"as many as lately":                {due: every(20, 6), coming: minutes(1, 6), seconds: 590, within: 90},
		"lately, and as many known":        {due: every(20, 6), coming: minutes(40, 6), seconds: 590, within: 60},
		"what was long ago is over":        {due: append(every(14, 6), every(6, 0)...), seconds: 295},
		"known ones, and a burst":          {due: every(20, 6), coming: minutes(40, 6, 2, 66), seconds: 1190, within: 120},
		"a burst instead of what is usual": {due: every(20, 6), coming: minutes(1, 6, 2, 60), seconds: 1190, within: 250},
	} {
		o := outlook(60, c.due, c.coming)
		require.Equal(t, forecast.Drains, o.Verdict, name)
		require.InDelta(t, c.seconds, o.In.Seconds(), c.within+10, name)
		scheduled := 0
		for _, n := range c.coming {
			scheduled += n
		}
		require.Equal(t, scheduled, o.Scheduled, name)
		require.Equal(t, 60, o.Waiting, name)
	}
	o := outlook(0, nil, minutes(40, 6))
	require.Equal(t, forecast.Empty, o.Verdict)
	require.Equal(t, 240, o.Scheduled)
	require.InDelta(t, 360, outlook(60, every(20, 6), minutes(1, 6)).PerHour, 1e-9)
	list, err := forecast.Predict(t.Context(), build, forecast.Present{Now: now, Coming: map[forecast.Place]map[int]int{at: minutes(3, 3)}}, 1)
	require.NoError(t, err)
	require.Zero(t, list[0].PerHour, "nothing is assumed before a few minutes are known")
	o = outlook(60, nil, minutes(1, 20_000))
	require.NotEqual(t, forecast.Drains, o.Verdict, "28 hours of work that come at once")
}
