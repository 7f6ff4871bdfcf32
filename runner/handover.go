package runner

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// handoverInterval is the least time between two writes of what runs, and handoverTimeout bounds one.
	handoverInterval = 2 * time.Second
	handoverTimeout  = 2 * time.Second
)

// Handover passes on, from one leader of a runner to the next, how many jobs occupy slots, so that the
// next one can reserve these for databases that it cannot ask yet. Its methods are not called from the
// engine's loop, and never two at a time.
type Handover interface {
	// Load returns what was stored last, nothing if nothing was.
	Load(ctx context.Context) ([]Slots, error)
	Store(ctx context.Context, slots []Slots) error
}

// Slots is how many jobs of a database occupy slots in a channel, by its full name; or, with UUID, an
// attempt whose connection to the database was closed, which does not show in the database.
type Slots struct {
	Database string `json:"database"`
	Channel  string `json:"channel,omitempty"`
	Jobs     int    `json:"jobs,omitempty"`
	// UUID is the job, and Enqueued when the attempt was claimed, in microseconds since the Unix epoch.
	UUID     string `json:"uuid,omitempty"`
	Enqueued int64  `json:"enqueued,omitempty"`
}

// handover is what the engine keeps for it.
type handover struct {
	// left is what the former leader left, until the databases have been listed that it is about.
	left []Slots
	// stored is what has been stored last, since term, and at is when the next write may be made. writing
	// is set while one is under way.
	stored  []Slots
	term    int
	at      time.Time
	writing bool
	// turn is had while the store is read or written.
	turn turn
	// closed are the attempts whose connections were closed. Those that a former leader has told of
	// are inherited.
	closed map[channels.Key]closedAttempt
}

// turn is had by one at a time.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// do calls f when it is its turn.
func (t turn) do(ctx context.Context, f func(context.Context) error) error {
	select {
	case t <- struct{}{}:
		defer func() { <-t }()
		return f(ctx)
	case <-ctx.Done():
		return fmt.Errorf("wait for an earlier access: %w", context.Cause(ctx))
	}
}

// closedAttempt is one that may go on although no lock row shows it: its connection was closed, or is
// about to be, or may have been.
type closedAttempt struct {
	enqueued  int64
	inherited bool
	// orders counts those to close it whose results are not known: they are on their way, or were when a
	// connection was lost. done is set if one was, or may have been, carried out.
	orders int
	done   bool
}

// elected is called from the maintenance connection's goroutine, before the loop hears that this
// process leads.
func (e *engine) elected(ctx context.Context) {
	cfg := e.config()
	if cfg.Handover != nil {
		var left []Slots
		err := e.handover.turn.do(ctx, func(ctx context.Context) (err error) {
			left, err = cfg.Handover.Load(ctx)
			return err
		})
		if err != nil {
			left = nil
			cfg.Logger.Warn("what the former leader ran cannot be read, its slots are not reserved", zap.Error(err))
		}
		e.mail.post(func() { e.takeOver(left) })
	}
	e.recall(ctx, cfg)
	if cfg.Elected != nil {
		cfg.Elected(ctx)
	}
}

// takeOver takes in what the former leader left.
func (e *engine) takeOver(left []Slots) {
	h := &e.handover
	for _, s := range left {
		key := channels.Key{DB: s.Database, UUID: s.UUID}
		if _, known := h.closed[key]; s.UUID == "" || known || len(h.closed) >= inheritedLimit {
			continue
		}
		if h.closed == nil {
			h.closed = make(map[channels.Key]closedAttempt)
		}
		h.closed[key] = closedAttempt{enqueued: s.Enqueued, inherited: true}
	}
	// Another leader may have stored something else since. A write that is still under way goes on, but
	// what it stores is not known to last.
	h.left, h.stored, h.at = left, nil, time.Time{}
	h.term++
}

// closedLimit bounds the attempts whose connections were closed: no further one is closed beyond it.
// closedFor is how long ago one was claimed that is forgotten although its database has not come back.
const (
	closedLimit = 1000
	closedFor   = 30 * 24 * time.Hour
)

// mayClose reports whether the connection of another attempt may be closed.
func (h *handover) mayClose(attempt *driver.Task) bool {
	return len(h.closed) < closedLimit || h.closed[attempt.Key].enqueued == attempt.Enqueued
}

// announce notes that the connection of an attempt is to be closed. It reports whether the next leader
// would know: until then, it must not be, for that leader would take the job for dead.
func (e *engine) announce(attempt *driver.Task) bool {
	h := &e.handover
	if h.closed[attempt.Key].enqueued != attempt.Enqueued {
		if h.closed == nil {
			h.closed = make(map[channels.Key]closedAttempt)
		}
		h.closed[attempt.Key] = closedAttempt{enqueued: attempt.Enqueued}
		h.at = time.Time{}
	}
	return e.config().Handover == nil ||
		slices.Contains(h.stored, Slots{Database: attempt.DB, UUID: attempt.UUID, Enqueued: attempt.Enqueued})
}

// ordered notes that an attempt that was announced is being closed.
func (h *handover) ordered(attempt *driver.Task) {
	if c, ok := h.closed[attempt.Key]; ok && c.enqueued == attempt.Enqueued {
		c.orders++
		h.closed[attempt.Key] = c
	}
}

// answered notes the result of such an order.
func (h *handover) answered(attempt *driver.Task, done bool) {
	if c, ok := h.closed[attempt.Key]; ok && c.enqueued == attempt.Enqueued {
		c.orders--
		c.done = c.done || done
		h.closed[attempt.Key] = c
	}
}

// forgetUnclosed forgets an announced attempt of which it is known that its connection was not closed,
// once no request for it is open: lock rows prove what they always do.
func (e *engine) forgetUnclosed(key channels.Key) {
	c, ok := e.handover.closed[key]
	if t := e.tasks[key]; ok && !c.inherited && !c.done && c.orders == 0 && (t == nil || t.exchange == nil) {
		delete(e.handover.closed, key)
	}
}

// forgetClosed forgets inherited attempts of a database of which all jobs have been read, and that have
// ended.
func (e *engine) forgetClosed(db *database) {
	for key := range e.handover.closed {
		if key.DB == db.Name && e.tasks[key] == nil {
			delete(e.handover.closed, key)
		}
	}
}

// expireClosed forgets those of databases that have not been there for long: dropped, perhaps.
func (e *engine) expireClosed(now time.Time) {
	for key, c := range e.handover.closed {
		if e.databases.get(key.DB) == nil && e.tasks[key] == nil && now.Sub(time.UnixMicro(c.enqueued)) >= closedFor {
			delete(e.handover.closed, key)
		}
	}
}

// occupied is how many jobs occupy slots, by database and channel, and which attempts have no
// connection any more.
func (e *engine) occupied() []Slots {
	var slots []Slots
	for _, c := range e.tree.Counts() {
		if n := c.Enqueued + c.Started; n > 0 {
			slots = append(slots, Slots{Database: c.DB, Channel: c.Channel, Jobs: n})
		}
	}
	if len(e.handover.closed) == 0 {
		return slots
	}
	counts := len(slots)
	for key, c := range e.handover.closed {
		slots = append(slots, Slots{Database: key.DB, UUID: key.UUID, Enqueued: c.enqueued})
	}
	slices.SortFunc(slots[counts:], func(a, b Slots) int {
		return cmp.Or(strings.Compare(a.Database, b.Database), strings.Compare(a.UUID, b.UUID))
	})
	return slots
}

// handOver stores what runs, if that has changed. It does not wait for it.
func (e *engine) handOver(now time.Time) {
	store, h := e.config().Handover, &e.handover
	if store == nil || h.writing || now.Before(h.at) || !e.leadership.leading || !e.leadership.settled {
		return
	}
	h.at = now.Add(handoverInterval)
	slots := e.occupied()
	if slices.Equal(slots, h.stored) {
		return
	}
	h.writing = true
	term := h.term
	e.spawn("handover", func() {
		err := timing.Within(e.ctx, handoverTimeout, func(ctx context.Context) error {
			return h.turn.do(ctx, func(ctx context.Context) error { return store.Store(ctx, slots) })
		})
		e.mail.post(func() {
			if h.writing = false; err == nil && term == h.term {
				h.stored = slots
			}
		})
	})
}

// leave stores what runs for the next leader when the engine ends.
func (e *engine) leave() {
	e.bequeath()
	store := e.config().Handover
	if store == nil || !e.leadership.leading || !e.leadership.settled {
		return
	}
	slots := e.occupied()
	err := timing.Within(context.WithoutCancel(e.ctx), handoverTimeout, func(ctx context.Context) error { return store.Store(ctx, slots) })
	if err != nil {
		e.log().Warn("what runs cannot be stored for the next leader", zap.Error(err))
	}
}

// reserve occupies the slots that the former leader's jobs of a database occupied, until the database
// has told which jobs these are. Some of them may be known: this process has led before.
func (e *engine) reserve(db *database) {
	if len(e.handover.left) == 0 {
		return
	}
	e.unreserve(db)
	known := make(map[string]int)
	for _, s := range e.occupied() {
		if s.Database == db.Name && s.UUID == "" {
			known[s.Channel] = s.Jobs
		}
	}
	for _, s := range e.handover.left {
		if s.Database != db.Name || s.UUID != "" {
			continue
		}
		for i := range max(0, min(s.Jobs, reserveLimit)-known[s.Channel]) {
			key := channels.Key{DB: db.Name, UUID: fmt.Sprintf("(reserved %d of %s)", i+1, s.Channel)}
			e.tree.Set(channels.Job{Key: key, Channel: s.Channel}, channels.Started)
			db.reserved = append(db.reserved, key)
		}
	}
	if db.reservedAt = time.Now(); len(db.reserved) > 0 {
		e.log().Info("reserving the slots of jobs that the former leader ran", zap.String("database", db.Name),
			zap.Int("slots", len(db.reserved)))
	}
}

// inheritedLimit bounds the attempts that are taken over, because what was stored could be anything.
const inheritedLimit = 2 * closedLimit

// reserveLimit bounds the slots that are reserved in one channel, because what was stored could be
// anything.
const reserveLimit = 10_000

// unreserve gives those slots back.
func (e *engine) unreserve(db *database) {
	for _, key := range db.reserved {
		e.tree.Remove(key)
	}
	db.reserved = nil
}

// expireReserved does so for databases that have told nothing for long: their jobs may have ended.
func (e *engine) expireReserved(now time.Time) {
	for _, db := range e.databases.byName {
		if len(db.reserved) > 0 && now.Sub(db.reservedAt) >= mysteryLimit {
			e.unreserve(db)
		}
	}
}
