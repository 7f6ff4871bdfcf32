package odoo_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// benchSession opens a session on a database with so many pending jobs.
func benchSession(b *testing.B, jobs int) (driver.Session, *pgxpool.Pool) {
	b.Helper()
	pg := pgtest.Shared(b)
	db, pool := odoostub.NewDatabase(b, pg, odoostub.QueueJobLock)
	_, err := pool.Exec(b.Context(), `INSERT INTO queue_job (uuid, state, channel, priority, date_created, retry, max_retries)
		SELECT gen_random_uuid(), 'pending', 'root.c' || i % 10, 10, now() AT TIME ZONE 'UTC', 0, 5 FROM generate_series(1, $1) AS i`, jobs)
	require.NoError(b, err)
	_, err = pool.Exec(b.Context(), "VACUUM ANALYZE queue_job")
	require.NoError(b, err)
	s, err := odoo.New(odoo.Options{}).OpenSession(b.Context(), pg.ConnConfig("postgres"), db)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Close(context.Background())) })
	found, err := s.Fingerprint(b.Context())
	require.NoError(b, err)
	require.Equal(b, driver.Healthy, found.Health, found.Description)
	return s, pool
}

// pendingUUIDs returns some of the jobs.
func pendingUUIDs(b *testing.B, pool *pgxpool.Pool, n int) (uuids []string) {
	b.Helper()
	err := pool.QueryRow(b.Context(), "SELECT array_agg(uuid) FROM (SELECT uuid FROM queue_job ORDER BY id LIMIT $1) AS j", n).Scan(&uuids)
	require.NoError(b, err)
	require.Len(b, uuids, n)
	return uuids
}

// BenchmarkSnapshot reads all jobs, as after a connect.
func BenchmarkSnapshot(b *testing.B) {
	for _, jobs := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("jobs=%d", jobs), func(b *testing.B) {
			s, _ := benchSession(b, jobs)
			for b.Loop() {
				n := 0
				require.NoError(b, s.Snapshot(b.Context(), func(driver.Row) { n++ }))
				require.Equal(b, jobs, n)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*jobs), "ns/job")
		})
	}
}

var benchBatches = []int{1, 16, 256}

// BenchmarkRead reads jobs that changed.
func BenchmarkRead(b *testing.B) {
	for _, batch := range benchBatches {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			s, pool := benchSession(b, 10_000)
			uuids := pendingUUIDs(b, pool, batch)
			for b.Loop() {
				rows, err := s.Read(b.Context(), uuids)
				require.NoError(b, err)
				require.Len(b, rows, batch)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/job")
		})
	}
}

// BenchmarkClaim marks jobs enqueued and commits that. Putting them back is not measured.
func BenchmarkClaim(b *testing.B) {
	for _, batch := range benchBatches {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			s, pool := benchSession(b, 10_000)
			uuids := pendingUUIDs(b, pool, batch)
			for b.Loop() {
				got, _, err := s.Claim(b.Context(), uuids, nil)
				require.NoError(b, err)
				require.Len(b, got, batch)
				b.StopTimer()
				_, err = pool.Exec(b.Context(), "UPDATE queue_job SET state = 'pending' WHERE state = 'enqueued'")
				require.NoError(b, err)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/job")
		})
	}
}
