package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// databases are those of the demonstration.
var databases = []string{"demo_factory", "demo_shop"}

const (
	odooServers = 2
	// odooWorkers is the number of worker processes that each server plays.
	odooWorkers = 8
	// closeTimeout bounds the closing of a connection.
	closeTimeout = 2 * time.Second
)

// stage is everything that the demonstration runs: PostgreSQL, the databases,
// the servers and Caddy.
type stage struct {
	dir      string
	postgres *pgtest.Cluster
	conns    map[string]*pgx.Conn
	recorder *odoostub.Recorder
	odoo     []*odoostub.Server
	caddy    *caddy
}

// open starts everything. What it returns has to be closed, also on error.
func open(ctx context.Context, binary string) (*stage, error) {
	s := &stage{conns: make(map[string]*pgx.Conn), recorder: &odoostub.Recorder{}}
	var err error
	if s.dir, err = os.MkdirTemp("", "jobrunner-demo-"); err != nil {
		return s, fmt.Errorf("making a folder: %w", err)
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return s, fmt.Errorf("finding caddy: %w", err)
	}
	say("starting PostgreSQL")
	// Commits are as slow as real ones: the latency is meant to be believed.
	if s.postgres, err = pgtest.Start(ctx, pgtest.Options{Durable: true}); err != nil {
		return s, err
	}
	for _, db := range databases {
		if err := s.createDatabase(ctx, db); err != nil {
			return s, err
		}
	}
	say("starting %d Odoo servers with %d workers each", odooServers, odooWorkers)
	for i := range odooServers {
		odoo, err := odoostub.New(odoostub.Options{
			Name: fmt.Sprintf("odoo-%d", i+1), Workers: odooWorkers, Postgres: s.postgres.ConnConfig, Recorder: s.recorder,
		})
		if err != nil {
			return s, fmt.Errorf("starting an Odoo server: %w", err)
		}
		s.odoo = append(s.odoo, odoo)
	}
	say("starting Caddy")
	c, err := startCaddy(ctx, binary, s.dir, settings{
		DSN: s.postgres.DSN("postgres"), Databases: "demo_*", Channels: tree, Upstreams: s.addresses(),
	})
	if err != nil {
		return s, err
	}
	s.caddy = c
	return s, s.caddy.waitReady(ctx, databases)
}

// createDatabase makes a database of Odoo with the add-on.
func (s *stage) createDatabase(ctx context.Context, db string) error {
	if err := s.postgres.CreateDatabase(ctx, db, ""); err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, s.postgres.ConnConfig(db))
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", db, err)
	}
	s.conns[db] = conn
	if err := odoostub.Install(ctx, conn, odoostub.QueueJobLock); err != nil {
		return fmt.Errorf("installing queue_job in %s: %w", db, err)
	}
	return nil
}

// addresses returns those of the Odoo servers.
func (s *stage) addresses() []string {
	addresses := make([]string, len(s.odoo))
	for i, odoo := range s.odoo {
		addresses[i] = odoo.Addr()
	}
	return addresses
}

// leftovers returns the jobs of all databases that are not finished.
func (s *stage) leftovers(ctx context.Context) ([]odoostub.Leftover, error) {
	var all []odoostub.Leftover
	for _, db := range databases {
		left, err := odoostub.Leftovers(ctx, s.conns[db])
		if err != nil {
			return nil, fmt.Errorf("in %s: %w", db, err)
		}
		all = append(all, left...)
	}
	return all, nil
}

// close ends everything, the last first, and removes all files.
func (s *stage) close() error {
	var errs []error
	if s.caddy != nil {
		errs = append(errs, s.caddy.Stop())
	}
	for _, odoo := range slices.Backward(s.odoo) {
		errs = append(errs, odoo.Close())
	}
	for _, conn := range s.conns {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		_ = conn.Close(ctx) // the cluster goes anyway
		cancel()
	}
	if s.postgres != nil {
		errs = append(errs, s.postgres.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// say tells what happens.
func say(format string, args ...any) {
	fmt.Fprintln(os.Stdout, strings.TrimRight(fmt.Sprintf(format, args...), "\n"))
}
