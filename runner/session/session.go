// Package session has the connection to one database: it connects, examines the database, takes its
// lock, listens, reads every job, and then carries orders out and reads what notifications name,
// until the connection is lost; again and again, until its context ends.
//
// A session is told what to do by the methods of [Session], which never block, and reports to a
// [Listener].
//
// # No gap
//
// LISTEN is committed before the snapshot is read. A commit before the snapshot is seen by the
// snapshot; a commit after LISTEN arrives as a notification; one in between is seen twice, so
// applying a row must be idempotent.
package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/safego"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// Timeouts and intervals of a connection. Every call to the driver has one.
const (
	connectTimeout     = 10 * time.Second
	fingerprintTimeout = 10 * time.Second
	lockTimeout        = 5 * time.Second
	listenTimeout      = 5 * time.Second
	closeTimeout       = 2 * time.Second

	// lockInterval is the time between two attempts to take a lock that another program has.
	lockInterval = 2 * time.Second
	// foundFresh is for how long what was found about a database holds without being asked for again.
	foundFresh = time.Second

	// reconnectFirst and reconnectLimit bound the pause before the next connection.
	reconnectFirst = 500 * time.Millisecond
	reconnectLimit = 5 * time.Second
	// stableAfter is how long a connection must have served before the next one is made without a
	// growing pause.
	stableAfter = 10 * time.Second
)

// Config is what a session needs of a runner's configuration. It is asked for again whenever it is
// needed, because it may change.
type Config struct {
	Driver   driver.Driver
	Postgres *pgx.ConnConfig
	// Pooler is set where sessions go through a pooler, of which the driver is capable, and do not
	// listen. Poll is then the time between two reads of all jobs, at least.
	Pooler *pgx.ConnConfig
	Poll   time.Duration
	// Fence is what shows that this process leads, for sessions through a pooler. Default: nothing does.
	Fence func() driver.Fence
	// DatabaseChannels is set where the channels that are configured in the database count.
	DatabaseChannels bool
	// UpgradeGate is set where nothing is to be claimed while the application is being changed. The
	// driver is capable of telling.
	UpgradeGate bool
	// Keys are those of jobs that count. The driver is capable of telling them.
	Keys driver.Keys
	// DiscoverInterval is the time between two connections to a database that has nothing to serve.
	DiscoverInterval time.Duration
	// Queue is that of all sessions of the cluster. Default: none.
	Queue  *Queue
	Logger *zap.Logger
}

// Session serves one database. The methods that give orders, and Pulse, are safe for concurrent use.
type Session struct {
	database string
	config   func() Config
	out      Listener

	conn driver.Session
	// turn is its place among those that want to connect.
	turn turn

	mu        sync.Mutex // guards the following
	todo      orders
	interrupt context.CancelFunc
	// granted is set while the session may claim one job by itself that it does not name, and claiming is
	// the job that it has begun to claim so, at claimingAt.
	granted    func(uuid string) bool
	claiming   string
	claimingAt time.Time

	// The rest belongs to the session's goroutine.
	dirty    backlog
	foreseen foreseen
	read     uint64            // the last order to read that dirty contains
	heard    time.Time         // when PostgreSQL was last heard
	batch    int               // the size of the next read, if that is one of many
	notified int               // the notifications that the listener has not been told of
	reload   bool              // the database's channels have changed
	overflow bool              // more jobs were named than are kept
	channels []channels.Config // as they were read last
	young    bool              // somebody may still be making the database
	// examinedAt is when it was last asked what the database is.
	examinedAt time.Time
	// echoSince is when the oldest claim without an echo was made; zero if there is none.
	echoSince time.Time
	resyncAt  time.Time
	// polls is set while the session hears no notifications.
	polls poll
	// lockedUntil is when the next snapshot may be tried, after a lock was met.
	lockedUntil time.Time
	lockedTold  time.Time // when the log was last told of a lock
	// readAfter and claimAfter are when jobs may be read, and claimed, again, after that met a lock.
	readAfter, claimAfter time.Time
	// refused is set since a claim met a lock until one does not: one job is enough to find that out.
	refused bool
	probed  time.Time // when the last probe began, or the last snapshot ended
	// dependents are the jobs that are to be looked at because nobody may have released them.
	dependents []dependents
	// tooLong are jobs that it takes too long to look at, by their numbers.
	tooLong map[int64]bool
	// countAt is when the jobs may be counted again, should the database not be served.
	countAt time.Time
	// gating is set while upgrades are watched, upgrade is what was seen of one at upgradeAt, which is
	// zero if nothing was on this connection.
	gating    bool
	upgrade   driver.Upgrade
	upgradeAt time.Time
	// rest is what was found before the connection was closed because there was nothing to do.
	rest driver.Rest

	pulse pulse
}

// New returns a session of a database. [Session.Run] connects it.
func New(database string, config func() Config, out Listener) *Session {
	return &Session{database: database, config: config, out: out}
}

// Run serves the database until ctx ends. A panic ends one connection, not the service.
func (s *Session) Run(ctx context.Context) {
	log := func() *zap.Logger { return s.config().Logger }
	for ctx.Err() == nil && !safego.Run(log, "session", func() { s.run(ctx) }) {
		s.out.State(Lost, "panic")
		timing.Sleep(ctx, reconnectLimit)
	}
}

func (s *Session) run(ctx context.Context) {
	pause := timing.Backoff{First: reconnectFirst, Limit: reconnectLimit}
	for ctx.Err() == nil {
		s.out.State(Connecting, "")
		found, err := s.serve(ctx, &pause)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errAsleep) {
			s.out.Asleep(s.rest)
			return
		}
		d := pause.Next()
		if err == nil && (found.Health == driver.Undetected || found.Health == driver.Neutralized) {
			// No connection is kept; the application may be installed some day, or the mark
			// removed.
			d = timing.Jitter(s.config().DiscoverInterval)
			pause.Reset()
		}
		if !timing.Sleep(ctx, d) {
			return
		}
	}
}

// serve is one connection's life. A nil error means that there is nothing to
// serve, for the reason that the fingerprint gives.
func (s *Session) serve(ctx context.Context, pause *timing.Backoff) (found driver.Fingerprint, err error) {
	cfg := s.config()
	waited := false
	err = cfg.Queue.connect(ctx, cfg.Logger, &s.turn, func(cause string) {
		waited = true
		s.out.State(Waiting, cause)
	}, func() error {
		cfg := s.config()
		return timing.Within(ctx, connectTimeout, func(ctx context.Context) (err error) {
			s.conn, err = open(ctx, cfg, s.database)
			return err
		})
	})
	if err != nil {
		s.out.State(Unreachable, err.Error())
		return found, err
	}
	defer cfg.Queue.release() // once it is closed
	if waited {
		s.out.State(Connecting, "")
	}
	defer s.close(ctx)
	found, err = s.prepare(ctx)
	if err != nil || found.Health != driver.Healthy {
		if err != nil && ctx.Err() == nil && !errors.Is(err, errCrowded) {
			s.out.State(Unreachable, err.Error())
		}
		return found, err
	}
	s.startPolling()
	s.pulse.begin()
	// From here on the engine knows the session: orders of an earlier
	// connection mean nothing to this one. An option that has changed does.
	if s.take().upgrade {
		s.CheckUpgrade()
	}
	s.Withdraw() // the slot that was free then may not be now
	s.dirty.clear()
	s.foreseen = foreseen{}
	s.batch = 0
	s.dependents, s.tooLong = nil, nil
	s.echoSince, s.lockedUntil = time.Time{}, time.Time{}
	s.readAfter, s.claimAfter = time.Time{}, time.Time{}
	if err = s.running(ctx); err == nil {
		err = s.snapshot(ctx)
	}
	if err == nil {
		began := time.Now()
		if err = s.loop(ctx); time.Since(began) >= stableAfter {
			pause.Reset()
		}
	}
	s.pulse.end()
	if !errors.Is(err, errAsleep) {
		s.lost(err)
	}
	return found, err
}

// lost reports why a connection ended that had been established. There is always an error, if only
// that of the context.
func (s *Session) lost(err error) {
	state := Lost
	switch {
	case errors.Is(err, driver.ErrChanged):
		state = Changed
	case errors.Is(err, driver.ErrRival):
		state = Standby
		s.config().Logger.Warn("another runner has taken the lock of the database: this one yields, and serves it again when the lock is free",
			zap.String("database", s.database))
	}
	s.out.State(state, err.Error())
}

// prepare goes the way from a connection to one that holds the lock and listens.
func (s *Session) prepare(ctx context.Context) (found driver.Fingerprint, err error) {
	if found, err = s.fingerprint(ctx); err != nil {
		return found, err
	}
	s.out.Fingerprinted(found)
	s.upgradeAt = time.Time{}
	if found.Health == driver.Healthy {
		if err := s.checkUpgrade(ctx); err != nil {
			return found, err
		}
		if err := s.settle(ctx, &found); err != nil {
			return found, err
		}
	}
	switch found.Health {
	case driver.Neutralized:
		return found, s.running(ctx)
	case driver.Undetected:
		s.young = true // whatever comes is being made
		return found, nil
	case driver.Unhealthy:
		if found.Generation != "" {
			_ = s.checkUpgrade(ctx) // an upgrade may be why; if that cannot be told, the reason is what was found
			s.count(ctx)
		}
		s.young = s.young || s.pulse.synced.Load() == 0 // or it was found while it was being made
		return found, nil
	case driver.Healthy:
	}
	if err := s.lock(ctx); err != nil {
		return found, err
	}
	if time.Since(s.examinedAt) >= foundFresh {
		// It may be hours old after a wait, and seconds where the server is slow.
		if err := s.recheckAs(ctx, &found); err != nil || found.Health != driver.Healthy {
			return found, err
		}
	}
	if err := timing.Within(ctx, listenTimeout, s.conn.Listen); err != nil {
		return found, fmt.Errorf("listen: %w", err)
	}
	return found, nil
}

func (s *Session) fingerprint(ctx context.Context) (found driver.Fingerprint, err error) {
	s.examinedAt = time.Now()
	err = s.call(ctx, "fingerprint", fingerprintTimeout, func(ctx context.Context) (err error) {
		s.follow()
		s.readKeys()
		found, err = s.conn.Fingerprint(ctx)
		return err
	})
	return found, err
}

// follow tells the connection which driver is in force.
func (s *Session) follow() {
	if follower, ok := s.conn.(driver.Follower); ok {
		follower.Follow(s.config().Driver)
	}
}

// recheck finds out whether the database is what it was when the connection was made: the
// application can be removed, or brought up to another generation.
func (s *Session) recheck(ctx context.Context) error {
	found, err := s.fingerprint(ctx)
	if err != nil {
		return err
	}
	s.out.Fingerprinted(found)
	if found.Health != driver.Healthy {
		return fmt.Errorf("%w: %s: %s", driver.ErrChanged, found.Health, found.Description)
	}
	return nil
}

// recheckAs examines the database once more after a wait. Another generation is an error, because its
// lock may be another one.
func (s *Session) recheckAs(ctx context.Context, found *driver.Fingerprint) error {
	before := found.Generation
	now, err := s.fingerprint(ctx)
	if err != nil {
		return err
	}
	*found = now
	s.out.Fingerprinted(now)
	if now.Health == driver.Healthy && now.Generation != before {
		return fmt.Errorf("%w: it was %s, and is %s", driver.ErrChanged, before, now.Generation)
	}
	return nil
}

// lock waits until no other runner serves the database.
func (s *Session) lock(ctx context.Context) error {
	began := time.Now()
	for {
		var l driver.Lock
		err := timing.Within(ctx, lockTimeout, func(ctx context.Context) (err error) {
			l, err = s.conn.Lock(ctx)
			return err
		})
		if err != nil {
			return fmt.Errorf("take the runner lock: %w", err)
		}
		if l.Held {
			return nil
		}
		s.out.State(Standby, l.Holder)
		if time.Since(began) >= lockPatience && s.config().Queue.crowded() {
			return errCrowded
		}
		if !timing.Sleep(ctx, timing.Jitter(lockInterval)) {
			return ctx.Err()
		}
	}
}

// close ends the connection; the database's lock goes with it. Nothing remembers the connection: a
// session may go on without one for hours, and there may be thousands of them.
func (s *Session) close(ctx context.Context) {
	_ = timing.Within(context.WithoutCancel(ctx), closeTimeout, s.conn.Close)
	s.conn = nil
}

// call makes one call to the driver. A statement that failed although the
// connection lives is as bad as a lost connection: what it should have done is
// not done, and a new snapshot is the way to know what holds.
func (s *Session) call(ctx context.Context, doing string, timeout time.Duration, f func(context.Context) error) error {
	if err := timing.Within(ctx, timeout, f); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	s.heard = time.Now()
	s.pulse.beat(s.heard)
	return nil
}
