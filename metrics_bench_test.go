package jobrunner

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// oneServer is the upstream of a world without servers.
type oneServer struct{}

func (oneServer) Upstreams(context.Context) ([]driver.Upstream, error) {
	return []driver.Upstream{{Name: "odoo"}}, nil
}

// waiting returns a real runner in whose ten databases, with ten channels each, so
// many jobs wait.
func waiting(b *testing.B, jobs int) *runner.Runner {
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
	r, err := runner.New(runner.Config{Name: "scraped", Postgres: &pgx.ConnConfig{}, Driver: w.Driver(), Targets: oneServer{}})
	require.NoError(b, err)
	r.Start()
	b.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(b, r.Stop(ctx))
	})
	require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: []runner.Pause{{By: "benchmark"}}}))
	require.Eventually(b, func() bool {
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		n := 0
		for _, c := range st.Counts {
			n += c.Pending
		}
		return n == jobs
	}, 5*time.Minute, 10*time.Millisecond)
	return r
}

// BenchmarkScrape reads all metrics of a runner: what that costs does not grow with
// the jobs that wait.
func BenchmarkScrape(b *testing.B) {
	for _, jobs := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("jobs=%d", jobs), func(b *testing.B) {
			show(b, "scraped", waiting(b, jobs))
			reg := prometheus.NewPedanticRegistry()
			require.NoError(b, registerMetrics(reg))
			for b.Loop() {
				_, err := reg.Gather()
				require.NoError(b, err)
			}
		})
	}
}
