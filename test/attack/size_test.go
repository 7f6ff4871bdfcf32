//go:build attack

package attack

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"
)

// sizeAttacks are those of somebody who writes, sends or raises much.
var sizeAttacks = []attack{
	{
		name: "200,000 notifications of 8 kB", floor: true,
		strike: func(b *bed) {
			for range 20 {
				b.as("evil", evilDB, "SELECT count(pg_notify('queue_job', repeat('x', 7900) || i)) FROM generate_series(1, 10000) AS i")
			}
		},
	},
	{
		name: "300,000 names of jobs that do not exist",
		strike: func(b *bed) {
			b.as("evil", evilDB, "SELECT count(pg_notify('queue_job', md5(i::text)::uuid::text)) FROM generate_series(1, 300000) AS i")
		},
	},
	{
		name: "20 failed jobs with 50 MB of exception, looked at",
		strike: func(b *bed) {
			b.as("evil", evilDB, `ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify;
				INSERT INTO queue_job (uuid, name, state, channel, priority, date_created, retry, max_retries, exc_name, exc_info)
				SELECT md5(i::text)::uuid, 'x', 'failed', 'root', 10, now(), 0, 5, repeat('x', 50000000), repeat('y', 50000000)
				FROM generate_series(1, 20) AS i;
				ALTER TABLE queue_job ENABLE TRIGGER queue_job_notify`)
			var most int
			for range 5 {
				most = max(most, b.get("/jobrunner/failures"), b.get("/jobrunner/data"))
			}
			b.note("answers of %d kB at most", most>>10)
			require.Less(b, most, 1<<20)
		},
	},
	{
		name:    "RAISE EXCEPTION of 50 MB on every claim",
		prepare: func(b *bed) { b.as("evil", evilDB, trigger("RAISE EXCEPTION '%', repeat('x', 50000000);")) },
		strike:  claims,
	},
	{
		name:    "RAISE WARNING of 50 MB on every claim",
		prepare: func(b *bed) { b.as("evil", evilDB, trigger("RAISE WARNING '%', repeat('x', 50000000);")) },
		strike:  claims,
	},
	{
		name: "RAISE WARNING of 3 MB, 50 times on every claim",
		prepare: func(b *bed) {
			b.as("evil", evilDB, trigger("FOR i IN 1..50 LOOP RAISE WARNING '%', repeat('x', 3000000); END LOOP;"))
		},
		strike: claims,
	},
	{
		name:    "RAISE EXCEPTION of 3 MB on every claim",
		prepare: func(b *bed) { b.as("evil", evilDB, trigger("RAISE EXCEPTION '%', repeat('x', 3000000);")) },
		strike:  claims,
	},
	{
		name: "300 rows started in the future", unpromised: "databases share the slots of their runner", late: lateBound,
		strike: func(b *bed) {
			b.as("evil", evilDB, `INSERT INTO queue_job (uuid, name, state, channel, priority, date_created, retry, max_retries, date_enqueued, date_started)
				SELECT md5(i::text)::uuid, 'x', CASE i % 2 WHEN 0 THEN 'started' ELSE 'enqueued' END, 'root', 10, now(), 0, 5, 'infinity', 'infinity'
				FROM generate_series(1, 300) AS i`)
			began := time.Now()
			b.until("the good tenant's jobs are run again", func() bool {
				wait, _ := b.load.p99(time.Now().Add(-time.Second), time.Now())
				return time.Since(began) > 5*time.Second && wait < time.Second/2
			})
			b.note("slots free again after %.1f s", time.Since(began).Seconds())
		},
	},
	{name: "100,000 channel names, dashboard polled", strike: names(100_000, "'root.c' || i"), judge: judgeNames},
	{name: "1,000,000 channel names, dashboard polled", strike: names(1_000_000, "'root.c' || i"), judge: judgeNames},
	{name: "1,000,000 jobs in one channel, dashboard polled", strike: names(1_000_000, "'root'")},
	{
		name: "1,000,000 jobs, sessions lost, then none",
		strike: func(b *bed) {
			b.waiting(1_000_000, "'root'")
			for range 3 {
				b.reconnect(evilDB)
				b.wait(4 * time.Second)
			}
			b.as("evil", evilDB, "TRUNCATE queue_job CASCADE")
			b.reconnect(evilDB)
			b.wait(4 * time.Second)
		},
	},
}

// names has the runner read so many jobs that wait, in channels of these names, while somebody looks.
func names(jobs int, channel string) func(*bed) {
	return func(b *bed) {
		b.waiting(jobs, channel)
		b.reconnect(evilDB)
		most := 0
		for range 20 {
			most = max(most, b.get("/jobrunner/data"))
			b.wait(500 * time.Millisecond)
		}
		b.note("answers of %d kB at most", most>>10)
		require.Less(b, most, 1<<20)
	}
}

// waiting puts so many jobs into the attacker's database that wait for their eta, in channels of these
// names, without a notification.
func (b *bed) waiting(jobs int, channel string) {
	b.Helper()
	b.as("evil", evilDB, `ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify;
		INSERT INTO queue_job (uuid, name, state, channel, priority, date_created, retry, max_retries, eta)
		SELECT md5(i::text)::uuid, 'x', 'pending', `+channel+`, 10, now(), 0, 5, now() + interval '1 day'
		FROM generate_series(1, `+strconv.Itoa(jobs)+`) AS i;
		ALTER TABLE queue_job ENABLE TRIGGER queue_job_notify`)
}

// judgeNames requires that it is said where the jobs are counted.
func judgeNames(b *bed) {
	require.NotZero(b, b.logged("jobs name more channels than a database can have"))
}

// claims has the runner claim jobs for a while.
func claims(b *bed) {
	b.evilJobs(100)
	b.wait(15 * time.Second)
	require.Less(b, b.logSize(), int64(8<<20), "the log stays small")
}

// get reads a page of the site and returns its size.
func (b *bed) get(path string) int {
	b.Helper()
	res, err := http.Get("http://" + b.caddy().Config.Site + path)
	require.NoError(b, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, res.StatusCode, "%.200s", body)
	return len(body)
}
