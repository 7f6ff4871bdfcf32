package runner

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// scanInterval is the time between two looks at tasks that run without an
	// open request of ours. Two looks must agree before a task counts as dead.
	scanInterval = 5 * time.Second
	// settleGrace is how long an answer may stay out after the row has said
	// that the job ended.
	settleGrace = 5 * time.Second
	// lostGrace is how long a job stays enqueued after its request broke,
	// before it is put back without other evidence (peers.md 3.5).
	lostGrace = 10 * time.Second
	// passLimit bounds the jobs that one scheduling pass starts, so that a
	// large pass does not keep the loop from its other work.
	passLimit = 1000
	// settleWait bounds how long a new leader starts nothing because some of its
	// databases have not told yet what runs there: those jobs occupy places.
	// Databases that the former leader lets go take that long (lockInterval).
	settleWait = 5 * time.Second
)

// engine is the loop that owns the channel tree and the tasks. All its methods
// run in the loop's goroutine, except those of the interfaces listener and
// overseer, which post to it.
type engine struct {
	config func() Config
	mail   *mailbox
	pool   *pool
	maint  *maintenance
	spawn  func(name string, f func())
	ctx    context.Context //nolint:containedctx // the life of the engine

	tree      *channels.Forest
	databases map[string]*database
	tasks     map[channels.Key]*task
	// held are the databases that are held back, all of which are in databases.
	held map[*database]struct{}
	// delays holds jobs whose last attempts came to nothing.
	delays map[channels.Key]delay

	leader       bool
	leaderDetail string
	// leaderKnown is true when it is known who leads, be it another process.
	leaderKnown bool
	// controls are what operators have ordered; pausedAll is the one that
	// concerns everything.
	controls  Controls
	pausedAll *Pause
	// settledIn is true once the leader knows what runs in its databases, or has
	// waited for that until settleBy, which is zero before it knows its databases.
	settledIn bool
	settleBy  time.Time
	stopping  bool
	scanAt    time.Time
	targetsAt time.Time
	// asking is true while the upstreams are being looked up.
	asking bool
	// awaited are closed after the next pass.
	awaited []chan struct{}
	// configured counts the configurations that have been put into force.
	configured int
	// quiet is closed when the engine is stopping and no statement is under
	// way, drained when no request is open either.
	quiet, drained         chan struct{}
	onceQuiet, onceDrained sync.Once
}

func (e *engine) log() *zap.Logger { return e.config().Logger }

// loop runs until ctx ends.
func (e *engine) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		for _, f := range e.mail.take() {
			f()
		}
		if e.ctx.Err() != nil {
			return
		}
		if e.stopping {
			e.checkDrained()
		}
		now := time.Now()
		e.tick(now)
		e.pass(now)
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
		e.refreshTargets(now)
	}
	e.expirePauses(now)
	for db := range e.held {
		if !now.Before(db.heldUntil) {
			e.unhold(db)
		}
	}
	if !e.settledIn && !e.settleBy.IsZero() {
		e.settledIn = !now.Before(e.settleBy) || !e.settling()
	}
	if !now.Before(e.scanAt) {
		e.scanAt = now.Add(jitter(scanInterval))
		e.scan(now)
	}
}

// nextTick is when the loop has something to do by itself.
func (e *engine) nextTick(now time.Time) time.Time {
	next := e.targetsAt
	if len(e.tasks) > 0 {
		next = earliest(next, e.scanAt)
	}
	if until := e.controls.expiry(); !until.IsZero() {
		next = earliest(next, until)
	}
	for db := range e.held {
		next = earliest(next, db.heldUntil)
	}
	if !e.settledIn && !e.settleBy.IsZero() {
		next = earliest(next, e.settleBy)
	}
	if !e.dispatchable() {
		return next
	}
	if e.tree.Pending() {
		return now
	}
	if w := e.tree.Wakeup(); !w.IsZero() {
		next = earliest(next, w)
	}
	return next
}

// dispatchable reports whether jobs may be started at all.
func (e *engine) dispatchable() bool {
	return e.leader && e.settledIn && !e.stopping && e.pausedAll == nil && !e.config().Exiting() && e.pool.usable()
}

// pass asks the scheduler what to start now and sends it off to be claimed.
func (e *engine) pass(now time.Time) {
	if !e.dispatchable() {
		return
	}
	claims := make(map[*database][]string)
	for _, key := range e.tree.Next(now, passLimit) {
		db := e.databases[key.DB]
		if db == nil || !db.serving() {
			// Suspended databases have no jobs in the queues, so this cannot be;
			// should it be all the same, the job must not keep its place.
			e.log().Error("job of a database that is not served was scheduled", zap.Stringer("job", key))
			e.tree.Suspend(key.DB)
			e.requeue(key)
			continue
		}
		e.tasks[key] = &task{phase: phaseClaiming, chosen: now}
		claims[db] = append(claims[db], key.UUID)
	}
	for db, uuids := range claims {
		db.session.order(func(o *orders) { o.claims = append(o.claims, uuids...) })
	}
}

// scheduled implements listener.
func (e *engine) scheduled(ctx context.Context) {
	done := make(chan struct{})
	if !e.mail.post(func() { e.awaited = append(e.awaited, done) }) {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	case <-e.mail.gone:
	}
}

// requeue puts a job that the scheduler picked back into its queue.
func (e *engine) requeue(key channels.Key) {
	if job, _, ok := e.tree.Lookup(key); ok {
		e.tree.Set(job, channels.Pending)
	}
}

// refreshTargets asks for the upstreams in the background, for the answer may
// come from the DNS, and looks after their health.
func (e *engine) refreshTargets(now time.Time) {
	if e.asking {
		return
	}
	e.asking = true
	idle := now.UnixNano()/int64(targetsInterval)%5 == 0
	targets, round := e.config().Targets, e.configured
	e.spawn("upstreams", func() {
		var ups []driver.Upstream
		err := errors.New("look-up of the upstreams panicked")
		defer func() {
			e.mail.post(func() {
				if round == e.configured { // otherwise the upstreams are those of the past
					e.targetsFound(ups, err, idle)
				}
			})
		}()
		err = within(e.ctx, targetsTimeout, func(ctx context.Context) (err error) {
			ups, err = targets.Upstreams(ctx)
			return err
		})
	})
}

func (e *engine) targetsFound(ups []driver.Upstream, err error, idle bool) {
	e.asking = false
	if err != nil {
		e.log().Warn("cannot find the upstreams", zap.Error(err))
	} else {
		e.pool.set(ups)
	}
	e.pool.check(e.ctx, idle, e.spawn)
}

// configure puts a new configuration into force.
func (e *engine) configure(cfg Config) error {
	if cfg.DatabaseChannels != nil {
		e.useDatabaseChannels(*cfg.DatabaseChannels)
	} else if err := e.useChannels(cfg.Channels); err != nil {
		return err
	}
	e.configured++
	e.asking, e.targetsAt = false, time.Time{}
	e.maint.rediscover()
	return nil
}
