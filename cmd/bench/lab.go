package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// runnerRole is the role of the runner, so that its statements can be told from those of the
	// stub. Odoo's tables belong to another role.
	runnerRole = "jobrunner"
	// stubWorkers is more than any channel tree here lets run at once.
	stubWorkers = 64
	// statementTimeout bounds statements on the jobs, the longest of which inserts millions.
	statementTimeout = 20 * time.Minute
	// readyTimeout bounds the time until a runner serves all its databases.
	readyTimeout = 5 * time.Minute
)

// settings of PostgreSQL: those of a small server with an administrator. Commits are as durable as
// always; no checkpoint falls into a measurement by chance.
var settings = map[string]string{
	"shared_buffers": "512MB", "max_wal_size": "16GB", "checkpoint_timeout": "30min",
	"maintenance_work_mem": "256MB", "max_connections": "600",
}

// lab is what one scenario works with: a cluster, databases with the add-on, and the stub. Caddys
// come and go.
type lab struct {
	*bench
	*testbed.Bed
	admin *pgxpool.Pool // connections to the maintenance database
	stub  *partner
	// address is the stub's.
	address string
}

// withLab runs a scenario's part in a new lab.
func (b *bench) withLab(ctx context.Context, databases []string, f func(context.Context, *lab) error) (err error) {
	l := &lab{bench: b}
	if l.Bed, err = l.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.fill(ctx, databases); err != nil {
		return err
	}
	return f(ctx, l)
}

// open starts PostgreSQL, with the extension that counts statements if the server has it.
func (l *lab) open(ctx context.Context) (*testbed.Bed, error) {
	s := maps.Clone(settings)
	if l.connections > 0 {
		s["max_connections"] = strconv.Itoa(l.connections)
	}
	if name, value, ok := strings.Cut(l.postgres, "="); ok {
		s[name] = value
	}
	s["shared_preload_libraries"], s["pg_stat_statements.track"] = "pg_stat_statements", "none"
	bed, err := testbed.Open(ctx, pgtest.Options{Dir: l.dir, Durable: true, Settings: s})
	if err != nil && ctx.Err() == nil {
		delete(s, "shared_preload_libraries")
		delete(s, "pg_stat_statements.track")
		return testbed.Open(ctx, pgtest.Options{Dir: l.dir, Durable: true, Settings: s})
	}
	return bed, err
}

// fill makes the databases and starts the stub. Where the limit is measured, it opens the
// connections of all of the stub's workers.
func (l *lab) fill(ctx context.Context, databases []string) (err error) {
	if l.admin, err = l.Adopt("postgres"); err != nil {
		return err
	}
	var version string
	if err := l.admin.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil {
		return fmt.Errorf("asking for the version: %w", err)
	}
	l.report.know("PostgreSQL", version+", fsync, full_page_writes and synchronous_commit on, shared_buffers "+settings["shared_buffers"])
	if err := l.exec(ctx, "postgres", "CREATE ROLE "+runnerRole+" LOGIN SUPERUSER"); err != nil {
		return err
	}
	for _, db := range databases {
		if _, err := l.AddDatabase(ctx, db, odoostub.QueueJobLock); err != nil {
			return err
		}
		if l.table == "" {
			continue
		}
		if err := l.exec(ctx, db, "ALTER TABLE queue_job SET ("+l.table+")"); err != nil {
			return err
		}
	}
	if l.stub, err = startPartner(ctx, "Stub", StubArgs{l.Postgres.DSN("postgres"), stubWorkers}, &l.address); err != nil {
		return err
	}
	l.OnClose(l.stub.stop)
	if err := l.pinOdoo(); err != nil {
		return err
	}
	if !slices.Contains(databases, limitDB) {
		return nil
	}
	for _, db := range databases {
		if db == templateDB { // nobody may be connected to it
			continue
		}
		if _, err := l.limit(ctx, db, stubWorkers, jobs{count: 1_000}); err != nil {
			return err
		}
	}
	return nil
}

// pool returns connections to a database, which it opens when first asked.
func (l *lab) pool(db string) (*pgxpool.Pool, error) {
	if pool := l.Pool(db); pool != nil {
		return pool, nil
	}
	return l.Adopt(db)
}

// exec runs a statement in a database.
func (l *lab) exec(ctx context.Context, db, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	pool, err := l.pool(db)
	if err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, sql); err != nil {
		return fmt.Errorf("running %q in %s: %w", sql, db, err)
	}
	return nil
}

// served is what a Caddy of a scenario serves, and how.
type served struct {
	// pattern selects the databases. Default: their names.
	pattern   string
	databases []string
	// channels is the configuration string.
	channels string
	// options are further ones of the runner, and routes what a site does, if there is one at the
	// address site.
	options, site, routes string
}

// config is the configuration of a Caddy. The runner connects by a role that no other party has.
func (l *lab) config(s served) testbed.Config {
	if s.pattern == "" {
		s.pattern = s.databases[0]
	}
	return testbed.Config{Site: s.site, Routes: s.routes, Runners: []testbed.Runner{{
		Postgres:  fmt.Sprintf("postgres://%s@127.0.0.1:%d/postgres?sslmode=disable", runnerRole, l.Postgres.Port()),
		Databases: s.pattern, Channels: s.channels,
		Options: "upstream http://" + l.address + "\nshutdown_timeout 1s\n" + s.options,
	}}}
}

// caddy starts a Caddy; it may not be ready yet.
func (l *lab) caddy(ctx context.Context, s served) (*testbed.Caddy, error) {
	dir, err := l.Folder(l.dir)
	if err != nil {
		return nil, err
	}
	o := testbed.Options{Dir: dir, Config: l.config(s)}
	if l.profile == "" { // otherwise it is this program, see main
		o.Binary = l.binary
	}
	c, err := l.StartCaddy(ctx, o)
	if err != nil {
		return nil, err
	}
	return c, l.pinClients(c.PID())
}

// ready starts a Caddy and waits until it serves all databases.
func (l *lab) ready(ctx context.Context, s served) (*testbed.Caddy, error) {
	c, err := l.caddy(ctx, s)
	if err != nil {
		return nil, err
	}
	return c, c.WaitReady(ctx, readyTimeout, s.databases...)
}

// whileServed runs f while a Caddy that is ready serves databases.
func (l *lab) whileServed(ctx context.Context, s served, f func(*testbed.Caddy) error) (err error) {
	c, err := l.ready(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	return f(c)
}

// one is a single database that is served with a channel tree.
func one(db, channels string) served { return served{databases: []string{db}, channels: channels} }
