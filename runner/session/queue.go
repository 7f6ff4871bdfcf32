package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// queueFirst and queueLimit bound the pause before the next connection is tried while
	// PostgreSQL allows no more.
	queueFirst = time.Second
	queueLimit = 10 * time.Second
	// queueReminder is the time between two lines about sessions that wait.
	queueReminder = time.Minute
)

// Queued is how the detail of [Unreachable] begins while a session waits because PostgreSQL allows
// no more connections. The queue logs the cause for all of them.
const Queued = "waits for a connection: "

// Queue lets the sessions of a cluster connect. As long as PostgreSQL allows each of them a
// connection, it does nothing. Once one has been refused because there are too many, those that
// want to connect wait in line, and one at a time tries. A nil Queue does nothing. The zero value
// is ready.
type Queue struct {
	mu sync.Mutex // guards the following
	// full is set from a refusal until a session connects and none waits; cause is that refusal.
	full  bool
	cause string
	// waiting are the turns of those in line, the first one has his.
	waiting []chan struct{}
	pause   timing.Backoff
	// hurry is set after a session has connected: the next one need not wait.
	hurry bool
	// said is when it was last said that sessions wait, told is set until it is said that none does.
	said time.Time
	told bool
}

// connect connects a session, by open, when it is its turn. It tells waits before it has to wait,
// at most once.
func (q *Queue) connect(ctx context.Context, log *zap.Logger, waits func(cause string), open func() error) error {
	if q == nil {
		return open()
	}
	turn, cause := q.enter()
	if turn == nil {
		err := open()
		if !errors.Is(err, driver.ErrTooMany) {
			return err
		}
		if turn, cause = q.refused(err); turn == nil {
			return err
		}
	}
	defer q.leave(turn)
	q.remind(log)
	waits(cause)
	select {
	case <-turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		if !timing.Sleep(ctx, q.next()) {
			return context.Cause(ctx)
		}
		err := open()
		if !errors.Is(err, driver.ErrTooMany) {
			q.allowed(log, err == nil)
			return err
		}
		q.remind(log)
	}
}

// enter returns the turn of one more session, nil if there is no need to wait.
func (q *Queue) enter() (turn chan struct{}, cause string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.full {
		return nil, ""
	}
	return q.line(), q.cause
}

// refused notes that PostgreSQL allows no more, and returns a turn.
func (q *Queue) refused(err error) (turn chan struct{}, cause string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.full {
		q.full, q.hurry, q.cause = true, false, err.Error()
		q.pause = timing.Backoff{First: queueFirst, Limit: queueLimit}
	}
	return q.line(), q.cause
}

// line returns the next turn. The caller holds mu.
func (q *Queue) line() chan struct{} {
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	if len(q.waiting) == 1 {
		close(turn)
	}
	return turn
}

// next is how long to wait before the next attempt.
func (q *Queue) next() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.hurry {
		q.hurry = false
		return 0
	}
	return q.pause.Next()
}

// allowed notes that a session was not refused. Another one may try sooner.
func (q *Queue) allowed(log *zap.Logger, connected bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !connected {
		return // something else is wrong with that database
	}
	q.pause.Reset()
	q.hurry = true
	if len(q.waiting) <= 1 {
		q.full = false
		if q.told {
			q.told = false
			log.Info("PostgreSQL allows enough connections again")
		}
	}
}

// leave gives the turn to the next in line.
func (q *Queue) leave(turn chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, t := range q.waiting {
		if t != turn {
			continue
		}
		q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
		if i == 0 && len(q.waiting) > 0 {
			close(q.waiting[0])
		}
		break
	}
	if len(q.waiting) == 0 {
		q.full = false // nothing is known any more
	}
}

// remind says, now and then, that sessions wait, and why.
func (q *Queue) remind(log *zap.Logger) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); now.Sub(q.said) >= queueReminder {
		q.said, q.told = now, true
		log.Warn("PostgreSQL allows no more connections: databases that have none wait and are not served, one at a time tries; raise CONNECTION LIMIT or max_connections",
			zap.Int("waiting", len(q.waiting)), zap.String("detail", q.cause))
	}
}
