package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

const (
	// runnerRole is the role of the runner, so that its statements can be told
	// from those of the stub. Odoo's tables belong to somebody else.
	runnerRole = "jobrunner"
	// stubWorkers is more than any channel tree here lets run at once.
	stubWorkers = 64
	// statementTimeout bounds statements on the jobs, the longest of which
	// inserts millions.
	statementTimeout = 20 * time.Minute
	// closeTimeout bounds the closing of a connection.
	closeTimeout = 2 * time.Second
)

// settings of PostgreSQL: those of a small server that is looked after. Commits
// are as durable as always; no checkpoint falls into a measurement by chance.
var settings = map[string]string{
	"shared_buffers": "512MB", "max_wal_size": "16GB", "checkpoint_timeout": "30min",
	"maintenance_work_mem": "256MB", "max_connections": "600",
}

// lab is what one scenario works with: a cluster, databases with the add-on,
// and the stub. Caddys come and go.
type lab struct {
	*bench
	dir     string
	pg      *pgtest.Cluster
	conns   map[string]*pgx.Conn
	stub    *stub
	caddies []*caddy
	closers []func() error
}

// withLab runs a scenario's part in a lab of its own.
func (b *bench) withLab(ctx context.Context, databases []string, f func(context.Context, *lab) error) (err error) {
	l := &lab{bench: b, conns: make(map[string]*pgx.Conn)}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.open(ctx, databases); err != nil {
		return err
	}
	return f(ctx, l)
}

// open starts everything. What it leaves has to be closed, also on error.
func (l *lab) open(ctx context.Context, databases []string) (err error) {
	if l.dir, err = os.MkdirTemp(l.bench.dir, "jobrunner-bench-"); err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	if err := l.startPostgres(ctx); err != nil {
		return err
	}
	if err := l.pg.Exec(ctx, "postgres", "CREATE ROLE "+runnerRole+" LOGIN SUPERUSER"); err != nil {
		return err
	}
	for _, db := range databases {
		if err := l.createDatabase(ctx, db); err != nil {
			return err
		}
	}
	l.stub, err = startStub(ctx, l.pg.DSN("postgres"), stubWorkers)
	return err
}

// startPostgres starts the cluster, with the extension that counts statements if
// the server has it.
func (l *lab) startPostgres(ctx context.Context) (err error) {
	s := maps.Clone(settings)
	s["shared_preload_libraries"], s["pg_stat_statements.track"] = "pg_stat_statements", "none"
	options := pgtest.Options{Dir: l.bench.dir, Durable: true, Settings: s}
	if l.pg, err = pgtest.Start(ctx, options); err != nil && ctx.Err() == nil {
		options.Settings = settings
		l.pg, err = pgtest.Start(ctx, options)
	}
	if err != nil {
		return err
	}
	conn, err := l.connect(ctx, "postgres")
	if err != nil {
		return err
	}
	var version string
	if err := conn.QueryRow(ctx, "SHOW server_version").Scan(&version); err != nil {
		return fmt.Errorf("asking for the version: %w", err)
	}
	l.report.know("PostgreSQL", version+", fsync, full_page_writes and synchronous_commit on, shared_buffers "+settings["shared_buffers"])
	return nil
}

// createDatabase makes a database of Odoo with the add-on.
func (l *lab) createDatabase(ctx context.Context, db string) error {
	if err := l.pg.CreateDatabase(ctx, db, ""); err != nil {
		return err
	}
	conn, err := l.connect(ctx, db)
	if err != nil {
		return err
	}
	if err := odoostub.Install(ctx, conn, odoostub.QueueJobLock); err != nil {
		return fmt.Errorf("installing queue_job in %s: %w", db, err)
	}
	return nil
}

// connect returns the lab's own connection to a database.
func (l *lab) connect(ctx context.Context, db string) (*pgx.Conn, error) {
	if conn := l.conns[db]; conn != nil {
		return conn, nil
	}
	conn, err := pgx.ConnectConfig(ctx, l.pg.ConnConfig(db))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", db, err)
	}
	l.conns[db] = conn
	return conn, nil
}

// disconnect closes the lab's connection to a database that is to be copied.
func (l *lab) disconnect(ctx context.Context, db string) {
	if conn := l.conns[db]; conn != nil {
		_ = conn.Close(ctx) // it goes anyway
		delete(l.conns, db)
	}
}

// exec runs a statement in a database.
func (l *lab) exec(ctx context.Context, db, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := l.connect(ctx, db)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("running %q in %s: %w", sql, db, err)
	}
	return nil
}

// runnerDSN is how the runner connects.
func (l *lab) runnerDSN() string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/postgres?sslmode=disable", runnerRole, l.pg.Port())
}

// close ends everything, the last first, and removes all files.
func (l *lab) close() error {
	var errs []error
	for _, c := range l.caddies {
		errs = append(errs, c.Stop())
	}
	for _, f := range l.closers {
		errs = append(errs, f())
	}
	if l.stub != nil {
		errs = append(errs, l.stub.stop())
	}
	for _, conn := range l.conns {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		_ = conn.Close(ctx) // the cluster goes anyway
		cancel()
	}
	if l.pg != nil {
		errs = append(errs, l.pg.Close())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}
