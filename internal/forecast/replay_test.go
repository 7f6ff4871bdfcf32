package forecast

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// noon is when the tests of this file begin.
var noon = time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)

func after(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// tree is one with a channel below root.
func tree(t *testing.T, root, below int) *channels.Forest {
	t.Helper()
	f := channels.NewForest()
	require.NoError(t, f.Configure([]channels.Config{{Name: "root", Capacity: root}, {Name: "root.a", Capacity: below}}))
	return f
}

// job is one that is ready so many seconds after noon.
func job(channel string, ready, run float64) Job {
	return Job{Database: "prod", Channel: channel, Priority: 10, Ready: after(ready), Run: time.Duration(run * float64(time.Second))}
}

// seconds are times after noon; -1 is zero.
func seconds(times []time.Time) (list []float64) {
	for _, at := range times {
		if at.IsZero() {
			list = append(list, -1)
		} else {
			list = append(list, at.Sub(noon).Seconds())
		}
	}
	return list
}

// TestReplay: jobs are sent when there is a slot, in the order of the scheduler, and a slot is taken from
// the choice to the end of the job.
func TestReplay(t *testing.T) {
	running := job("root", -50, 7)
	running.Sent = after(-2)
	for name, c := range map[string]struct {
		jobs        []Job
		root, below int
		until       float64
		lag         time.Duration
		sent        []float64
	}{
		"one after the other": {
			jobs: []Job{job("root", 0, 3), job("root", 1, 3), job("root", 2, 3)}, root: 1, below: 1, until: 60, sent: []float64{0, 3, 6},
		},
		"two at once": {
			jobs: []Job{job("root", 0, 3), job("root", 1, 3), job("root", 2, 3)}, root: 2, below: 1, until: 60, sent: []float64{0, 1, 3},
		},
		"a channel below": {
			jobs: []Job{job("root.a", 0, 3), job("root.a", 0, 3), job("root", 1, 3)}, root: 2, below: 1, until: 60, sent: []float64{0, 3, 1},
		},
		"one that runs already": {
			jobs: []Job{running, job("root", 0, 1)}, root: 1, below: 1, until: 60, sent: []float64{-2, 5},
		},
		"a claim takes a while": {
			jobs: []Job{job("root", 0, 3), job("root", 0, 3)}, root: 1, below: 1, until: 60, lag: time.Second, sent: []float64{1, 5},
		},
		"the end": {
			jobs: []Job{job("root", 0, 3), job("root", 0, 3), job("root", 0, 3)}, root: 1, below: 1, until: 3, sent: []float64{0, 3, -1},
		},
		"just before": {
			jobs: []Job{job("root", 0, 3), job("root", 0, 3)}, root: 1, below: 1, until: 2.999, sent: []float64{0, -1},
		},
	} {
		sent, err := Replay(t.Context(), tree(t, c.root, c.below), c.jobs, noon, after(c.until), c.lag)
		require.NoError(t, err, name)
		require.Equal(t, c.sent, seconds(sent), name)
	}
}

// TestReplayOrder: of those that came together, the one that was sent first goes first, and what was sent
// when the replay begins is decided anew.
func TestReplayOrder(t *testing.T) {
	jobs := []Job{job("root", 0, 1), job("root", 0, 1), job("root", -1, 1)}
	jobs[0].Sent, jobs[1].Sent, jobs[2].Sent = after(9), after(8), noon
	sent, err := Replay(t.Context(), tree(t, 1, 1), jobs, noon, after(60), 0)
	require.NoError(t, err)
	require.Equal(t, []float64{2, 1, 0}, seconds(sent))
}

// TestReplayMovesOn: a tree that asks for a pass again and again, in which nothing starts, does not keep a
// replay at the same moment.
func TestReplayMovesOn(t *testing.T) {
	w := newWorld(tree(t, 1, 1), []Job{job("root", 0, 1)}, noon, 0)
	require.Equal(t, after(1), w.tick(noon, after(1)))
	for range 3 {
		require.Equal(t, noon, w.tick(noon, noon))
	}
	require.Equal(t, noon.Add(time.Microsecond), w.tick(noon, noon.Add(-1)))
	once := func(time.Time) bool { return false }
	require.NoError(t, w.run(t.Context(), after(-1), noon, once))
	require.Equal(t, 4, w.still)
	require.NoError(t, w.run(t.Context(), noon, noon, once))
	require.Zero(t, w.still, "a job has started")
}

// TestReplayOfATreeWithOthers: jobs that are none of those that are replayed change nothing.
func TestReplayOfATreeWithOthers(t *testing.T) {
	f := tree(t, 9, 1)
	for _, uuid := range []string{"x", "-1", "1", "18446744073709551616"} {
		f.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: uuid}}, channels.Pending)
	}
	sent, err := Replay(t.Context(), f, []Job{job("root", 3, 1)}, noon, after(60), 0)
	require.NoError(t, err)
	require.Equal(t, []float64{3}, seconds(sent))
}

// TestReplayIsGivenUp: when nobody wants it any more, also in the middle.
func TestReplayIsGivenUp(t *testing.T) {
	jobs := make([]Job, 2*checkEvery)
	for i := range jobs {
		jobs[i] = job("root", float64(i), 0.5)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorld(tree(t, 1, 1), jobs, noon, 0)
	steps := 0
	err := w.run(ctx, noon, after(1e6), func(time.Time) bool {
		steps++
		cancel()
		return true
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, checkEvery, steps)
	w = newWorld(tree(t, 1, 1), jobs, noon, 0)
	steps = 0
	require.NoError(t, w.run(t.Context(), noon, after(1e6), func(time.Time) bool { steps++; return steps < 7 }))
	require.Equal(t, 7, steps)
}

// TestWaitingInAReplay: those that are ready and were not chosen are counted in their channel, and in those
// above.
func TestWaitingInAReplay(t *testing.T) {
	for _, own := range []bool{false, true} {
		w := newWorld(tree(t, 1, 1), []Job{job("root.a", 0, 5), job("root.a", 1, 5), job("root", 2, 5)}, noon, 0)
		w.waiting, w.own = make(map[channels.ID]int), own
		db := ""
		if own {
			db = "prod"
		}
		got := map[float64][2]int{}
		require.NoError(t, w.run(t.Context(), noon, after(60), func(now time.Time) bool {
			got[now.Sub(noon).Seconds()] = [2]int{w.waiting[channels.ID{DB: db, Channel: "root"}], w.waiting[channels.ID{DB: db, Channel: "root.a"}]}
			return true
		}))
		require.Equal(t, map[float64][2]int{0: {0, 0}, 1: {1, 1}, 2: {2, 1}, 5: {1, 0}, 10: {0, 0}, 15: {0, 0}}, got)
	}
}

// TestMeasure: what counts is what was sent between two times, and of runs what is in between.
func TestMeasure(t *testing.T) {
	jobs := []Job{
		job("root", -30, 12), // runs when it begins
		job("root", 0, 10),   // waits for 2
		job("root.a", 0, 10), // waits for 4
		job("root", 5, 200),  // runs when it ends
		job("root.a", 20, 1), // is not sent before the end
		job("root.a", 30, 1), // is not sent at all
		job("root", -90, 1),  // was over before
		job("root", 50, 5),   // sent before it was ready, as clocks have it
		{Database: "other", Channel: "root", Ready: noon, Run: time.Second},
	}
	sent := []time.Time{after(-5), after(2), after(4), after(90), after(100), {}, after(-80), after(49), noon}
	root := Use{
		Channel: "root", Jobs: 5, Left: 2, Wait50: 2 * time.Second, Wait95: 85 * time.Second, Busy: (7 + 10 + 10 + 10 + 5 + 1) / 100., Most: 3,
	}
	a := Use{Channel: "root.a", Jobs: 1, Left: 2, Wait50: 4 * time.Second, Wait95: 4 * time.Second, Busy: .1, Most: 1}
	require.Equal(t, []Use{root, a}, Measure(jobs, sent, noon, after(100), false))

	all := Measure(jobs, sent, noon, after(100), true)
	require.Len(t, all, 3)
	require.Equal(t, Use{Database: "other", Channel: "root", Jobs: 1, Busy: .01, Most: 1}, all[0])
	a.Database = "prod"
	require.Equal(t, a, all[2])
	require.Zero(t, Measure(jobs[:1], sent[:1], noon, noon, false)[0].Busy, "no time")
}

// TestMost: a job that ends when another begins does not meet it.
func TestMost(t *testing.T) {
	for want, spans := range map[int][][2]float64{
		0: {},
		1: {{0, 1}, {1, 2}, {2, 3}},
		2: {{0, 5}, {5, 9}, {4, 6}},
		3: {{0, 9}, {1, 8}, {2, 3}, {3, 4}},
	} {
		var e edges
		for _, s := range spans {
			e.add(after(s[0]), after(s[1]))
		}
		require.Equal(t, want, e.most())
	}
}

// TestQuantile: it is one of the times.
func TestQuantile(t *testing.T) {
	require.Zero(t, quantile(nil, .5))
	list := []time.Duration{1, 2, 3, 4}
	for share, want := range map[float64]time.Duration{0: 1, .24: 1, .25: 2, .5: 3, .75: 4, .99: 4, 1: 4} {
		require.Equal(t, want, quantile(list, share), share)
	}
}

// TestLag: a claim takes about the least that a job has waited, but not more than claims take.
func TestLag(t *testing.T) {
	wait := func(ready float64, d time.Duration) Job {
		j := job("root", ready, 1)
		j.Sent = j.Ready.Add(d)
		return j
	}
	require.Zero(t, lagOf(nil, noon))
	require.Equal(t, 30*time.Millisecond, lagOf([]Job{wait(1, time.Second), wait(0, 30*time.Millisecond), wait(-9, time.Millisecond)}, noon))
	require.Equal(t, lagMost, lagOf([]Job{wait(1, time.Second)}, noon))
	require.Zero(t, lagOf([]Job{wait(1, -time.Second)}, noon))
}

// TestExplained: a simulation means something unless jobs waited long, for something else than a slot.
func TestExplained(t *testing.T) {
	for name, c := range map[string]struct {
		was, same []float64 // after they were ready, which is every ten seconds; -1000: not
		refused   bool
	}{
		"nothing was sent":     {[]float64{-1000, 1000}, []float64{-1000, -1000}, false},
		"all of it":            {[]float64{5, 9}, []float64{5, 9}, false},
		"more than there was":  {[]float64{5, 9}, []float64{8, 20}, false},
		"nothing of it":        {[]float64{5, 9}, []float64{0, 0}, true},
		"nearly a second each": {[]float64{.99, .99}, []float64{0, 0}, false},
		"a second each":        {[]float64{1, 1}, []float64{0, 0}, true},
		"a fifth":              {[]float64{10, 10}, []float64{8, 8}, true},
		"less than a fifth":    {[]float64{10, 10}, []float64{8, 8.01}, false},
		"not before the end":   {[]float64{50, 50}, []float64{-1000, -1000}, false},
		"by clocks of others":  {[]float64{-1, 2}, []float64{-1, 2}, false},
	} {
		var jobs []Job
		times := [2][]time.Time{}
		for i := range c.was {
			ready := float64(10 * i)
			jobs = append(jobs, job("root", ready, 1))
			for n, list := range [][]float64{c.was, c.same} {
				if list[i] == -1000 {
					times[n] = append(times[n], time.Time{})
				} else {
					times[n] = append(times[n], after(ready+list[i]))
				}
			}
		}
		err := explained(jobs, times[0], times[1], noon, after(100))
		if c.refused {
			require.ErrorIs(t, err, ErrRefused, name)
		} else {
			require.NoError(t, err, name)
		}
	}
	jobs := []Job{job("root", 0, 1)}
	err := explained(jobs, []time.Time{after(8)}, []time.Time{after(2)}, noon, after(100))
	require.ErrorContains(t, err, "75% were not for a slot")
}

// TestServersThatCannotBear: what the servers could not bear is refused, unless that ran at once before.
func TestServersThatCannotBear(t *testing.T) {
	var jobs []Job
	for i := range simulateLeast {
		j := job("root", float64(i), 2)
		j.Sent = j.Ready
		jobs = append(jobs, j)
	}
	ask := func(n, bear int) (*Answer, error) {
		build := func() (*channels.Forest, error) { return tree(t, 9, 9), nil }
		return Simulate(t.Context(), Question{Jobs: jobs[:n], From: noon, Until: after(100), Same: build, Other: build, Bear: bear})
	}
	a, err := ask(simulateLeast, 0)
	require.NoError(t, err, "it is not known")
	require.Equal(t, 2, a.MostWas)
	require.Equal(t, 2, a.MostOther)
	_, err = ask(simulateLeast, 1)
	require.NoError(t, err, "as many as before")
	_, err = ask(simulateLeast-1, 0)
	require.ErrorContains(t, err, "19 jobs were recorded")

	// Two that one slot kept apart run at once with another.
	jobs = nil
	for i := range simulateLeast {
		j := job("root", float64(10*(i/2)), 2)
		j.Sent = j.Ready.Add(time.Duration(i%2) * 2 * time.Second)
		jobs = append(jobs, j)
	}
	for bear, refused := range map[int]bool{0: false, 1: true, 2: false} {
		a, err := Simulate(t.Context(), Question{
			Jobs: jobs, From: noon, Until: after(1000), Bear: bear,
			Same:  func() (*channels.Forest, error) { return tree(t, 1, 1), nil },
			Other: func() (*channels.Forest, error) { return tree(t, 2, 1), nil },
		})
		if refused {
			require.ErrorContains(t, err, "2 jobs would run at once, and Odoo's servers bear 1")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, 1, a.MostWas)
		require.Equal(t, 2, a.MostOther)
	}
}
