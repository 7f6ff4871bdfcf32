package forecast_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/forecast"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// servers is a fixed set of targets.
type servers []string

func (s servers) Upstreams(context.Context) (ups []driver.Upstream, err error) {
	for _, name := range s {
		ups = append(ups, driver.Upstream{Name: name})
	}
	return ups, nil
}

// arrival is a job that is made at a time after the beginning.
type arrival struct {
	at       time.Duration
	channel  string
	database string
	run      time.Duration
	priority int32
	eta      time.Duration // after it was made; 0 is none
}

// load is what is recorded: a tree, and the jobs that come.
type load struct {
	name, tree string
	policies   []policy.Policy
	// throttle is the one of root.api that a channel string cannot say.
	throttle time.Duration
	// length is for how long jobs come.
	length time.Duration
	make   func(rng *rand.Rand, length time.Duration) []arrival
	// workers is how many jobs Odoo runs at once; 0 is as many as it is sent.
	workers int
}

// stream makes jobs of one channel that come at random, so many a minute.
func stream(rng *rand.Rand, length time.Duration, channel string, perMinute float64, run time.Duration) (list []arrival) {
	at := 0.0
	for {
		at += rng.ExpFloat64() * 60 / perMinute
		d := time.Duration(at * float64(time.Second))
		if d > length {
			return list
		}
		list = append(list, arrival{
			at: d, channel: channel, database: []string{"a", "b"}[rng.IntN(2)], priority: 10,
			run: time.Duration(float64(run) * (.5 + rng.Float64())),
		})
	}
}

// burst makes many jobs at once.
func burst(rng *rand.Rand, at time.Duration, channel string, n int, run time.Duration) (list []arrival) {
	for range n {
		list = append(list, arrival{at: at, channel: channel, database: "a", priority: int32(5 + rng.IntN(10)), run: time.Duration(float64(run) * (.5 + rng.Float64()))})
	}
	return list
}

// loads are the demo's tree and others, with what makes schedules hard to tell.
var loads = []load{
	{
		name: "the demo's tree", tree: "root:12,root.mail:6,root.stock:8,root.api:4,root.invoices:1:sequential", throttle: 100 * time.Millisecond, length: 20 * time.Minute,
		make: func(rng *rand.Rand, length time.Duration) []arrival {
			return slices.Concat(
				stream(rng, length, "root.mail", 110, 2*time.Second), stream(rng, length, "root.invoices", 25, 2*time.Second),
				stream(rng, length, "root.stock", 80, 2500*time.Millisecond), stream(rng, length, "root.api", 60, 500*time.Millisecond),
				stream(rng, length, "root", 30, time.Second), burst(rng, 5*time.Minute, "root.mail", 200, 2*time.Second),
				burst(rng, 7*time.Minute, "root.stock", 200, 2*time.Second), burst(rng, 9*time.Minute, "root.api", 100, 500*time.Millisecond))
		},
	},
	{
		name: "bursts", tree: "root:6,root.mail:3,root.export:2", length: 30 * time.Minute,
		make: func(rng *rand.Rand, length time.Duration) []arrival {
			return slices.Concat(
				burst(rng, time.Minute, "root.mail", 300, 2*time.Second), burst(rng, 2*time.Minute, "root.export", 40, 20*time.Second),
				burst(rng, 15*time.Minute, "root.mail", 150, 2*time.Second), stream(rng, length, "root", 60, time.Second))
		},
	},
	{
		name: "throttles and rates", tree: "root:4,root.api:2:throttle=2,root.sync:4", length: 30 * time.Minute,
		policies: []policy.Policy{{Channels: []string{"root.sync"}, Rate: &channels.Rate{Starts: 40, Period: time.Minute, Burst: 5}}},
		make: func(rng *rand.Rand, length time.Duration) []arrival {
			return slices.Concat(
				stream(rng, length, "root.api", 24, time.Second), burst(rng, 3*time.Minute, "root.sync", 300, time.Second),
				stream(rng, length, "root", 40, 2*time.Second))
		},
	},
	{
		name: "eta and priorities", tree: "root:3,root.night:2", length: 30 * time.Minute,
		make: func(rng *rand.Rand, length time.Duration) []arrival {
			list := slices.Concat(stream(rng, length, "root.night", 30, 2*time.Second), stream(rng, length, "root", 45, 2*time.Second))
			for i := range list {
				list[i].priority = int32(1 + rng.IntN(20))
				if rng.IntN(3) == 0 {
					list[i].eta = time.Duration(rng.IntN(600)) * time.Second
				}
			}
			for range 200 { // all at the same minute
				list = append(list, arrival{at: time.Second, channel: "root.night", database: "a", priority: 10, run: 2 * time.Second, eta: 10 * time.Minute})
			}
			return list
		},
	},
}

// recorded is what a real runner has made of a load.
type recorded struct {
	cfg         runner.Config
	from, until time.Time
	jobs        []forecast.Job
	// made is when each of them was created.
	made []time.Time
}

// records are those that were made, because several tests look at the same ones.
var records = make(map[string]recorded)

// record runs a load through a real engine, in a bubble in which time passes only when everyone waits.
func record(t *testing.T, l load) (out recorded) {
	t.Helper()
	key := fmt.Sprint(l.name, l.tree, l.workers)
	if known, ok := records[key]; ok {
		return known
	}
	defer func() { records[key] = out }()
	synctest.Test(t, func(t *testing.T) {
		w := mock.NewWorld()
		defer w.Close()
		w.AddDatabase("a")
		w.AddDatabase("b")
		made := make(map[string]time.Time)
		var uuids []string
		cfgs, _, err := channels.ParseConfigs(l.tree)
		require.NoError(t, err)
		for i := range cfgs {
			if cfgs[i].Name == "root.api" && l.throttle > 0 {
				cfgs[i].Throttle = l.throttle
			}
		}
		out.cfg = runner.Config{
			Name: "default", Postgres: &pgx.ConnConfig{}, Driver: w.Driver(), Targets: servers{"odoo"}, Channels: cfgs, Policies: l.policies, Logger: zap.NewNop(),
			Events: func(ev runner.Event) {
				if ev.Waited() && ev.Run > 0 {
					sent := ev.Time.Add(-ev.Run)
					uuids = append(uuids, ev.UUID)
					out.jobs = append(out.jobs, forecast.Job{
						Database: ev.Database, Channel: ev.Channel, Priority: ev.Priority, Ready: sent.Add(-ev.Wait), Run: ev.Run, Sent: sent,
					})
				}
			},
		}
		if l.workers > 0 {
			out.cfg.Server.MaxJobs = l.workers
		}
		r, err := runner.New(out.cfg)
		require.NoError(t, err)
		r.Start()
		<-time.After(10 * time.Second) // the bubble's time
		out.from = time.Now()
		arrivals := l.make(rand.New(rand.NewPCG(7, 11)), l.length)
		slices.SortStableFunc(arrivals, func(a, b arrival) int { return int(a.at - b.at) })
		for i := 0; i < len(arrivals); {
			var batch []mock.Job
			at := arrivals[i].at
			<-time.After(at - time.Since(out.from))
			for ; i < len(arrivals) && arrivals[i].at == at; i++ {
				a := arrivals[i]
				j := mock.NewJob(a.database, fmt.Sprint("job", i))
				j.Channel, j.Priority, j.Created = a.channel, a.priority, time.Now().UnixMicro()
				if a.eta > 0 {
					j.ETA = time.Now().Add(a.eta).UnixMicro()
				}
				made[j.Key.UUID] = time.Now()
				w.PlanFor(j.Key, mock.Plan{RunFor: a.run})
				batch = append(batch, j)
			}
			w.Insert(batch...)
		}
		<-time.After(l.length - time.Since(out.from))
		out.until = time.Now()
		<-time.After(30 * time.Minute) // so that what still runs is recorded, too
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, r.Stop(ctx))
		require.Greater(t, len(out.jobs), len(arrivals)*9/10)
		for _, uuid := range uuids {
			out.made = append(out.made, made[uuid])
		}
	})
	return out
}

func (r *recorded) tree(change func([]channels.Config)) func() (*channels.Forest, error) {
	return func() (*channels.Forest, error) {
		cfg := r.cfg
		cfg.Channels = slices.Clone(cfg.Channels)
		if change != nil {
			change(cfg.Channels)
		}
		return runner.Tree(cfg, nil, 0)
	}
}

func set(channel string, capacity int) func([]channels.Config) {
	return func(cfgs []channels.Config) {
		for i := range cfgs {
			if cfgs[i].Name == channel {
				cfgs[i].Capacity = capacity
			}
		}
	}
}

// TestSimulationReproduces: with the configuration that there was, a simulation says of each channel what a
// real runner has done, within five percent, or a tenth of a second.
func TestSimulationReproduces(t *testing.T) {
	for _, l := range loads {
		t.Run(l.name, func(t *testing.T) {
			r := record(t, l)
			a, err := forecast.Simulate(t.Context(), forecast.Question{Jobs: r.jobs, From: r.from, Until: r.until, Same: r.tree(nil), Other: r.tree(nil)})
			require.NoError(t, err)
			require.Equal(t, a.Same, a.Other)
			require.Len(t, a.Same, len(a.Was))
			for i, was := range a.Was {
				same := a.Same[i]
				t.Logf("%-15s %4d jobs  p50 %8s %8s  p95 %8s %8s  busy %.3f %.3f  most %d %d", was.Channel, was.Jobs,
					was.Wait50.Round(time.Millisecond), same.Wait50.Round(time.Millisecond), was.Wait95.Round(time.Millisecond), same.Wait95.Round(time.Millisecond),
					was.Busy, same.Busy, was.Most, same.Most)
				require.Equal(t, was.Channel, same.Channel)
				require.InDelta(t, was.Jobs, same.Jobs, .05*float64(was.Jobs)+1)
				require.InDelta(t, was.Wait50.Seconds(), same.Wait50.Seconds(), .05*was.Wait50.Seconds()+.1, "median of the wait")
				require.InDelta(t, was.Wait95.Seconds(), same.Wait95.Seconds(), .05*was.Wait95.Seconds()+.1, "95th percentile of the wait")
				require.InEpsilon(t, was.Busy, same.Busy, .05)
			}
		})
	}
}

// TestSimulationPredicts: what another capacity would have meant is what it means to a real runner that has it.
func TestSimulationPredicts(t *testing.T) {
	l := loads[1]
	r := record(t, l)
	a, err := forecast.Simulate(t.Context(), forecast.Question{Jobs: r.jobs, From: r.from, Until: r.until, Same: r.tree(nil), Other: r.tree(set("root.mail", 5))})
	require.NoError(t, err)
	l.tree = "root:6,root.mail:5,root.export:2"
	real := record(t, l)
	sent := make([]time.Time, len(real.jobs))
	for i := range real.jobs {
		sent[i] = real.jobs[i].Sent
	}
	for i, is := range forecast.Measure(real.jobs, sent, real.from, real.until, false) {
		require.Equal(t, is.Channel, a.Other[i].Channel)
		require.InDelta(t, is.Wait50.Seconds(), a.Other[i].Wait50.Seconds(), .05*is.Wait50.Seconds()+.05)
		require.InDelta(t, is.Wait95.Seconds(), a.Other[i].Wait95.Seconds(), .05*is.Wait95.Seconds()+.05)
	}
	mail := func(list []forecast.Use) forecast.Use {
		return list[slices.IndexFunc(list, func(u forecast.Use) bool { return u.Channel == "root.mail" })]
	}
	require.Less(t, mail(a.Other).Wait95, mail(a.Was).Wait95*4/5, "it makes a difference")
}

// TestSimulationRefuses: where servers, and not slots, kept jobs waiting, or would, it says so in place of a
// number.
func TestSimulationRefuses(t *testing.T) {
	l := loads[1]
	l.workers = 2
	r := record(t, l)
	q := forecast.Question{Jobs: r.jobs, From: r.from, Until: r.until, Same: r.tree(nil), Other: r.tree(set("root.mail", 5))}
	_, err := forecast.Simulate(t.Context(), q)
	require.ErrorIs(t, err, forecast.ErrRefused)
	require.ErrorContains(t, err, "were not for a slot")

	l.workers = 0
	r = record(t, l)
	q = forecast.Question{Jobs: r.jobs, From: r.from, Until: r.until, Same: r.tree(nil), Other: r.tree(set("root.mail", 5)), Bear: 6}
	_, err = forecast.Simulate(t.Context(), q)
	require.NoError(t, err, "root has no more than before")
	q.Other = r.tree(func(cfgs []channels.Config) { set("root", 20)(cfgs); set("root.mail", 15)(cfgs) })
	_, err = forecast.Simulate(t.Context(), q)
	require.ErrorIs(t, err, forecast.ErrRefused)
	require.ErrorContains(t, err, "bear 6")

	q.Jobs = q.Jobs[:5]
	_, err = forecast.Simulate(t.Context(), q)
	require.ErrorContains(t, err, "too few")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = forecast.Simulate(ctx, forecast.Question{Jobs: r.jobs, From: r.from, Until: r.until, Same: r.tree(nil), Other: r.tree(nil)})
	require.ErrorIs(t, err, context.Canceled)
}
