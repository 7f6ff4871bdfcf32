package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	sleeperPrefix = "sleeper_"
	// asleepAwake is how many databases have jobs all the time, and asleepOptions has the others sleep.
	asleepAwake   = 50
	asleepOptions = "hibernate 10s {\npoll 2s\ncheck 1h\n}"
	// asleepTimeout bounds the time until all databases have been looked at, and all but a few sleep.
	asleepTimeout = 30 * time.Minute
	// asleepBeat is the time between two jobs of databases that sleep.
	asleepBeat = 500 * time.Millisecond
	// lastReport is longer than the second in which a backend reports no more than once what it did.
	lastReport = 1500 * time.Millisecond
)

// asleepAll measures very many databases of which few have jobs. It has one run, because making the
// databases takes longer than everything else.
func asleepAll(ctx context.Context, l *lab) error {
	names, err := l.sleepers(ctx)
	if err != nil {
		return err
	}
	if _, err := l.ready(ctx, one(idleDB, "root:4")); err != nil {
		return err
	}
	awake, asleep := names[:asleepAwake], names[asleepAwake:]
	for _, db := range awake {
		err := l.insert(ctx, db, jobs{count: 1, channel: "root.long", kwargs: `{"sleep_ms": 3600000}`})
		if err != nil {
			return err
		}
		l.Leave(db)
	}
	s := served{pattern: sleeperPrefix + "*", channels: "root:60,root.long:50", options: asleepOptions}
	c, err := l.caddy(ctx, s)
	if err != nil {
		return err
	}
	if err := errors.Join(asleepRun(ctx, l, c, awake, asleep), c.Stop()); err != nil {
		return err
	}
	// Afterwards, because autovacuum visits those databases only that have been used.
	alone, err := l.serverShare(func() error { return sleep(ctx, pick(l.bench, time.Minute, time.Second)) })
	if err != nil {
		return err
	}
	l.report.add("processor of PostgreSQL at rest, without the runner", "% of a core", 2, nil, alone)
	return nil
}

func asleepRun(ctx context.Context, l *lab, c *testbed.Caddy, awake, asleep []string) error {
	for _, step := range []func() error{
		func() error { return asleepStart(ctx, l, c, len(awake)+len(asleep)) },
		func() error { return asleepRest(ctx, l, c) },
		func() error { return asleepWake(ctx, l, "of a database that is asleep", asleep, false) },
		func() error {
			return asleepWake(ctx, l, "the same, its connection had read something just before", asleep, true)
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	some, single := &lane{databases: awake[:10], priority: 1}, &lane{databases: []string{idleDB}, priority: 1}
	if err := l.compare(ctx, pick(l.bench, 300, 30), some, single); err != nil {
		return err
	}
	l.report.add("commit to request, of a database that is awake, p50", "ms", 2, nil, some.percentile(50))
	l.report.add("p50, ratio to one database", "", 2, atMost(1.2), some.percentile(50)/single.percentile(50))
	return nil
}

// sleepers makes the databases. A copy takes what an empty database takes, 7 MB and more; PostgreSQL 18
// shares the blocks of the template on file systems that can, such as Btrfs and XFS.
func (l *lab) sleepers(ctx context.Context) ([]string, error) {
	l.Leave(templateDB)
	_ = l.exec(ctx, "postgres", "ALTER SYSTEM SET file_copy_method = clone") // before 18 there is none
	if err := l.durable(ctx, "off"); err != nil {
		return nil, err
	}
	strategy := " STRATEGY file_copy"
	names := make([]string, pick(l.bench, l.many, 2*asleepAwake))
	began := time.Now()
	for i := range names {
		names[i] = fmt.Sprintf("%s%05d", sleeperPrefix, i)
		create := "CREATE DATABASE " + names[i] + " TEMPLATE " + templateDB
		err := l.exec(ctx, "postgres", create+strategy)
		if err != nil && strategy != "" { // an older PostgreSQL, or a file system that cannot share
			strategy = ""
			err = l.exec(ctx, "postgres", create)
		}
		if err != nil {
			return nil, err
		}
		if (i+1)%500 == 0 {
			say("   %d databases after %.0f s", i+1, time.Since(began).Seconds())
		}
	}
	if err := l.durable(ctx, "on"); err != nil {
		return nil, err
	}
	return names, l.exec(ctx, "postgres", "CHECKPOINT")
}

// durable says whether PostgreSQL waits for the disk. What is prepared, and not measured, need not.
func (l *lab) durable(ctx context.Context, value string) error {
	if err := l.exec(ctx, "postgres", "ALTER SYSTEM SET fsync = "+value); err != nil {
		return err
	}
	return l.exec(ctx, "postgres", "SELECT pg_reload_conf()")
}

// asleepStart waits until all databases have been looked at, and until those without jobs sleep.
func asleepStart(ctx context.Context, l *lab, c *testbed.Caddy, all int) error {
	status := func(holds func(api.Status) bool) func(context.Context) bool {
		return func(ctx context.Context) bool {
			if err := sleep(ctx, time.Second); err != nil {
				return false
			}
			var doc api.Statuses
			return c.Decode(ctx, "/jobrunner/status", &doc) == nil && len(doc.Runners) == 1 && holds(doc.Runners[0])
		}
	}
	r := l.report
	r.add("databases", "", 0, nil, float64(all))
	served := status(func(s api.Status) bool { return s.Served == all && s.Expected == all })
	if err := c.WaitFor(ctx, asleepTimeout, "all databases to be served", served); err != nil {
		return err
	}
	r.add("start of Caddy until all have been looked at", "s", 0, nil, time.Since(c.Began).Seconds())
	sleeping := status(func(s api.Status) bool { return s.Databases["asleep"] == all-asleepAwake })
	if err := c.WaitFor(ctx, asleepTimeout, "all databases without jobs to sleep", sleeping); err != nil {
		return err
	}
	r.add("until all without jobs sleep", "s", 0, nil, time.Since(c.Began).Seconds())
	return nil
}

// asleepRest measures what it costs that they sleep.
func asleepRest(ctx context.Context, l *lab, c *testbed.Caddy) error {
	r := l.report
	var used time.Duration
	nothing, most := pick(l.bench, time.Minute, 5*time.Second), 0
	count := func(ctx context.Context) error {
		var n int
		const sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND datname <> $2"
		err := l.admin.QueryRow(ctx, sql, runnerRole, idleDB).Scan(&n)
		most = max(most, n)
		return err
	}
	server, err := l.serverShare(func() error {
		return timeProcessor(c.PID(), &used, func() error {
			return every(ctx, time.Second, count, func() error { return sleep(ctx, nothing) })
		})
	})
	if err != nil {
		return err
	}
	heap, err := c.LiveHeap(ctx)
	if err != nil {
		return err
	}
	// The other Caddy, which serves one database, has a connection to the maintenance database, too.
	r.add("connections at rest, at most", "", 0, atMost(asleepAwake+2), float64(most-1))
	r.add("processor of Caddy at rest", "% of a core", 2, nil, 100*used.Seconds()/nothing.Seconds())
	r.add("processor of PostgreSQL at rest", "% of a core", 2, nil, server)
	r.add("live heap of Caddy", "MB", 1, nil, float64(heap)/1e6)
	for _, path := range []string{"status", "databases", "databases?limit=100", "channels"} {
		began := time.Now()
		if _, err := c.Get(ctx, "/jobrunner/"+path); err != nil {
			return err
		}
		r.add("GET /jobrunner/"+path, "ms", 1, nil, testbed.Milliseconds(time.Since(began)))
	}
	return nil
}

// asleepWake commits jobs in databases that sleep, and returns when their requests have arrived.
// Connections are open before, as Odoo's are; if they have read something just before, PostgreSQL does not
// count the job before they have been idle for ten seconds.
func asleepWake(ctx context.Context, l *lab, what string, names []string, again bool) error {
	var waits []time.Duration
	n := pick(l.bench, 100, 5)
	committed := make(map[string]time.Time, n)
	for i := range n {
		db := names[(i*2+map[bool]int{true: 1}[again])%len(names)]
		conn, err := l.connect(ctx, db)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		uuid, at, err := wakeOne(ctx, conn, again)
		if err != nil {
			return err
		}
		committed[uuid] = at
		if err := sleep(ctx, asleepBeat); err != nil {
			return err
		}
	}
	if err := l.stub.awaitDone(ctx, n); err != nil {
		return err
	}
	records, err := l.stub.take(ctx)
	if err != nil {
		return err
	}
	for _, q := range records.Requests {
		if at, ok := committed[q.UUID]; ok {
			waits = append(waits, q.At.Sub(at))
		}
	}
	if len(waits) != n {
		return fmt.Errorf("%d of %d jobs have arrived", len(waits), n)
	}
	r := l.report
	r.add("commit to request, "+what+", p50", "s", 2, nil, testbed.Percentile(waits, 50).Seconds())
	r.add("commit to request, "+what+", p99", "s", 2, nil, testbed.Percentile(waits, 99).Seconds())
	return nil
}

// wakeOne commits a job on a connection that has reported nothing for a while, or, again, has reported
// just before.
func wakeOne(ctx context.Context, conn *pgx.Conn, again bool) (uuid string, at time.Time, err error) {
	if err := sleep(ctx, lastReport); err != nil {
		return "", at, err
	}
	if again { // it reports that it has read, and within the next second nothing more
		if _, err := conn.Exec(ctx, "SELECT count(*) FROM queue_job"); err != nil {
			return "", at, err
		}
	}
	uuid = odoostub.NewUUID()
	// In a transaction: otherwise the preparation of the statement would be what is reported.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := commitOne(ctx, tx, uuid, "pending", 1)
		return err
	})
	return uuid, time.Now(), err
}
