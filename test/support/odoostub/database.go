package odoostub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// queryTimeout bounds whatever a server asks of the database, waits for row
// locks included.
const queryTimeout = 30 * time.Second

// Error codes of PostgreSQL.
const (
	invalidCatalogName   = "3D000"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
)

var errNoAddon = errors.New("the database or its add-on does not exist")

// database is a server's view of one database.
type database struct {
	name    string
	pool    *pgxpool.Pool
	locks   bool // there is a lock table
	columns bool // there are the columns of 12.0
	// connector is set when it is one of connector, bound when its requests need
	// a session that is bound to the database.
	connector, bound bool
	channel          bool // there is the column of that name
}

// database returns the view of a database; it is made at the first request.
func (s *Server) database(ctx context.Context, name string) (*database, error) {
	s.mu.Lock()
	d := s.databases[name]
	s.mu.Unlock()
	if d != nil {
		return d, nil
	}
	d, err := s.openDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.databases[name]; other != nil { // another worker was faster
		d.pool.Close()
		return other, nil
	}
	s.databases[name] = d
	return d, nil
}

func (s *Server) openDatabase(ctx context.Context, name string) (*database, error) {
	conn := s.opts.Postgres(name)
	config, err := pgxpool.ParseConfig(conn.ConnString())
	if err != nil {
		return nil, fmt.Errorf("configuring a pool: %w", err)
	}
	config.ConnConfig = conn.Copy()
	config.ConnConfig.RuntimeParams["application_name"] = "odoo-" + s.opts.Name
	config.MaxConns = int32(2*s.opts.Workers + 1) //nolint:gosec // a worker needs two at most
	if t := s.opts.IdleTime; t > 0 {
		config.MaxConnIdleTime, config.HealthCheckPeriod = t, t/2
	}
	pool, err := pgxpool.NewWithConfig(s.ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening a pool: %w", err)
	}
	d := &database{name: name, pool: pool}
	if err := d.detect(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return d, nil
}

// detect finds out the generation.
func (d *database) detect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var installed bool
	err := d.pool.QueryRow(ctx, `SELECT to_regclass('queue_job') IS NOT NULL, to_regclass('queue_job_lock') IS NOT NULL,
		EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('queue_job') AND attname = 'exc_name' AND NOT attisdropped),
		EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('queue_job') AND attname = 'func' AND NOT attisdropped),
		EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('queue_job') AND attname = 'channel' AND NOT attisdropped)`,
	).Scan(&installed, &d.locks, &d.columns, &d.connector, &d.channel)
	if hasCode(err, invalidCatalogName) || err == nil && !installed {
		return errNoAddon
	}
	if err != nil {
		return fmt.Errorf("detecting the generation: %w", err)
	}
	if !d.connector {
		return nil
	}
	err = d.pool.QueryRow(ctx, "SELECT latest_version NOT LIKE '7.%' FROM ir_module_module WHERE name = 'connector'").Scan(&d.bound)
	if err != nil {
		return fmt.Errorf("detecting the generation: %w", err)
	}
	return nil
}

// Forget closes the connections to a database and looks at it anew with the next
// request, as a restart of Odoo after an upgrade does. It waits for the jobs
// that run there.
func (s *Server) Forget(name string) {
	s.mu.Lock()
	d := s.databases[name]
	delete(s.databases, name)
	s.mu.Unlock()
	if d != nil {
		d.pool.Close()
	}
}

// abort ends a session as the death of its process does, without a word.
func abort(c *pgxpool.Conn) {
	_ = c.Conn().PgConn().Conn().Close()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	_ = c.Conn().Close(ctx) // tells pgx, PostgreSQL knows already
	c.Release()
}

// hasCode reports whether an error is one of PostgreSQL's with one of the codes.
func hasCode(err error, codes ...string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	return slices.Contains(codes, pgErr.Code)
}

// concurrency reports whether Odoo repeats what met this error.
func concurrency(err error) bool {
	return hasCode(err, serializationFailure, deadlockDetected, lockNotAvailable)
}

// snapshot is the isolation in which Odoo works.
var snapshot = pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
