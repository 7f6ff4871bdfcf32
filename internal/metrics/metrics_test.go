package metrics

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// everyEvent feeds one event of every kind.
func everyEvent(name string) {
	for _, kind := range runner.EventKinds() {
		ev := runner.Event{
			Kind: kind, Runner: name, Time: time.Now(), Database: "prod", UUID: "11111111-aaaa", Channel: "root.one",
			Model: "sale.order", Method: "confirm", Upstream: "http://a:1", Outcome: "answered",
			Wait: 2 * time.Second, Run: 3 * time.Second, Dispatch: time.Millisecond, Count: 5, Detail: "secret detail",
		}
		if kind == runner.EventLeaderChanged {
			ev.Database = ""
		}
		Observe(ev)
	}
}

func registry(t *testing.T) *prometheus.Registry {
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, Register(reg))
	require.NoError(t, Register(reg), "what is there already is no mistake")
	return reg
}

func TestMetricsFollowTheConventions(t *testing.T) {
	fakerunner.Run(t, "lint", &fakerunner.Engine{Says: fakerunner.Status(time.Now())}, zap.NewNop())
	everyEvent("lint")
	reg := registry(t)
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
	families, err := reg.Gather()
	require.NoError(t, err)
	allowed := []string{"runner", "database", "channel", "upstream", "outcome", "reason", "state", "phase", "scope", "stage"}
	for _, f := range families {
		require.True(t, strings.HasPrefix(f.GetName(), "caddy_jobrunner_"), f.GetName())
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				require.Contains(t, allowed, l.GetName(), f.GetName())
				require.NotContains(t, l.GetValue(), "11111111", "uuids are no labels")
				require.NotContains(t, l.GetValue(), "secret")
			}
		}
	}
}

func TestLiveMetrics(t *testing.T) {
	fakerunner.Run(t, "live", &fakerunner.Engine{Says: fakerunner.Status(time.Now())}, zap.NewNop())
	reg := registry(t)
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP caddy_jobrunner_channel_blocked Whether the channel is sequential and a failed job stops it.
# TYPE caddy_jobrunner_channel_blocked gauge
caddy_jobrunner_channel_blocked{channel="root",database="",runner="live"} 0
caddy_jobrunner_channel_blocked{channel="root.free",database="",runner="live"} 0
caddy_jobrunner_channel_blocked{channel="root.one",database="",runner="live"} 1
# HELP caddy_jobrunner_channel_capacity Jobs that may run at once; absent for channels without a limit.
# TYPE caddy_jobrunner_channel_capacity gauge
caddy_jobrunner_channel_capacity{channel="root",database="",runner="live"} 4
caddy_jobrunner_channel_capacity{channel="root.one",database="",runner="live"} 1
# HELP caddy_jobrunner_channel_paused Whether the channel is paused, by the configuration or by an operator.
# TYPE caddy_jobrunner_channel_paused gauge
caddy_jobrunner_channel_paused{channel="root",database="",runner="live"} 0
caddy_jobrunner_channel_paused{channel="root.free",database="",runner="live"} 1
caddy_jobrunner_channel_paused{channel="root.one",database="",runner="live"} 0
# HELP caddy_jobrunner_jobs Unfinished and failed jobs by the channel that they name.
# TYPE caddy_jobrunner_jobs gauge
caddy_jobrunner_jobs{channel="root.one",database="prod",runner="live",state="enqueued"} 1
caddy_jobrunner_jobs{channel="root.one",database="prod",runner="live",state="failed"} 1
caddy_jobrunner_jobs{channel="root.one",database="prod",runner="live",state="pending"} 7
caddy_jobrunner_jobs{channel="root.one",database="prod",runner="live",state="started"} 2
# HELP caddy_jobrunner_leader Whether this process leads the runner.
# TYPE caddy_jobrunner_leader gauge
caddy_jobrunner_leader{runner="live"} 1
# HELP caddy_jobrunner_pauses Pauses that operators have ordered, by what they concern: all, database, channel.
# TYPE caddy_jobrunner_pauses gauge
caddy_jobrunner_pauses{runner="live",scope="all"} 0
caddy_jobrunner_pauses{runner="live",scope="channel"} 1
caddy_jobrunner_pauses{runner="live",scope="database"} 1
# HELP caddy_jobrunner_session_connected Whether there is a connection that listens to the database, for databases that should have one.
# TYPE caddy_jobrunner_session_connected gauge
caddy_jobrunner_session_connected{database="lost",runner="live"} 0
caddy_jobrunner_session_connected{database="prod",runner="live"} 1
# HELP caddy_jobrunner_upstream_drained Whether an operator drains the Odoo server.
# TYPE caddy_jobrunner_upstream_drained gauge
caddy_jobrunner_upstream_drained{runner="live",upstream="http://a:1"} 0
caddy_jobrunner_upstream_drained{runner="live",upstream="http://b:1"} 1
`), "caddy_jobrunner_channel_blocked", "caddy_jobrunner_channel_capacity", "caddy_jobrunner_channel_paused",
		"caddy_jobrunner_jobs", "caddy_jobrunner_leader", "caddy_jobrunner_pauses", "caddy_jobrunner_session_connected",
		"caddy_jobrunner_upstream_drained"))
}

// TestObjectiveMetrics: how well policies keep their objectives is told by the history.
func TestObjectiveMetrics(t *testing.T) {
	k := fakerunner.RunWith(t, "objective", &fakerunner.Engine{Says: fakerunner.Status(time.Now())}, zap.NewNop(), &history.Options{
		Dir: t.TempDir(), Logger: zap.NewNop(),
		Policies: []policy.Policy{{Channels: []string{"root.mail"}, Objective: &policy.Objective{Wait: time.Minute, Percent: 95}}},
	})
	for i := range 3 {
		history.Observe(runner.Event{
			Kind: runner.EventJobDone, Runner: "objective", Time: time.Now(), Database: "prod", Channel: "root.mail", Outcome: "answered",
			Wait: time.Duration(i+1) * 40 * time.Second, Run: time.Second,
		})
	}
	require.Eventually(t, func() bool { return k.History().Objectives()[0].Attempts == 3 }, time.Minute, 10*time.Millisecond)
	reg := registry(t)
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP caddy_jobrunner_objective_attempts_total Attempts at jobs with such an objective that were sent and have ended.
# TYPE caddy_jobrunner_objective_attempts_total counter
caddy_jobrunner_objective_attempts_total{policy="policy root.mail",runner="objective"} 3
# HELP caddy_jobrunner_objective_late_total Those of them that had waited longer.
# TYPE caddy_jobrunner_objective_late_total counter
caddy_jobrunner_objective_late_total{policy="policy root.mail",runner="objective"} 2
# HELP caddy_jobrunner_objective_target Which part of the jobs is to wait no longer than the objective of their policy says, for objectives with a percentage.
# TYPE caddy_jobrunner_objective_target gauge
caddy_jobrunner_objective_target{policy="policy root.mail",runner="objective"} 0.95
`), "caddy_jobrunner_objective_attempts_total", "caddy_jobrunner_objective_late_total", "caddy_jobrunner_objective_target"))
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// TestMetricsOfDatabaseChannels: the same channel of two databases is two series.
// TestUnknownJobs: where jobs could not be read, 0 would be a lie.
func TestUnknownJobs(t *testing.T) {
	st := fakerunner.Status(time.Now())
	for i := range st.Databases {
		st.Databases[i].JobsUnknown = st.Databases[i].Name == "lost"
	}
	for i := range st.Channels {
		if st.Channels[i].FullName == "root" {
			st.Channels[i].Oldest = time.Now().Add(-time.Hour)
		} else {
			st.Channels[i].Oldest = time.Time{}
		}
	}
	fakerunner.Run(t, "unknown", &fakerunner.Engine{Says: st}, zap.NewNop())
	reg := registry(t)
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP caddy_jobrunner_jobs_unknown 1 for a database whose jobs could neither be read nor counted, or that waits for a connection, so that caddy_jobrunner_jobs lacks some; absent for others.
# TYPE caddy_jobrunner_jobs_unknown gauge
caddy_jobrunner_jobs_unknown{database="lost",runner="unknown"} 1
`), "caddy_jobrunner_jobs_unknown"))
	n, err := testutil.GatherAndCount(reg, "caddy_jobrunner_oldest_pending_seconds")
	require.NoError(t, err)
	require.Equal(t, 1, n, "that of root")
}

func TestMetricsOfDatabaseChannels(t *testing.T) {
	st := fakerunner.Status(time.Now())
	st.DatabaseChannels, st.MaxCapacity, st.Running = true, 8, 3
	st.Channels = []runner.ChannelStatus{
		{Status: channels.Status{DB: "prod", FullName: "root", Configured: true, Capacity: 4, Running: 3}},
		{Status: channels.Status{DB: "lost", FullName: "root", Configured: true, Capacity: 2}},
	}
	fakerunner.Run(t, "trees", &fakerunner.Engine{Says: st}, zap.NewNop())
	got := gathered(t, registry(t))
	require.Equal(t, 4.0, got[`caddy_jobrunner_channel_capacity{channel="root",database="prod",runner="trees"}`], got)
	require.Equal(t, 2.0, got[`caddy_jobrunner_channel_capacity{channel="root",database="lost",runner="trees"}`])
	require.Equal(t, 3.0, got[`caddy_jobrunner_channel_running{channel="root",database="prod",runner="trees"}`])
	require.Equal(t, 8.0, got[`caddy_jobrunner_max_capacity{runner="trees"}`])
}

// TestScrapeDoesNotWaitForAStuckRunner does not take longer than it says.
func TestScrapeDoesNotWaitForAStuckRunner(t *testing.T) {
	fakerunner.Run(t, "stuck", &fakerunner.Engine{Stuck: true}, zap.NewNop())
	reg := registry(t)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		got := gathered(t, reg)
		require.Equal(t, scrapeTimeout, time.Since(start))
		require.Equal(t, 0.0, got[`caddy_jobrunner_up{runner="stuck"}`])
		require.NotContains(t, got, `caddy_jobrunner_leader{runner="stuck"}`)
	})
}

// gathered returns the values of gauges and counters by their full names.
func gathered(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			slices.Sort(labels)
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				value = float64(h.GetSampleCount())
			}
			all[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	return all
}

func TestEventsAreCounted(t *testing.T) {
	everyEvent("count")
	got := gathered(t, registry(t))
	maps.DeleteFunc(got, func(name string, _ float64) bool { return !strings.Contains(name, `runner="count"`) })
	want := map[string]float64{
		"caddy_jobrunner_channel_blocks_total{channel=root.one,runner=count}":                 1,
		"caddy_jobrunner_claim_batch_size{runner=count}":                                      1,
		"caddy_jobrunner_dispatch_seconds{runner=count}":                                      1,
		"caddy_jobrunner_dispatches_total{outcome=answered,runner=count,upstream=http://a:1}": 1,
		"caddy_jobrunner_job_run_seconds{channel=root.one,runner=count}":                      3,
		"caddy_jobrunner_job_wait_seconds{channel=root.one,runner=count}":                     5,
		"caddy_jobrunner_leader_changes_total{runner=count}":                                  1,
		"caddy_jobrunner_lost_requests_total{database=prod,runner=count}":                     1,
		"caddy_jobrunner_notifications_total{database=prod,runner=count}":                     5,
		"caddy_jobrunner_quarantined_total{database=prod,runner=count}":                       1,
		"caddy_jobrunner_requeues_total{database=prod,reason=answered,runner=count}":          1,
		"caddy_jobrunner_requeues_total{database=prod,reason=dead,runner=count}":              1,
		"caddy_jobrunner_resync_repairs_total{database=prod,runner=count}":                    5,
		"caddy_jobrunner_dependents_released_total{database=prod,runner=count}":               5,
		"caddy_jobrunner_resyncs_total{database=prod,runner=count}":                           1,
	}
	for _, outcome := range []string{"done", "failed", "retried", "not_run", "rescued", "gone"} {
		want["caddy_jobrunner_attempts_total{channel=root.one,database=prod,outcome="+outcome+",runner=count}"] = 1
	}
	for _, stage := range []string{"warned", "reached", "cancelled", "terminated", "stuck"} {
		want["caddy_jobrunner_timeout_stages_total{database=prod,runner=count,stage="+stage+"}"] = 1
	}
	plain := make(map[string]float64)
	for name, v := range got {
		plain[strings.ReplaceAll(name, `"`, "")] = v
	}
	require.Equal(t, want, plain)
}

// TestLabelsAreBounded: channels come from rows, and a module could make any number of them.
func TestLabelsAreBounded(t *testing.T) {
	a := newAdmission(3, 3)
	for i := range 10 {
		a.admit("r", "db", fmt.Sprint("c", i))
	}
	require.Len(t, a.seen, 3)
	db, c := a.admit("r", "db", "c1")
	require.Equal(t, "db/c1", db+"/"+c)
	db, c = a.admit("r", "db", "c9")
	require.Equal(t, "other/other", db+"/"+c)
	require.Equal(t, []string{"db"}, a.retain("r", func(string) bool { return false }))
	db, c = a.admit("r", "db", "c9")
	require.Equal(t, "db/c9", db+"/"+c)
}

// TestQuotaOfADatabase: the rows of one database do not take the series of the others away, and what it
// does not use any more is given back.
func TestQuotaOfADatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(100, 2)
		for i := range 1000 {
			a.admit("r", "greedy", fmt.Sprint("c", i))
		}
		require.Len(t, a.seen, 2)
		db, c := a.admit("r", "modest", "c9")
		require.Equal(t, "modest/c9", db+"/"+c)
		<-time.After(2 * time.Hour)
		a.admit("r", "greedy", "c1")
		gone, shared := a.expire("r", time.Now().Add(-time.Hour))
		require.ElementsMatch(t, []admitted{{"r", "greedy", "c0"}, {"r", "modest", "c9"}}, gone)
		require.True(t, shared["c1"])
		db, c = a.admit("r", "greedy", "new")
		require.Equal(t, "greedy/new", db+"/"+c)
	})
}

// TestDroppedDatabasesAreForgotten: their series end with the next scrape.
func TestDroppedDatabasesAreForgotten(t *testing.T) {
	everyEvent("dropped")
	e := &fakerunner.Engine{Says: runner.Status{Databases: []runner.DatabaseStatus{{Name: "next"}}}}
	fakerunner.Run(t, "dropped", e, zap.NewNop())
	reg := registry(t)
	name := `caddy_jobrunner_notifications_total{database="prod",runner="dropped"}`
	require.Contains(t, gathered(t, reg), name, "a standby knows nothing of databases")
	e.Says.Leader = true
	gathered(t, reg)
	require.NotContains(t, gathered(t, reg), name)
}

// FuzzScrape: whatever rows and channels say, a scrape succeeds.
func FuzzScrape(f *testing.F) {
	f.Add(int64(0), "a.b")
	f.Add(int64(math.MaxInt64), "\xff\"\n")
	f.Add(int64(math.MinInt64), "")
	f.Add(int64(-1e17), "a.b")
	f.Fuzz(func(t *testing.T, micros int64, text string) {
		fakerunner.RunFuzzed(t, micros, text)
		reg := prometheus.NewRegistry()
		require.NoError(t, Register(reg))
		_, err := reg.Gather()
		require.NoError(t, err)
	})
}
