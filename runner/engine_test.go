package runner_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstreams is a fixed set of targets.
type upstreams []string

func (u upstreams) Upstreams(context.Context) ([]driver.Upstream, error) {
	var ups []driver.Upstream
	for _, name := range u {
		ups = append(ups, driver.Upstream{Name: name})
	}
	return ups, nil
}

// bench is a world with one or more runners in it, inside a synctest bubble.
type bench struct {
	*testing.T
	*mock.World
	logs *observer.ObservedLogs
	log  *zap.Logger
	// panics is set by tests whose fakes panic.
	panics bool
}

// inBubble runs a test in a bubble, where time passes only when everybody
// waits, and checks at the end what must hold in every test.
func inBubble(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		b := &bench{T: t, World: mock.NewWorld(), logs: logs, log: zap.New(core)}
		defer b.Close()
		test(b)
		require.Empty(t, b.Overlaps())
		require.Empty(t, b.Violations())
		for _, entry := range logs.All() {
			if !b.panics {
				require.NotContains(t, entry.Message, "panic")
			}
			require.NotContains(t, entry.Message, "that is not served was scheduled")
		}
	})
}

// config returns a configuration with a channel string and one upstream.
func (b *bench) config(tree string) runner.Config {
	cfgs, _, err := channels.ParseConfigs(tree)
	require.NoError(b, err)
	return runner.Config{
		Name:     "default",
		Postgres: &pgx.ConnConfig{},
		Driver:   b.Driver(),
		Targets:  upstreams{"odoo1"},
		Channels: cfgs,
		Logger:   b.log,
	}
}

// start starts a runner and waits until nothing moves any more.
func (b *bench) start(cfg runner.Config) *runner.Runner {
	r, err := runner.New(cfg)
	require.NoError(b, err)
	r.Start()
	b.Cleanup(func() { b.stop(r) })
	b.settle(time.Second)
	return r
}

// stop stops a runner without waiting for its requests.
func (b *bench) stop(r *runner.Runner) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(b, r.Stop(ctx))
}

// settle lets time pass.
func (b *bench) settle(d time.Duration) {
	<-time.After(d) // the bubble's time
	synctest.Wait()
}

// jobs inserts pending jobs of a database and channel, named prefix1, prefix2...,
// in one transaction: how they arrive must not depend on the machine.
func (b *bench) jobs(db, channel, prefix string, n int) (keys []channels.Key) {
	var list []mock.Job
	for i := range n {
		j := mock.NewJob(db, fmt.Sprintf("%s%d", prefix, i+1))
		j.Channel = channel
		list, keys = append(list, j), append(keys, j.Key)
	}
	b.Insert(list...)
	return keys
}

func TestRunsAJob(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r := b.start(b.config("root:4"))
		b.jobs("prod", "", "a", 1)
		b.settle(100 * time.Millisecond)
		require.Equal(b, 1, b.Count("prod", channels.Done))
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		require.True(b, st.Leader)
		require.Equal(b, runner.DatabaseReady, st.Databases[0].State)
		require.Zero(b, st.Claiming+st.Open+st.Watched)
		for _, line := range []string{
			"starting", "initializing database connections", "queue job runner ready for db prod",
			"database connections ready", "asking Odoo to run job a1 on db prod",
		} {
			require.NotZero(b, b.logs.FilterMessage(line).Len(), line)
		}
	})
}

func TestCapacityAndPriority(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one", "two")
		b.SetPlan(mock.Plan{RunFor: time.Second, HoldAnswer: 100 * time.Millisecond})
		b.jobs("one", "", "a", 10)
		for i := range 10 {
			j := mock.NewJob("two", fmt.Sprintf("b%d", i))
			j.Channel, j.Priority = "sub", 1
			b.Insert(j)
		}
		b.start(b.config("root:4,sub:2"))
		b.settle(time.Minute)
		require.Equal(b, 10, b.Count("one", channels.Done))
		require.Equal(b, 10, b.Count("two", channels.Done))
		require.Equal(b, 4, b.MaxConcurrent(nil))
		require.Equal(b, 2, b.MaxConcurrent(mock.InChannel("root.sub")))
		require.Len(b, b.Runs(), 20)
	})
}

func TestEveryUpstreamDown(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.FailBeforeSend = -1; f.CheckErr = context.DeadlineExceeded })
		b.jobs("prod", "", "a", 50)
		b.start(b.config("root:4"))
		b.settle(time.Minute)
		require.Empty(b, b.Runs())
		require.Equal(b, 50, b.Count("prod", channels.Pending))
		b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { *f = mock.UpstreamFaults{} })
		b.settle(10 * time.Second)
		require.Equal(b, 50, b.Count("prod", channels.Done))
		require.Len(b, b.Runs(), 50)
	})
}

func TestSkipsAnUpstreamThatRefuses(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:4")
		cfg.Targets = upstreams{"odoo1", "odoo2"}
		b.SetPlan(mock.Plan{RunFor: 100 * time.Millisecond})
		b.start(cfg)
		b.UpstreamFault("odoo2", func(f *mock.UpstreamFaults) { f.FailBeforeSend = -1; f.CheckErr = context.DeadlineExceeded })
		b.jobs("prod", "", "a", 20)
		b.settle(10 * time.Second)
		require.Equal(b, 20, b.Count("prod", channels.Done))
		for _, run := range b.Runs() {
			if run.Result.Outcome == driver.Answered {
				require.Equal(b, "odoo1", run.Upstream)
			}
		}
		require.Less(b, len(b.Runs()), 24)
	})
}
