package session

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// tryLimit is how many sessions may be connecting at the same time: a start with many databases
	// must not be a storm.
	tryLimit = 8
	// queueFirst and queueLimit bound the pause before the next connection is tried while
	// PostgreSQL allows no more.
	queueFirst = time.Second
	queueLimit = 10 * time.Second
	// queueReminder is the time between two lines about sessions that wait, and how long one has to
	// wait before there is a line about that.
	queueReminder = time.Minute
)

// Urgency is which sessions connect first.
type Urgency uint8

const (
	// Routine: nothing is known to be done there.
	Routine Urgency = iota
	// Unknown: whether there is something to do has not been read yet.
	Unknown
	// Pressing: there is something to do.
	Pressing
)

// urgencies is how many there are.
const urgencies = int(Pressing) + 1

// routineStart is how much longer a session that is Routine may have waited before a more urgent one does
// not go first any more, and unknownStart how long one that is Unknown may have before every other turn is
// its own.
const (
	routineStart = 30 * time.Second
	unknownStart = 5 * time.Second
)

// Queue lets the sessions of a cluster connect: a few at a time, the most urgent mostly first, and no more
// than are allowed together. Once PostgreSQL has refused one because there are too many, one at a
// time tries, after a pause. A nil Queue does nothing. The zero value is ready and has no limit.
type Queue struct {
	// Pressed is called, with the queue's mutex held, when sessions begin to wait because no connection
	// is free. Default: nothing is called.
	Pressed func()

	mu sync.Mutex // guards the following
	// limit is how many sessions may have connections; 0 is no limit. why says where it comes from.
	limit int
	why   string
	// held is how many have one, or are making or closing it; trying of these are making it.
	held, trying int
	// lines are those that wait, by urgency.
	lines [urgencies][]*turn
	// untold are those that have not been told why they wait.
	untold []*turn
	// full is set from a refusal until a session connects and none waits; cause is that refusal.
	// resting is set while none tries because of it.
	full, resting bool
	cause         string
	pause         timing.Backoff
	timer         *time.Timer // ends the rest
	// moved is when one that was more than Routine could connect at last.
	moved time.Time
	// pressing is set while the last one that could connect was Pressing.
	pressing bool
	// said is when it was last said that sessions wait, told is set until it is said that none does.
	said time.Time
	told bool
}

// turn is the place of one session.
type turn struct {
	urgency Urgency
	// since is when it began to wait; zero if it does not. ready is closed when it may connect.
	since time.Time
	ready chan struct{}
	// blocked brings, once, why it has to wait for more than others that connect just now.
	blocked chan string
	told    bool
}

// Pressure is how things are in a [Queue].
type Pressure struct {
	// Limit is how many sessions may have connections, 0 without a limit, and Held how many have one.
	Limit, Held int
	// Waiting is how many sessions wait, because no connection is free or because others are just being
	// made, Longest for how long the first of them has.
	Waiting int
	Longest time.Duration
	// Pressing is how many of them are that, and Pressed for how long the first of these has waited.
	Pressing int
	Pressed  time.Duration
	// Needy is how many of them are more than [Routine], and Stuck for how long none of these could
	// connect although one waited.
	Needy int
	Stuck time.Duration
	// Refused says why PostgreSQL allows no more; empty if it does, as far as that is known.
	Refused string
}

// Over is how many sessions have to give their connections up, so that none waits and the limit is
// kept.
func (p Pressure) Over() int {
	switch {
	case p.Refused != "":
		return p.Waiting
	case p.Limit == 0:
		return 0
	}
	return max(0, p.Held+p.Waiting-p.Limit)
}

// Free is how many more sessions could have connections; negative without a limit.
func (p Pressure) Free() int {
	switch {
	case p.Refused != "":
		return 0
	case p.Limit == 0:
		return -1
	}
	return max(0, p.Limit-p.Held-p.Waiting)
}

// Limit sets how many sessions may have connections, and says why; 0 is no limit. Those that have
// one keep it.
func (q *Queue) Limit(n int, why string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit, q.why = n, why
	q.grant()
}

// Pressure returns how things are.
func (q *Queue) Pressure() Pressure {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := Pressure{Limit: q.limit, Held: q.held}
	if q.full {
		p.Refused = q.cause
	}
	p.Waiting, p.Longest = q.waiting(Routine)
	p.Pressing, p.Pressed = q.waiting(Pressing)
	p.Needy, p.Stuck = q.waiting(Unknown)
	p.Stuck = min(p.Stuck, time.Since(q.moved))
	return p
}

// crowded reports whether sessions wait because no connection is free.
func (q *Queue) crowded() bool { return q != nil && q.Pressure().Over() > 0 }

// waiting counts those that wait and are so urgent at least. The caller holds mu.
func (q *Queue) waiting(least Urgency) (n int, longest time.Duration) {
	for _, line := range q.lines[least:] {
		n += len(line)
		for _, t := range line {
			longest = max(longest, time.Since(t.since))
		}
	}
	return n, longest
}

// connect connects a session, by open, when it is its turn. It tells waits when it has to wait, at
// most once. After success the session has to release the connection.
func (q *Queue) connect(ctx context.Context, log *zap.Logger, t *turn, waits func(cause string), open func() error) error {
	if q == nil {
		return open()
	}
	t.blocked = make(chan string, 1)
	for again := false; ; again = true {
		q.enter(t, !again)
		for ready := false; !ready; {
			select {
			case <-t.ready:
				ready = true
			case cause := <-t.blocked:
				waits(cause)
			case <-ctx.Done():
				q.leave(t)
				return context.Cause(ctx)
			}
		}
		if err := q.try(open); !q.tried(log, err) {
			return err
		}
	}
}

// forget has a session that need not wait told no more. The caller holds mu.
func (q *Queue) forget(t *turn) {
	if i := slices.Index(q.untold, t); i >= 0 {
		q.untold = slices.Delete(q.untold, i, i+1)
	}
}

// try makes an attempt. A panic in it is noted and goes on.
func (q *Queue) try(open func() error) error {
	returned := false
	defer func() {
		if !returned {
			q.tried(zap.NewNop(), errPanic)
		}
	}()
	err := open()
	returned = true
	return err
}

// errPanic is an attempt that ended in a panic.
var errPanic = errors.New("panic")

// enter puts a session into line, in front if it has waited before.
func (q *Queue) enter(t *turn, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.ready = make(chan struct{})
	line := &q.lines[t.urgency]
	if first {
		t.since, t.told = time.Now(), false
		*line = append(*line, t)
	} else {
		*line = slices.Insert(*line, 0, t)
	}
	if !t.told {
		q.untold = append(q.untold, t)
	}
	q.grant()
}

// blocked says why no more sessions may connect; nothing if they may.
func (q *Queue) blocked() string {
	switch {
	case q.full:
		return q.cause
	case q.limit > 0 && q.held >= q.limit:
		return q.why
	}
	return ""
}

// tell tells those that wait why, each once. The caller holds mu.
func (q *Queue) tell() {
	cause := q.blocked()
	if cause == "" || len(q.untold) == 0 {
		return
	}
	for _, t := range q.untold {
		t.told = true
		t.blocked <- cause
	}
	q.untold = nil
	if q.Pressed != nil {
		q.Pressed()
	}
}

// grant lets as many connect as may, and tells the others. The caller holds mu.
func (q *Queue) grant() {
	defer q.tell()
	for {
		next := q.next()
		if next == nil || q.limit > 0 && q.held >= q.limit || q.trying >= tryLimit || q.full && (q.resting || q.trying > 0) {
			return
		}
		q.lines[next.urgency] = slices.Delete(q.lines[next.urgency], 0, 1)
		q.held++
		q.trying++
		if next.urgency > Routine {
			q.moved = time.Now()
		}
		q.pressing = next.urgency == Pressing
		q.forget(next)
		close(next.ready)
	}
}

// next is the session whose turn it is, nil if none waits. The caller holds mu.
func (q *Queue) next() *turn {
	var first [urgencies]*turn
	for u, line := range q.lines {
		if len(line) > 0 {
			first[u] = line[0]
		}
	}
	next := first[Pressing]
	if t := first[Unknown]; t != nil && (next == nil || q.pressing && time.Since(t.since) > unknownStart) {
		next = t
	}
	if t := first[Routine]; t != nil && (next == nil || t.since.Add(routineStart).Before(next.since)) {
		next = t
	}
	return next
}

// tried notes how an attempt ended, and reports whether it is to be made again.
func (q *Queue) tried(log *zap.Logger, err error) (again bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.trying--
	switch {
	case errors.Is(err, driver.ErrTooMany):
		q.held--
		q.refused(err)
		q.remind(log)
		return true
	case err != nil: // something else is wrong with that database
		q.held--
	default:
		q.accepted(log)
	}
	q.calm()
	q.grant()
	return false
}

// refused notes that PostgreSQL allows no more. The caller holds mu.
func (q *Queue) refused(err error) {
	if !q.full {
		q.full, q.pause = true, timing.Backoff{First: queueFirst, Limit: queueLimit}
	}
	q.cause = err.Error()
	if q.resting {
		return
	}
	q.resting = true
	q.tell()
	q.timer = time.AfterFunc(q.pause.Next(), q.rested)
}

// rested ends the pause after a refusal.
func (q *Queue) rested() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.resting = false
	q.grant()
}

// accepted notes that a session was not refused: another one may try at once. The caller holds mu.
func (q *Queue) accepted(log *zap.Logger) {
	if !q.full {
		return
	}
	q.pause.Reset()
	if n, _ := q.waiting(Routine); n == 0 {
		q.full = false
		if q.told {
			q.told = false
			log.Info("PostgreSQL allows enough connections again")
		}
	}
}

// calm forgets a refusal once none waits: nothing is known any more. The caller holds mu.
func (q *Queue) calm() {
	if n, _ := q.waiting(Routine); n == 0 && q.trying == 0 {
		q.full = false
	}
}

// leave takes a session that has given up out of the line.
func (q *Queue) leave(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-t.ready: // just now
		q.held--
		q.trying--
	default:
		line := &q.lines[t.urgency]
		*line = slices.DeleteFunc(*line, func(o *turn) bool { return o == t })
		q.forget(t)
	}
	q.calm()
	q.grant()
}

// release notes that a session has closed its connection: there is one that another can have.
func (q *Queue) release() {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.held--
	if q.resting && q.timer.Stop() {
		q.resting = false
	}
	q.grant()
}

// Hasten says how urgent it is that a session connects, whenever it has to wait for a connection.
// Default: [Routine].
func (q *Queue) Hasten(s *Session, u Urgency) { q.raise(&s.turn, u) }

func (q *Queue) raise(t *turn, to Urgency) {
	q.mu.Lock()
	defer q.mu.Unlock()
	from := t.urgency
	t.urgency = to
	if i := slices.Index(q.lines[from], t); i >= 0 && from != to {
		q.lines[from] = slices.Delete(q.lines[from], i, i+1)
		q.lines[to] = append(q.lines[to], t)
	}
}

// remind says, now and then, that PostgreSQL refuses sessions, and why. The caller holds mu.
func (q *Queue) remind(log *zap.Logger) {
	if now := time.Now(); now.Sub(q.said) >= queueReminder {
		q.said, q.told = now, true
		n, _ := q.waiting(Routine)
		log.Warn("PostgreSQL allows no more connections: databases that have none wait and are not served, one at a time tries; raise CONNECTION LIMIT or max_connections",
			zap.Int("waiting", n+1), zap.String("detail", q.cause))
	}
}

// Remind says, at most once a minute, that databases have been waiting for that long because as many
// connections are in use as are allowed. It is to be called every few seconds.
func (q *Queue) Remind(log *zap.Logger) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if q.limit == 0 || q.held < q.limit || now.Sub(q.said) < queueReminder {
		return
	}
	if n, longest := q.waiting(Routine); longest >= queueReminder {
		q.said = now
		log.Warn("databases have been waiting for a connection for a minute, because as many are in use as the runner may have; raise connections, CONNECTION LIMIT or max_connections",
			zap.Int("waiting", n), zap.Int("in_use", q.held), zap.String("detail", q.why))
	}
}
