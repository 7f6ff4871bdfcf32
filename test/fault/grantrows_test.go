//go:build fault

package fault

import (
	"math/rand/v2"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// grantRows are about the rows of jobs, and what others do with them.
var grantRows = []grantFault{
	{name: "nothing"},
	{name: "nothing, without lock table", gen: odoostub.QueueJob12},
	{name: "nothing, connector", gen: odoostub.Connector9},
	{
		name: "channels that nobody has configured", channels: "root:1,sub:1:sequential", capacities: map[string]int{"root": 1, "root.sub": 1},
		strike: func(b *grantBed) {
			for range 5 {
				for _, c := range []string{"", "root", "ghost", "root.ghost.x", "root.sub", " root", "ROOT", "root."} {
					b.stream(1, odoostub.JobSpec{Channel: new(c)})
				}
			}
		},
	},
	{name: "eta in the future", strike: streamLater, judge: judgeLater},
	{
		name: "dependencies", strike: func(b *grantBed) {
			for range 10 {
				parent, child := odoostub.NewUUID(), odoostub.NewUUID()
				b.stream(1, odoostub.JobSpec{UUID: parent}, odoostub.JobSpec{UUID: child, DependsOn: []string{parent}},
					odoostub.JobSpec{DependsOn: []string{parent, child}})
			}
		},
	},
	{name: "cancelled between notification and read", strike: cancelAtOnce},
	{
		name: "jobs of one transaction", strike: func(b *grantBed) {
			for i := range 10 {
				b.stream(1, make([]odoostub.JobSpec, 1+i%4)...)
			}
		},
	},
	{name: "requeued while it runs", channels: "root:3", capacities: map[string]int{"root": 3}, strike: requeueRunning},
	{
		name: "requeued while it runs, without lock table", gen: odoostub.QueueJob12,
		channels: "root:3", capacities: map[string]int{"root": 3}, strike: requeueRunning,
	},
	{
		name: "10,000 notifications at once, five times", strike: func(b *grantBed) {
			b.during(func() {
				for range 5 {
					_ = b.try("SELECT count(pg_notify('queue_job', md5(random()::text)::uuid::text)) FROM generate_series(1, 10000)")
					b.wait(300 * time.Millisecond)
				}
			})
		},
	},
	{
		name: "notifications of what never was, one by one", statements: 3000, strike: func(b *grantBed) {
			b.during(func() {
				tick := time.NewTicker(time.Millisecond) // or the bound would be one of the machine's speed
				defer tick.Stop()
				for range 2000 {
					_ = b.try("SELECT pg_notify('queue_job', md5(random()::text)::uuid::text)")
					<-tick.C
				}
			})
		},
	},
	{name: "columns of type text", sql: "ALTER TABLE queue_job ALTER channel TYPE text, ALTER state TYPE text, ALTER uuid TYPE text, ALTER priority TYPE bigint"},
	{name: "eta with a time zone", sql: "ALTER TABLE queue_job ALTER eta TYPE timestamptz"},
	{name: "no column for channels", gen: odoostub.Connector7},
	{name: "a role that is serializable", sql: "ALTER ROLE postgres SET default_transaction_isolation = 'serializable'"},
	{
		name: "row-level security", sql: `ALTER TABLE queue_job ENABLE ROW LEVEL SECURITY; ALTER TABLE queue_job FORCE ROW LEVEL SECURITY;
			CREATE POLICY p ON queue_job USING (true); CREATE POLICY q ON queue_job AS RESTRICTIVE FOR UPDATE USING (false)`,
	},
	{name: "view in place of queue_job", unserved: true, sql: "ALTER TABLE queue_job RENAME TO jobs; CREATE VIEW queue_job AS SELECT * FROM jobs"},
}

// streamLater commits jobs that are to run a little later, and others.
func streamLater(b *grantBed) {
	for range 10 {
		b.stream(1, odoostub.JobSpec{ETA: time.Now().Add(400 * time.Millisecond)})
		b.stream(1)
		b.stream(1, odoostub.JobSpec{ETA: time.Now().Add(-time.Hour)})
	}
}

// judgeLater requires that none of them ran early.
func judgeLater(b *grantBed) {
	for _, e := range b.Recorder.AllExecutions() {
		require.Zero(b, b.count("SELECT count(*) FROM queue_job WHERE uuid = $1 AND eta > $2", e.UUID, e.Start.UTC()), "too early")
	}
}

// cancelAtOnce has users cancel jobs that are still pending a moment after they were committed.
// None of these runs.
func cancelAtOnce(b *grantBed) {
	dice := rand.New(rand.NewPCG(1, 2))
	cancelled := 0
	for range 150 {
		uuid := b.commit()[0]
		for end := time.Now().Add(time.Duration(dice.IntN(1500)) * time.Microsecond); time.Now().Before(end); {
		}
		n := b.count(`WITH c AS (UPDATE queue_job SET state = 'cancelled' WHERE uuid = $1 AND state = 'pending' RETURNING 1)
			SELECT count(*) FROM c`, uuid)
		cancelled += n
		testbed.Within(300*time.Millisecond, func() bool { return b.ended(uuid) })
		if n == 1 {
			b.wait(time.Millisecond)
			require.Zero(b, b.Recorder.Requests(grantDB, uuid), "it was cancelled while it was pending")
		}
	}
	b.note("%d of 150 cancelled in time", cancelled)
}

// requeueRunning has users set jobs to pending that run. While its request is open, a job is not
// claimed.
func requeueRunning(b *grantBed) {
	b.stream(3)
	claimed := 0
	for range 5 {
		uuid := b.commit(odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 600}})[0]
		testbed.Within(time.Second, func() bool {
			return b.count("SELECT count(*) FROM queue_job WHERE uuid = $1 AND state = 'started'", uuid) == 1
		})
		b.exec("UPDATE queue_job SET state = 'pending', date_enqueued = NULL, date_started = NULL WHERE uuid = $1", uuid)
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); b.wait(5 * time.Millisecond) {
			claimed += b.count("SELECT count(*) FROM queue_job WHERE uuid = $1 AND date_enqueued IS NOT NULL", uuid)
		}
	}
	require.Zero(b, claimed, "claimed while the request was open")
}
