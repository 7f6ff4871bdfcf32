// Package testbed runs the whole system on one machine: PostgreSQL with
// databases of Odoo, servers that play Odoo, proxies that break connections, and
// real Caddys with this module. The demonstration, the benchmarks and the test
// suites are built on it.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

var beds atomic.Int64

// Bed is what Caddy works with. Its servers share a recorder and gates. It is
// safe for concurrent use.
type Bed struct {
	// ID begins the names of all that belongs to this bed in a shared cluster.
	ID       string
	Postgres *pgtest.Cluster
	Recorder *odoostub.Recorder
	Gates    *odoostub.Gates
	// Odoo are the servers, in the order in which they were added.
	Odoo []*odoostub.Server

	owned   bool // the cluster goes with the bed
	mu      sync.Mutex
	pools   map[string]*pgxpool.Pool
	closers []func() error
}

// On makes a bed on a cluster that others may use, too.
func On(pg *pgtest.Cluster) *Bed {
	return &Bed{
		ID: "bed" + strconv.FormatInt(beds.Add(1), 10), Postgres: pg,
		Recorder: new(odoostub.Recorder), Gates: new(odoostub.Gates), pools: make(map[string]*pgxpool.Pool),
	}
}

// Open makes a bed with a cluster that ends with it.
func Open(ctx context.Context, o pgtest.Options) (*Bed, error) {
	pg, err := pgtest.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	b := On(pg)
	b.owned = true
	b.OnClose(pg.Close)
	return b, nil
}

// OnClose has Close call a function, before those that were added earlier.
func (b *Bed) OnClose(f func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closers = append(b.closers, f)
}

// Close ends everything, the last first.
func (b *Bed) Close() error {
	b.mu.Lock()
	closers := b.closers
	b.closers = nil
	b.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// Folder makes a folder in another one, or in that for temporary files, which is
// removed in the end.
func (b *Bed) Folder(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "jobrunner-")
	if err != nil {
		return "", fmt.Errorf("making a folder: %w", err)
	}
	b.OnClose(func() error { return os.RemoveAll(dir) })
	return dir, nil
}

// AddDatabase makes a database of Odoo with the add-on installed.
func (b *Bed) AddDatabase(ctx context.Context, name string, gen odoostub.Generation) (*pgxpool.Pool, error) {
	if err := b.Postgres.CreateDatabase(ctx, name, ""); err != nil {
		return nil, err
	}
	pool, err := b.Adopt(name)
	if err != nil {
		return nil, err
	}
	if err := odoostub.Install(ctx, pool, gen); err != nil {
		return nil, fmt.Errorf("installing the add-on in %s: %w", name, err)
	}
	return pool, nil
}

// Adopt takes care of a database that exists: it opens a pool, and drops the
// database in the end.
func (b *Bed) Adopt(name string) (*pgxpool.Pool, error) {
	if !b.owned {
		b.OnClose(func() error {
			if !b.Postgres.Running() {
				return nil
			}
			return b.Postgres.DropDatabase(context.Background(), name)
		})
	}
	pool, err := pgxpool.New(context.Background(), b.Postgres.DSN(name))
	if err != nil {
		return nil, fmt.Errorf("opening a pool for %s: %w", name, err)
	}
	b.OnClose(func() error { pool.Close(); return nil })
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pools[name] = pool
	return pool, nil
}

// Leave closes all connections of the bed and of its servers to a database that
// others are about to copy, rename or drop. It is not among the databases any
// more.
func (b *Bed) Leave(name string) {
	b.mu.Lock()
	pool := b.pools[name]
	delete(b.pools, name)
	b.mu.Unlock()
	if pool != nil {
		pool.Close()
	}
	for _, s := range b.Odoo {
		s.Forget(name)
	}
}

// Pool returns the connections to a database; nil if it is not the bed's.
func (b *Bed) Pool(name string) *pgxpool.Pool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pools[name]
}

// Databases returns the names of the databases, sorted.
func (b *Bed) Databases() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.pools))
}

// AddServer starts a server that plays Odoo, for any database of the cluster. It
// connects as a superuser, unless the options say otherwise.
func (b *Bed) AddServer(o odoostub.Options) (*odoostub.Server, error) {
	if o.Postgres == nil {
		o.Postgres = b.Postgres.ConnConfig
	}
	o.Recorder, o.Gates = b.Recorder, b.Gates
	s, err := odoostub.New(o)
	if err != nil {
		return nil, fmt.Errorf("starting an Odoo server: %w", err)
	}
	b.Odoo = append(b.Odoo, s)
	b.OnClose(s.Close)
	return s, nil
}

// AddProxy starts a proxy to an address.
func (b *Bed) AddProxy(target string) (*faultproxy.Proxy, error) {
	p, err := faultproxy.New(target)
	if err != nil {
		return nil, fmt.Errorf("starting a proxy: %w", err)
	}
	b.OnClose(p.Close)
	return p, nil
}

// AddSocketProxy starts a proxy to a Unix socket, on another one.
func (b *Bed) AddSocketProxy(target, path string) (*faultproxy.Proxy, error) {
	p, err := faultproxy.NewSocket(target, path)
	if err != nil {
		return nil, fmt.Errorf("starting a proxy: %w", err)
	}
	b.OnClose(p.Close)
	return p, nil
}

// StartCaddy starts a Caddy that is stopped in the end. Its folder is a new one,
// unless the options say otherwise.
func (b *Bed) StartCaddy(ctx context.Context, o Options) (*Caddy, error) {
	if o.Dir == "" {
		var err error
		if o.Dir, err = b.Folder(""); err != nil {
			return nil, err
		}
	}
	c, err := Start(ctx, o)
	if err != nil {
		return nil, err
	}
	b.OnClose(c.Stop)
	return c, nil
}
