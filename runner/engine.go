package runner

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/cluster"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

const (
	// passLimit bounds the jobs that one scheduling pass starts, so that a large pass does not keep
	// the loop from its other work.
	passLimit = 1000
	// targetsInterval is the time between two look-ups of the servers.
	targetsInterval = 2 * time.Second
)

// engine is the loop that owns the channel tree and the tasks. All its methods run in the loop's
// goroutine, except exchangeEnded; what other goroutines report is posted in reports.go.
type engine struct {
	config func() Config
	mail   *mailbox
	pool   *upstream.Pool
	maint  *cluster.Maintenance
	spawn  func(name string, f func())
	ctx    context.Context //nolint:containedctx // the life of the engine

	tree        *channels.Forest
	connections connections
	rotation    rotation
	watching    *atomic.Bool // while a database is asleep
	databases   *databases
	tasks       map[channels.Key]*task
	// granted is the database whose session may claim a job by itself, nil if none may. While the
	// loop works, it is one whose session does.
	granted *database
	seats   seats
	delays  delays
	notes   *notes

	leadership leadership
	// controls are what operators have ordered; pausedAll is the one that concerns everything.
	controls  Controls
	pausedAll *Pause
	shutdown  shutdown
	handover  handover
	timeouts  timeouts
	// rules is what policies say of channels, written down.
	rules    string
	setbacks setbacks
	size     size
	scanAt   time.Time
	// releases are the jobs that may have left others waiting.
	releases releases
	// inheriting is the open of the database whose snapshot is being applied, nil outside of that.
	inheriting map[string]struct{}
	// answeredAt is when each server answered last.
	answeredAt map[string]time.Time
	targetsAt  time.Time
	// awaited are closed after the next pass.
	awaited []chan struct{}
	// logger and ended are log and exchangeEnded, which each exchange is given.
	logger func() *zap.Logger
	ended  func(*exchange.Exchange, driver.Result)
}

func newEngine(config func() Config) *engine {
	e := &engine{
		config:      config,
		mail:        newMailbox(),
		tree:        channels.NewForest(),
		connections: connections{config: config, operators: operators{limit: operatorsLimit}},
		rotation:    rotation{resting: make(map[*database]struct{}), asleep: make(map[*database]*sleep), checking: make(map[*database]struct{})},
		watching:    new(atomic.Bool),
		tasks:       make(map[channels.Key]*task),
		delays:      make(delays),
		answeredAt:  make(map[string]time.Time),
		shutdown:    shutdown{quiet: make(chan struct{}), drained: make(chan struct{})},
		handover:    handover{turn: newTurn()},
		setbacks:    setbacks{turn: newTurn()},
	}
	e.logger, e.ended = e.log, e.exchangeEnded
	e.seats.configure(false, nil)
	e.connections.queue.Pressed = e.pressed
	e.notes = &notes{config: config, tree: e.tree}
	e.databases = newDatabases(config, e.tree, e.notes)
	e.pool = upstream.New(func() upstream.Config { return config().upstream() }, poolReports{e},
		func(name string, f func()) { e.spawn(name, f) })
	e.maint = cluster.New(func() cluster.Config {
		cfg := config().cluster()
		cfg.Elected, cfg.Watching = e.elected, e.watches
		return cfg
	}, clusterReports{e})
	return e
}

func (e *engine) log() *zap.Logger { return e.config().Logger }

// loop runs until ctx ends.
func (e *engine) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		e.tree.Observe(time.Now())
		e.withdraw()
		letters := e.mail.take()
		for _, f := range letters {
			f()
		}
		e.mail.giveBack(letters)
		if e.ctx.Err() != nil {
			return
		}
		now := time.Now()
		if e.shutdown.begun {
			e.shutdown.check(e.tasks, e.granted != nil, e.databases.causes(now))
		}
		e.tick(now)
		e.pass(now)
		e.grant()
		for _, waiting := range e.awaited {
			close(waiting)
		}
		e.awaited = e.awaited[:0]
		timer.Reset(time.Until(e.nextTick(now)))
		select {
		case <-e.mail.signal:
		case <-timer.C:
		case <-e.ctx.Done():
		}
	}
}

// tick does what is due by the clock.
func (e *engine) tick(now time.Time) {
	if !now.Before(e.targetsAt) {
		e.targetsAt = now.Add(targetsInterval)
		e.pool.Refresh(e.ctx, now.UnixNano()/int64(targetsInterval)%5 == 0)
		e.connections.queue.Remind(e.log())
		if e.rotation.at.IsZero() && e.connections.queue.Pressure().Over() > 0 {
			e.rotate(now) // should it have been missed that some wait
		}
	}
	e.resize(now)
	e.expirePauses(now)
	e.databases.release(now)
	e.notes.countOdd(now)
	e.databases.tellSharing(now)
	if !e.leadership.lostAt.IsZero() {
		e.giveUp(now)
	}
	e.leadership.settle(now, e.databases.settling)
	e.handOver(now)
	e.checkTimeouts(now)
	if len(e.releases) > 0 {
		e.release(now)
	}
	e.remember(now)
	if !e.rotation.at.IsZero() && !now.Before(e.rotation.at) {
		e.rotate(now)
	}
	if e.config().Hibernate != nil && !now.Before(e.rotation.hibernateAt) {
		e.hibernate(now)
	}
	if !now.Before(e.scanAt) {
		e.expireReserved(now)
		e.expireClosed(now)
		e.scanAt = now.Add(timing.Jitter(scanInterval))
		e.scan(now)
	}
}

// nextTick is when the loop has something to do by itself.
func (e *engine) nextTick(now time.Time) time.Time {
	next := e.targetsAt
	if len(e.tasks) > 0 {
		next = timing.Earliest(next, e.scanAt)
		if e.timeouts.set != nil {
			next = timing.Earliest(next, e.timeouts.at)
		}
	}
	if until := e.controls.expiry(); !until.IsZero() {
		next = timing.Earliest(next, until)
	}
	next = e.releases.due(e.giveUpAt(e.databases.releaseAt(next)))
	if due := e.leadership.due(); !due.IsZero() {
		next = timing.Earliest(next, due)
	}
	if at := e.rotation.at; !at.IsZero() {
		next = timing.Earliest(next, at)
	}
	if e.config().Hibernate != nil {
		next = timing.Earliest(next, e.rotation.hibernateAt)
	}
	if !e.dispatchable() || e.claims() {
		return next
	}
	pass := e.tree.Wakeup()
	if e.tree.Pending() {
		pass = now
	}
	if at := e.roomAt(pass, now); !at.IsZero() {
		return timing.Earliest(next, at)
	}
	return next
}

// dispatchable reports whether jobs may be started at all.
func (e *engine) dispatchable() bool {
	return e.leadership.leading && e.leadership.settled && !e.shutdown.begun && e.pausedAll == nil &&
		!e.config().Exiting() && e.pool.Usable()
}

// pass asks the scheduler what to start now and sends it off to be claimed.
func (e *engine) pass(now time.Time) {
	if e.granted != nil || !e.dispatchable() {
		return
	}
	limit := e.room(now)
	if limit == 0 {
		return
	}
	claims := make(map[*database][]string)
	for _, key := range e.tree.Next(now, limit) {
		db := e.databases.get(key.DB)
		if db == nil || !db.serving() {
			// Suspended databases have no jobs in the queues, so this cannot be;
			// should it be all the same, the job must not keep its slot.
			e.log().Error("job of a database that is not served was scheduled", zap.Stringer("job", key))
			e.tree.Suspend(key.DB)
			e.tree.Refund(key)
			e.requeue(key)
			continue
		}
		if e.apart(key, now) {
			continue
		}
		t := &task{phase: phaseClaiming, chosen: now}
		e.seats.take(t, e.rowOf(key))
		e.tasks[key] = t
		claims[db] = append(claims[db], key.UUID)
		db.useful = now
	}
	for db, uuids := range claims {
		db.session.Claim(uuids...)
		e.databases.probe(db, now)
	}
}

// requeue puts a job that the scheduler picked back into its queue.
func (e *engine) requeue(key channels.Key) {
	if job, _, ok := e.tree.Lookup(key); ok {
		e.tree.Set(job, channels.Pending)
	}
}

// configure puts a new configuration into force.
func (e *engine) configure(cfg Config) error {
	cfg.Channels = e.size.configure(cfg.Channels)
	if err := e.databases.configure(cfg); err != nil {
		return err
	}
	e.govern(cfg.Policies)
	e.databases.share(cfg.Policies)
	e.databases.gate(cfg.UpgradeGate)
	if cfg.Quarantine == nil {
		e.setbacks.expire(time.Now())
	}
	e.pool.Reconfigured()
	e.resizeNow(time.Now())
	e.seats.configure(cfg.Server != upstream.Limits{} || len(cfg.Pools) > 0, cfg.Policies)
	e.targetsAt = time.Time{}
	e.limit(cfg.Policies)
	e.connections.apply()
	e.wakeUnbarred(time.Now())
	e.maint.Rediscover()
	return nil
}
