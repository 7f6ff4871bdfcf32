package runner

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// Setback is an attempt at a job that a [Quarantine] counts: its worker died, or its request was
// answered without having run it.
type Setback struct {
	Database string `json:"database"`
	UUID     string `json:"uuid"`
	// At is when the attempt ended, and Ran how long after it had begun.
	At  time.Time     `json:"at"`
	Ran time.Duration `json:"ran,omitempty"`
	// Upstream is the server.
	Upstream string `json:"upstream,omitempty"`
	// Cause says how it ended, for people.
	Cause string `json:"cause,omitempty"`
	// Retry is the job's counter afterwards.
	Retry int32 `json:"retry,omitempty"`
	// Shared is set if other jobs ended with it, so that it is not known which of them is to blame.
	Shared bool `json:"shared,omitempty"`
	// NotRun is set if the job was not even started.
	NotRun bool `json:"not_run,omitempty"`
	// Excused is set if it does not count, and is only remembered because it was shared.
	Excused bool `json:"excused,omitempty"`
}

// SetbackStore passes setbacks on, from one leader of a runner to the next. Its methods are not called
// from the engine's loop, and never two at a time.
type SetbackStore interface {
	// LoadSetbacks returns what was stored last, nothing if nothing was.
	LoadSetbacks(ctx context.Context) ([]Setback, error)
	StoreSetbacks(ctx context.Context, list []Setback) error
}

const (
	// setbacksLimit bounds the setbacks that are kept, and databaseSetbacks those of one database:
	// whoever can write jobs there must not be able to have those of others forgotten. The oldest go
	// first.
	setbacksLimit    = 2000
	databaseSetbacks = 500
	// uuidLimit and textLimit bound their texts, in bytes.
	uuidLimit = 512
	textLimit = 1024
)

// setbacks are those of all jobs. Without a quarantine there are none.
type setbacks struct {
	// of are those of each job, the oldest first.
	of map[channels.Key][]Setback
	// breaks are the requests that broke within the last [sameMoment].
	breaks []breakage
	// vanished is when no server was left.
	vanished time.Time

	// changed is set until the setbacks are stored, at is when the next write may be made, and writing
	// is set while one is under way.
	changed, writing bool
	at               time.Time
	// turn is had while the store is read or written.
	turn turn
}

// add notes a setback, unless it is known, and forgets what does not count any more.
func (s *setbacks) add(key channels.Key, b Setback, within time.Duration) {
	if len(b.UUID) > uuidLimit || len(b.Upstream) > textLimit || len(b.Cause) > textLimit {
		return
	}
	if s.of == nil {
		s.of = make(map[channels.Key][]Setback)
	}
	s.expire(b.At.Add(-within))
	s.of[key] = append(s.of[key], b)
	s.changed = true
	total, own := 0, 0
	for k, list := range s.of {
		if total += len(list); k.DB == key.DB {
			own += len(list)
		}
	}
	if own > databaseSetbacks {
		s.forgetOldest(key.DB)
	} else if total > setbacksLimit {
		s.forgetOldest("")
	}
}

// expire forgets what is as old as a moment.
func (s *setbacks) expire(until time.Time) {
	for key := range s.of {
		s.keep(key, func(b *Setback) bool { return b.At.After(until) })
	}
}

// forgetOldest forgets the oldest setback of a database, or of all if the name is empty.
func (s *setbacks) forgetOldest(database string) {
	var oldest channels.Key
	for key, list := range s.of {
		if (database == "" || key.DB == database) && (oldest == channels.Key{} || list[0].At.Before(s.of[oldest][0].At)) {
			oldest = key
		}
	}
	first := true
	s.keep(oldest, func(*Setback) bool {
		defer func() { first = false }()
		return !first
	})
}

// keep forgets those setbacks of a job that are not to be kept.
func (s *setbacks) keep(key channels.Key, keep func(*Setback) bool) {
	before := len(s.of[key])
	list := slices.DeleteFunc(s.of[key], func(b Setback) bool { return !keep(&b) })
	if s.of[key] = list; len(list) == 0 {
		delete(s.of, key)
	}
	s.changed = s.changed || len(list) != before
}

// forget forgets a job: it has ended, or somebody has set it right.
func (s *setbacks) forget(key channels.Key) {
	if _, ok := s.of[key]; ok {
		delete(s.of, key)
		s.changed = true
	}
}

// forgive forgets the setbacks of jobs since a moment that were not started.
func (s *setbacks) forgive(database string, uuids []string, since time.Time) {
	for _, uuid := range uuids {
		key := channels.Key{DB: database, UUID: uuid}
		if _, ok := s.of[key]; ok {
			s.keep(key, func(b *Setback) bool { return b.At.Before(since) || !b.NotRun })
		}
	}
}

// seen takes in the state of a job. One that has ended has a clean slate when it is requeued, and so
// has one that somebody has made pending again, which resets its counter.
func (s *setbacks) seen(key channels.Key, state channels.State, retry int32) {
	list := s.of[key]
	if len(list) == 0 {
		return
	}
	if state.Finished() || state == channels.Failed ||
		state == channels.Pending && retry == 0 && list[len(list)-1].Retry > 0 {
		s.forget(key)
	}
}

// counted returns the setbacks of a job that count at a moment, the oldest first. The list is a copy.
func (s *setbacks) counted(key channels.Key, at time.Time, within time.Duration) (list []Setback) {
	for _, b := range s.of[key] {
		if !b.Excused && b.At.Before(at) && at.Sub(b.At) < within {
			list = append(list, b)
		}
	}
	return list
}

// lastNotRun is when an attempt at a job last came to nothing that counted; zero if none did.
func (s *setbacks) lastNotRun(key channels.Key) (at time.Time) {
	for _, b := range s.of[key] {
		if b.NotRun {
			at = b.At
		}
	}
	return at
}

// suspect reports whether a job died together with others.
func (s *setbacks) suspect(key channels.Key, now time.Time, within time.Duration) bool {
	return slices.ContainsFunc(s.of[key], func(b Setback) bool { return b.Shared && now.Sub(b.At) < within })
}

// list returns all setbacks in a fixed order.
func (s *setbacks) list() []Setback {
	all := []Setback{}
	for _, list := range s.of {
		all = append(all, list...)
	}
	slices.SortFunc(all, func(a, b Setback) int { return a.At.Compare(b.At) })
	return all
}

// restore takes what a former leader left, in place of what this process knew before that led.
func (s *setbacks) restore(left []Setback, now time.Time, within time.Duration) {
	s.of = nil
	slices.SortStableFunc(left, func(a, b Setback) int { return a.At.Compare(b.At) })
	for _, b := range left[max(0, len(left)-setbacksLimit):] {
		if !b.At.After(now.Add(time.Minute)) && now.Sub(b.At) < within {
			s.add(channels.Key{DB: b.Database, UUID: b.UUID}, b, within)
		}
	}
	s.changed = false
}

// recall reads what the former leader left. It is called from the maintenance connection's goroutine.
func (e *engine) recall(ctx context.Context, cfg Config) {
	if cfg.Setbacks == nil || cfg.Quarantine == nil {
		return
	}
	var left []Setback
	err := e.setbacks.turn.do(ctx, func(ctx context.Context) (err error) {
		left, err = cfg.Setbacks.LoadSetbacks(ctx)
		return err
	})
	if err != nil {
		cfg.Logger.Warn("the setbacks of jobs that the former leader has seen cannot be read, they do not count", zap.Error(err))
		return
	}
	within := cfg.Quarantine.Within
	e.mail.post(func() { e.setbacks.restore(left, time.Now(), within) })
}

// remember stores the setbacks, if they have changed. It does not wait for it.
func (e *engine) remember(now time.Time) {
	store, s := e.config().Setbacks, &e.setbacks
	if store == nil || !s.changed || s.writing || now.Before(s.at) || !e.leadership.leading || !e.leadership.settled {
		return
	}
	s.at = now.Add(handoverInterval)
	s.writing, s.changed = true, false
	list := s.list()
	e.spawn("setbacks", func() {
		err := timing.Within(e.ctx, handoverTimeout, func(ctx context.Context) error {
			return s.turn.do(ctx, func(ctx context.Context) error { return store.StoreSetbacks(ctx, list) })
		})
		e.mail.post(func() { s.writing, s.changed = false, s.changed || err != nil })
	})
}

// bequeath stores the setbacks when the engine ends.
func (e *engine) bequeath() {
	store := e.config().Setbacks
	if store == nil || !e.setbacks.changed && !e.setbacks.writing || !e.leadership.leading || !e.leadership.settled {
		return
	}
	list := e.setbacks.list()
	err := timing.Within(context.WithoutCancel(e.ctx), handoverTimeout, func(ctx context.Context) error { return store.StoreSetbacks(ctx, list) })
	if err != nil {
		e.log().Warn("the setbacks of jobs cannot be stored for the next leader", zap.Error(err))
	}
}
