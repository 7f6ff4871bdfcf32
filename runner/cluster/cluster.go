// Package cluster has the maintenance connection of a runner: it takes the leader lock, lists the
// databases, and finds out which of them must be left alone.
package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/safego"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// Timeouts and intervals of the maintenance connection. Every call to the driver has one.
const (
	connectTimeout  = 10 * time.Second
	closeTimeout    = 2 * time.Second
	leadTimeout     = 5 * time.Second
	electedTimeout  = 5 * time.Second
	discoverTimeout = 10 * time.Second
	// leadInterval is the time between two checks of the leader lock, held or not.
	leadInterval = 2 * time.Second
	// busyInterval is the time between two checks for databases that are about to be dropped,
	// renamed or copied. PostgreSQL gives up after 5 s if we stay connected, so it must be well
	// below.
	busyInterval = time.Second
	// limitsInterval is the time between two counts of the connections.
	limitsInterval = 10 * time.Second
	// reconnectFirst and reconnectLimit bound the pause before the next connection.
	reconnectFirst = 500 * time.Millisecond
	reconnectLimit = 5 * time.Second
	// restartPause is the time before the next connection after a panic.
	restartPause = 5 * time.Second
)

// Config is what the connection needs of a runner's configuration. It is asked for again whenever
// it is needed, because it may change.
type Config struct {
	// Name tells runners apart; it is part of the leader lock's key.
	Name     string
	Driver   driver.Driver
	Postgres *pgx.ConnConfig
	// Databases are the patterns of [driver.Cluster].
	Databases []string
	// DiscoverInterval is the time between two listings of the databases.
	DiscoverInterval time.Duration
	// Elected is called when this process has become the leader, before the listener hears of it.
	// It may be nil.
	Elected func(ctx context.Context)
	// PollInterval is the time between two reads of how much was written to the databases, while
	// Watching, which may be nil, reports that there are some without a connection.
	PollInterval time.Duration
	Watching     func() bool
	Logger       *zap.Logger
}

// Listener is told what the maintenance connection finds out. Its methods are called from the
// connection's goroutine and must not block.
type Listener interface {
	// Leading reports whether this process leads the runner. Without a holder, no process is known
	// to lead.
	Leading(yes bool, holder string)
	// Unreachable reports that the cluster cannot be asked.
	Unreachable(err error)
	// Discovered brings the list of databases, and Busy the names of those that are being dropped,
	// renamed or copied; both only while this process leads.
	Discovered(dbs []driver.Database)
	// Limits brings how many connections there may be, before the first list of databases and then
	// every few seconds, while this process leads. It is not called where that cannot be told.
	Limits(l driver.Limits)
	// Writes brings how much has been written to the databases, by OID, while this process leads and
	// [Config.Watching] says that somebody wants to know.
	Writes(all map[uint32]driver.Writes)
	Busy(names []string)
}

// Maintenance keeps the maintenance connection.
type Maintenance struct {
	config func() Config
	out    Listener
	// kick asks for a discovery now.
	kick chan struct{}

	// fence is that of the last time that this process was seen to lead, nil before, and once it has given
	// the lead up.
	fence atomic.Pointer[driver.Fence]

	cluster driver.Cluster
	lead    bool
	busyNow []string
	// checked is set once busyNow has been reported on this connection and in this term of
	// leadership.
	checked bool
	// warned are the warnings that have been logged.
	warned []string
}

// New returns a connection that is not open yet.
func New(config func() Config, out Listener) *Maintenance {
	return &Maintenance{config: config, out: out, kick: make(chan struct{}, 1)}
}

// Rediscover has the databases listed now.
func (m *Maintenance) Rediscover() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Fence is what shows that this process leads. It is safe for concurrent use, and goes on to name a
// connection that is lost: nothing must be done by its lead.
func (m *Maintenance) Fence() driver.Fence {
	if f := m.fence.Load(); f != nil {
		return *f
	}
	return driver.Fence{}
}

// leaderKey derives the key of the leader lock from what makes a deployment: two of them in one
// cluster must not silence each other.
func leaderKey(cfg Config) int64 {
	patterns := slices.Sorted(slices.Values(cfg.Databases))
	sum := sha256.Sum256([]byte(strings.Join([]string{
		"caddy-jobrunner", cfg.Name, cfg.Postgres.User, strings.Join(patterns, " "),
	}, "\x00")))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 1)
}

// Run keeps a connection until ctx ends. After a panic there is another one.
func (m *Maintenance) Run(ctx context.Context) {
	log := func() *zap.Logger { return m.config().Logger }
	for ctx.Err() == nil && !safego.Run(log, "maintenance", func() { m.run(ctx) }) {
		// The connection is gone, and the leader lock with it.
		m.out.Unreachable(errors.New("panic"))
		timing.Sleep(ctx, restartPause)
	}
}

func (m *Maintenance) run(ctx context.Context) {
	pause := timing.Backoff{First: reconnectFirst, Limit: reconnectLimit}
	for ctx.Err() == nil {
		err := m.serve(ctx, &pause)
		if ctx.Err() != nil {
			return
		}
		m.out.Unreachable(err)
		if !timing.Sleep(ctx, pause.Next()) {
			return
		}
	}
}

// serve is the life of one maintenance connection.
func (m *Maintenance) serve(ctx context.Context, pause *timing.Backoff) error {
	cfg := m.config()
	err := timing.Within(ctx, connectTimeout, func(ctx context.Context) (err error) {
		m.cluster, err = cfg.Driver.OpenCluster(ctx, cfg.Postgres)
		return err
	})
	if err != nil {
		return fmt.Errorf("connect to the maintenance database %s: %w", cfg.Postgres.Database, err)
	}
	defer func() {
		_ = timing.Within(context.WithoutCancel(ctx), closeTimeout, m.cluster.Close)
	}()
	m.lead, m.checked = false, false
	key := leaderKey(cfg)
	var at due
	for {
		now := time.Now()
		if k := leaderKey(m.config()); k != key {
			if err := m.unlead(ctx, key); err != nil {
				return err
			}
			key, at.lead = k, time.Time{}
		}
		if !now.Before(at.lead) {
			led := m.lead
			if err := m.tryLead(ctx, key); err != nil {
				return err
			}
			if m.lead && !led {
				at, m.checked = due{}, false
			}
			at.lead = now.Add(timing.Jitter(leadInterval))
		}
		if err := m.attend(ctx, &at, now); err != nil {
			return err
		}
		pause.Reset()
		switch m.pause(ctx, time.Until(at.next(m.lead))) {
		case pauseEnded:
			return ctx.Err()
		case pauseKicked:
			at.discover = time.Time{}
		case pauseOver:
		}
	}
}

// due is when what is done now and then is due on one connection.
type due struct{ lead, limits, discover, busy, writes time.Time }

// next is when the first of these is.
func (d *due) next(leading bool) time.Time {
	if !leading {
		return d.lead
	}
	next := timing.Earliest(d.lead, d.limits, d.discover, d.busy)
	if !d.writes.IsZero() && d.writes.After(time.Now()) {
		next = timing.Earliest(next, d.writes)
	}
	return next
}

// attend does what a leader has to do now. How many connections there may be is known before there is
// a database to connect to.
func (m *Maintenance) attend(ctx context.Context, at *due, now time.Time) error {
	if !m.lead {
		return nil
	}
	if !now.Before(at.limits) {
		if err := m.limits(ctx); err != nil {
			return err
		}
		at.limits = now.Add(timing.Jitter(limitsInterval))
	}
	if !now.Before(at.discover) {
		if err := m.discover(ctx); err != nil {
			return err
		}
		at.discover = now.Add(timing.Jitter(m.config().DiscoverInterval))
	}
	if !now.Before(at.busy) {
		if err := m.checkBusy(ctx); err != nil {
			return err
		}
		at.busy = now.Add(busyInterval)
	}
	if watching := m.config().Watching; watching != nil && watching() && !now.Before(at.writes) {
		if err := m.writes(ctx); err != nil {
			return err
		}
		at.writes = now.Add(m.config().PollInterval)
	}
	return nil
}

// writes reports how much has been written to the databases. Where that cannot be told, it reports
// nothing, so that they are woken in turn.
func (m *Maintenance) writes(ctx context.Context) error {
	watcher, ok := m.cluster.(driver.Watcher)
	if !ok {
		return nil
	}
	var all map[uint32]driver.Writes
	err := timing.Within(ctx, discoverTimeout, func(ctx context.Context) (err error) {
		all, err = watcher.Writes(ctx)
		return err
	})
	switch {
	case errors.Is(err, driver.ErrLost):
		return fmt.Errorf("watch the databases: %w", err)
	case err != nil:
		m.warn("what is written to databases without a connection is not seen: " + err.Error())
		m.out.Writes(nil)
	default:
		m.out.Writes(all)
	}
	return nil
}

// limits reports how many connections there may be. That it cannot be told is no reason not to serve.
func (m *Maintenance) limits(ctx context.Context) error {
	limiter, ok := m.cluster.(driver.Limiter)
	if !ok {
		return nil
	}
	var l driver.Limits
	err := timing.Within(ctx, discoverTimeout, func(ctx context.Context) (err error) {
		l, err = limiter.Limits(ctx)
		return err
	})
	switch {
	case errors.Is(err, driver.ErrLost):
		return err
	case err != nil:
		m.warn("how many connections PostgreSQL allows is not known: " + err.Error())
	default:
		m.out.Limits(l)
	}
	return nil
}

// warn logs something once.
func (m *Maintenance) warn(w string) {
	if !slices.Contains(m.warned, w) {
		m.warned = append(m.warned, w)
		m.config().Logger.Warn(w)
	}
}

// advise logs what is unwise about the connection, each thing once.
func (m *Maintenance) advise(ctx context.Context) error {
	adviser, ok := m.cluster.(driver.Adviser)
	if !ok {
		return nil
	}
	return timing.Within(ctx, discoverTimeout, func(ctx context.Context) error {
		warnings, err := adviser.Warnings(ctx)
		for _, w := range warnings {
			m.warn(w)
		}
		return err
	})
}

type pauseResult uint8

const (
	pauseOver pauseResult = iota
	pauseKicked
	pauseEnded
)

func (m *Maintenance) pause(ctx context.Context, d time.Duration) pauseResult {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return pauseEnded
	case <-m.kick:
		return pauseKicked
	case <-t.C:
		return pauseOver
	}
}

// tryLead takes the leader lock, or checks that it is still held.
func (m *Maintenance) tryLead(ctx context.Context, key int64) error {
	var l driver.Lock
	err := timing.Within(ctx, leadTimeout, func(ctx context.Context) (err error) {
		l, err = m.cluster.Lead(ctx, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("take the leader lock: %w", err)
	}
	if l.Held && !m.lead {
		if err := m.advise(ctx); err != nil {
			return fmt.Errorf("look for rights that are not needed: %w", err)
		}
	}
	if elected := m.config().Elected; l.Held && !m.lead && elected != nil {
		_ = timing.Within(ctx, electedTimeout, func(ctx context.Context) error { elected(ctx); return nil })
	}
	m.lead = l.Held
	if fencer, ok := m.cluster.(driver.Fencer); ok && l.Held {
		fence := fencer.Fence(key)
		m.fence.Store(&fence)
	}
	if !l.Held && l.Holder == "" {
		l.Holder = "somebody unknown"
	}
	m.out.Leading(l.Held, l.Holder)
	return nil
}

func (m *Maintenance) unlead(ctx context.Context, key int64) error {
	if !m.lead {
		return nil
	}
	m.lead = false
	m.fence.Store(nil)
	m.out.Leading(false, "")
	err := timing.Within(ctx, leadTimeout, func(ctx context.Context) error { return m.cluster.Unlead(ctx, key) })
	if err != nil {
		return fmt.Errorf("give the leader lock back: %w", err)
	}
	return nil
}

func (m *Maintenance) discover(ctx context.Context) error {
	var dbs []driver.Database
	err := timing.Within(ctx, discoverTimeout, func(ctx context.Context) (err error) {
		dbs, err = m.cluster.Databases(ctx, m.config().Databases)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the databases: %w", err)
	}
	m.out.Discovered(dbs)
	return nil
}

// checkBusy reports databases that are being dropped, renamed or copied. The list of databases is
// another one afterwards.
func (m *Maintenance) checkBusy(ctx context.Context) error {
	var names []string
	err := timing.Within(ctx, discoverTimeout, func(ctx context.Context) (err error) {
		names, err = m.cluster.Busy(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("look for databases in use: %w", err)
	}
	if m.checked && slices.Equal(names, m.busyNow) {
		return nil
	}
	if m.checked {
		m.Rediscover()
	}
	m.busyNow, m.checked = names, true
	m.out.Busy(names)
	return nil
}

// Databases lists the databases on a connection that is opened for it.
func Databases(ctx context.Context, cfg Config) (dbs []driver.Database, err error) {
	err = timing.Within(ctx, discoverTimeout, func(ctx context.Context) error {
		c, err := cfg.Driver.OpenCluster(ctx, cfg.Postgres)
		if err != nil {
			return err
		}
		defer func() { _ = timing.Within(context.WithoutCancel(ctx), closeTimeout, c.Close) }()
		dbs, err = c.Databases(ctx, cfg.Databases)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	return dbs, nil
}
