package metrics

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// oneServer is the upstream of a world without servers.
type oneServer struct{}

func (oneServer) Upstreams(context.Context) ([]driver.Upstream, error) {
	return []driver.Upstream{{Name: "odoo"}}, nil
}

// waiting puts a real runner to work in whose ten databases, with ten channels each, so many jobs
// wait.
func waiting(b *testing.B, jobs int) {
	b.Helper()
	w := mock.NewWorld()
	b.Cleanup(w.Close)
	for i := range jobs {
		if i < 10 {
			w.AddDatabase(fmt.Sprint("db", i))
		}
		job := mock.NewJob(fmt.Sprint("db", i%10), fmt.Sprintf("%08x-%d", uint32(i)*2654435761, i))
		job.Channel = fmt.Sprint("root.c", i/10%10)
		w.Insert(job)
	}
	sup, err := supervisor.Acquire()
	require.NoError(b, err)
	g := &supervisor.Generation{Logger: zap.NewNop(), Runners: map[string]*supervisor.Member{"scraped": {
		Config:  runner.Config{Name: "scraped", Postgres: &pgx.ConnConfig{}, Driver: w.Driver(), Targets: oneServer{}, Logger: zap.NewNop()},
		New:     func(cfg runner.Config) (supervisor.Engine, error) { return runner.New(cfg) },
		Storage: &certmagic.FileStorage{Path: b.TempDir()},
	}}}
	sup.Push(g)
	b.Cleanup(func() {
		sup.Withdraw(g)
		require.NoError(b, supervisor.Release())
	})
	r := sup.Runners()["scraped"]
	_, err = r.Order(b.Context(), func(c runner.Controls) runner.Controls { return c.WithPause(runner.Pause{By: "benchmark"}) })
	require.NoError(b, err)
	require.Eventually(b, func() bool {
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		n := 0
		for _, c := range st.Counts {
			n += c.Pending
		}
		return n == jobs
	}, 5*time.Minute, 10*time.Millisecond)
}

// BenchmarkScrape reads all metrics of a runner: what that costs does not grow with the jobs that
// wait.
func BenchmarkScrape(b *testing.B) {
	for _, jobs := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("jobs=%d", jobs), func(b *testing.B) {
			waiting(b, jobs)
			reg := prometheus.NewPedanticRegistry()
			require.NoError(b, Register(reg))
			for b.Loop() {
				_, err := reg.Gather()
				require.NoError(b, err)
			}
		})
	}
}
