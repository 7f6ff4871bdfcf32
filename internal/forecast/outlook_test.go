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
	p := forecast.Present{Now: now, Minutes: min(minutes, int(now.Sub(r.from)/time.Minute)), Waiting: make(map[forecast.Place]int), Arrived: make(map[forecast.Place][]int)}
	begin := now.Add(-time.Duration(p.Minutes) * time.Minute)
	for i := range r.jobs {
		j := r.jobs[i]
		at := forecast.Place{Database: j.Database, Channel: j.Channel}
		if j.Ready.After(now) {
			continue
		}
		if i := int(j.Ready.Sub(begin) / time.Minute); !j.Ready.Before(begin) && i < p.Minutes {
			if p.Arrived[at] == nil {
				p.Arrived[at] = make([]int, p.Minutes)
			}
			p.Arrived[at][i]++
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

// TestOutlooks judges forecasts on recorded runs of a real runner: at several times, when will a channel in
// which jobs wait be empty? It prints the table of docs/forecast.md, and writes it there with UPDATE=1.
func TestOutlooks(t *testing.T) {
	const begin, close = "<!-- outlooks -->\n", "<!-- end -->\n"
	table := "| Load | At | Channel | Waiting | Forecast | It was | Off by |\n|---|---|---|---|---|---|---|\n"
	good, asked := 0, 0
	for _, l := range loads {
		r := record(t, l)
		for _, at := range []time.Duration{4 * time.Minute, 8 * time.Minute, 12 * time.Minute, 17 * time.Minute} {
			now := r.from.Add(at)
			list, err := forecast.Predict(t.Context(), r.tree(nil), r.present(now, 15), 1)
			require.NoError(t, err)
			for _, o := range list {
				if o.Waiting < 20 {
					continue // it is over before that is read
				}
				is := r.empty(o.Channel, now).Sub(now)
				word, off := string(o.Verdict), "-"
				if o.Verdict == forecast.Drains {
					word = fmt.Sprintf("%s (%s to %s)", o.In.Round(time.Second), o.Least.Round(time.Second), o.Most.Round(time.Second))
					off = fmt.Sprintf("%+.0f%%", 100*(o.In.Seconds()/is.Seconds()-1))
					if o.In.Seconds() < 1.15*is.Seconds()+5 && o.In.Seconds() > .85*is.Seconds()-5 {
						good++
					}
				}
				asked++
				table += fmt.Sprintf("| %s | %s | `%s` | %d | %s | %s | %s |\n", l.name, at, o.Channel, o.Waiting, word, is.Round(time.Second), off)
			}
		}
	}
	t.Logf("%d of %d within 15 percent, or five seconds\n%s", good, asked, table)
	require.Greater(t, good*10, asked*5, "half of them, at least: arrivals are as they like")
	if os.Getenv("UPDATE") == "" {
		return
	}
	page := filepath.FromSlash("../../docs/forecast.md")
	raw, err := os.ReadFile(page)
	require.NoError(t, err)
	head, rest, ok := strings.Cut(string(raw), begin)
	require.True(t, ok)
	_, tail, ok := strings.Cut(rest, close)
	require.True(t, ok)
	require.NoError(t, os.WriteFile(page, []byte(head+begin+table+close+tail), 0o600))
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
