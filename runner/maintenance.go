package runner

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Timing of the maintenance connection.
const (
	leadTimeout     = 5 * time.Second
	electedTimeout  = 5 * time.Second
	discoverTimeout = 10 * time.Second
	// leadInterval is the time between two checks of the leader lock, held or not.
	leadInterval = 2 * time.Second
	// busyInterval is the time between two looks for databases that somebody
	// wants to drop, rename or copy. PostgreSQL gives up after 5 s if we stay
	// connected, so it must be well below.
	busyInterval = time.Second
)

// overseer is told what the maintenance connection finds out. Its methods must
// not block.
type overseer interface {
	// leading reports whether this process leads the runner. Without a holder,
	// nobody is known to lead.
	leading(yes bool, holder string)
	// unreachable reports that the cluster cannot be asked.
	unreachable(err error)
	discovered(dbs []driver.Database)
	busy(names []string)
}

// maintenance owns the maintenance connection: leader lock, discovery and the
// look-out for databases that must be left alone.
type maintenance struct {
	config func() Config
	out    overseer
	// kick asks for a discovery now.
	kick chan struct{}

	cluster driver.Cluster
	lead    bool
	busyNow []string
	// looked is set once busyNow has been reported on this connection and in
	// this term of leadership.
	looked bool
}

func newMaintenance(config func() Config, out overseer) *maintenance {
	return &maintenance{config: config, out: out, kick: make(chan struct{}, 1)}
}

// rediscover makes the next look at the list of databases happen now.
func (m *maintenance) rediscover() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// leaderKey derives the key of the leader lock from what makes a deployment:
// two of them in one cluster must not silence each other.
func leaderKey(cfg Config) int64 {
	patterns := slices.Sorted(slices.Values(cfg.Databases))
	sum := sha256.Sum256([]byte(strings.Join([]string{
		"caddy-jobrunner", cfg.Name, cfg.Postgres.User, strings.Join(patterns, " "),
	}, "\x00")))
	return int64(binary.BigEndian.Uint64(sum[:8]) >> 1)
}

// run keeps a maintenance connection until ctx ends.
func (m *maintenance) run(ctx context.Context) {
	pause := backoff{first: reconnectFirst, limit: reconnectLimit}
	for ctx.Err() == nil {
		err := m.serve(ctx, &pause)
		if ctx.Err() != nil {
			return
		}
		m.out.unreachable(err)
		if !sleep(ctx, pause.next()) {
			return
		}
	}
}

// serve is the life of one maintenance connection.
func (m *maintenance) serve(ctx context.Context, pause *backoff) error {
	cfg := m.config()
	err := within(ctx, connectTimeout, func(ctx context.Context) (err error) {
		m.cluster, err = cfg.Driver.OpenCluster(ctx, cfg.Postgres)
		return err
	})
	if err != nil {
		return fmt.Errorf("connect to the maintenance database %s: %w", cfg.Postgres.Database, err)
	}
	defer func() {
		_ = within(context.WithoutCancel(ctx), closeTimeout, m.cluster.Close)
	}()
	m.lead, m.looked = false, false
	key := leaderKey(cfg)
	var leadAt, discoverAt, busyAt time.Time
	for {
		now := time.Now()
		if k := leaderKey(m.config()); k != key {
			if err := m.unlead(ctx, key); err != nil {
				return err
			}
			key, leadAt = k, time.Time{}
		}
		if !now.Before(leadAt) {
			led := m.lead
			if err := m.tryLead(ctx, key); err != nil {
				return err
			}
			if m.lead && !led {
				discoverAt, busyAt, m.looked = time.Time{}, time.Time{}, false
			}
			leadAt = now.Add(jitter(leadInterval))
		}
		if m.lead && !now.Before(discoverAt) {
			if err := m.discover(ctx); err != nil {
				return err
			}
			discoverAt = now.Add(jitter(m.config().DiscoverInterval))
		}
		if m.lead && !now.Before(busyAt) {
			if err := m.lookOut(ctx); err != nil {
				return err
			}
			busyAt = now.Add(busyInterval)
		}
		pause.reset()
		next := leadAt
		if m.lead {
			next = earliest(leadAt, discoverAt, busyAt)
		}
		switch m.pause(ctx, time.Until(next)) {
		case pauseEnded:
			return ctx.Err()
		case pauseKicked:
			discoverAt = time.Time{}
		case pauseOver:
		}
	}
}

type pauseResult uint8

const (
	pauseOver pauseResult = iota
	pauseKicked
	pauseEnded
)

func (m *maintenance) pause(ctx context.Context, d time.Duration) pauseResult {
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
func (m *maintenance) tryLead(ctx context.Context, key int64) error {
	var l driver.Lock
	err := within(ctx, leadTimeout, func(ctx context.Context) (err error) {
		l, err = m.cluster.Lead(ctx, key)
		return err
	})
	if err != nil {
		return fmt.Errorf("take the leader lock: %w", err)
	}
	if elected := m.config().Elected; l.Held && !m.lead && elected != nil {
		_ = within(ctx, electedTimeout, func(ctx context.Context) error { elected(ctx); return nil })
	}
	m.lead = l.Held
	if !l.Held && l.Holder == "" {
		l.Holder = "somebody unknown"
	}
	m.out.leading(l.Held, l.Holder)
	return nil
}

func (m *maintenance) unlead(ctx context.Context, key int64) error {
	if !m.lead {
		return nil
	}
	m.lead = false
	m.out.leading(false, "")
	err := within(ctx, leadTimeout, func(ctx context.Context) error { return m.cluster.Unlead(ctx, key) })
	if err != nil {
		return fmt.Errorf("give the leader lock back: %w", err)
	}
	return nil
}

func (m *maintenance) discover(ctx context.Context) error {
	var dbs []driver.Database
	err := within(ctx, discoverTimeout, func(ctx context.Context) (err error) {
		dbs, err = m.cluster.Databases(ctx, m.config().Databases)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the databases: %w", err)
	}
	m.out.discovered(dbs)
	return nil
}

// lookOut reports databases that are being dropped, renamed or copied. After
// such a thing the list of databases is another one.
func (m *maintenance) lookOut(ctx context.Context) error {
	var names []string
	err := within(ctx, discoverTimeout, func(ctx context.Context) (err error) {
		names, err = m.cluster.Busy(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("look for databases in use: %w", err)
	}
	if m.looked && slices.Equal(names, m.busyNow) {
		return nil
	}
	if m.looked {
		m.rediscover()
	}
	m.busyNow, m.looked = names, true
	m.out.busy(names)
	return nil
}

// earliest returns the first of several moments.
func earliest(first time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if t.Before(first) {
			first = t
		}
	}
	return first
}
