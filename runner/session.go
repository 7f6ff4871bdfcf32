package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Timeouts and intervals of a session. Every call to the driver has one.
const (
	connectTimeout     = 10 * time.Second
	fingerprintTimeout = 10 * time.Second
	lockTimeout        = 5 * time.Second
	listenTimeout      = 5 * time.Second
	snapshotTimeout    = 10 * time.Minute
	channelsTimeout    = 10 * time.Second
	readTimeout        = 30 * time.Second
	// claimTimeout is short because jobs that are being claimed hold places that
	// the jobs of other databases may be waiting for.
	claimTimeout   = 5 * time.Second
	unclaimTimeout = 30 * time.Second
	rescueTimeout  = 30 * time.Second
	closeTimeout   = 2 * time.Second

	// probeInterval is how long a session may stay silent, and probeTimeout how
	// long the server may take to show that it is there (peers.md 3.4).
	probeInterval = 10 * time.Second
	// probeLimit is the time between two probes of a session that is never silent:
	// what is heard does not show that nothing is missing.
	probeLimit   = 30 * time.Second
	probeTimeout = 5 * time.Second
	// echoTimeout is how long the notification of our own claim may take before
	// the session counts as deaf.
	echoTimeout = 10 * time.Second
	// resyncInterval is the time between two full reads of a healthy database.
	resyncInterval = 5 * time.Minute
	// lockInterval is the time between two attempts to take a database's lock
	// from somebody else.
	lockInterval = 2 * time.Second

	reconnectFirst = 500 * time.Millisecond
	reconnectLimit = 5 * time.Second
	// stableAfter is how long a connection must have served before the next one
	// is made without a growing pause.
	stableAfter = 10 * time.Second

	// snapshotChunk is the number of rows that travel together from a snapshot
	// to the engine loop.
	snapshotChunk = 1000
	// readBatch bounds one read, claimBatch one claim. Between two reads claims
	// have their turn, so that the first jobs of a very large commit start while
	// the others are still being read: the first read of many is one of
	// readBatchFirst, and each that follows is of readBatchGrowth times as many.
	readBatch       = 1000
	readBatchFirst  = 100
	readBatchGrowth = 4
	claimBatch      = 1000
)

// orders is what the engine wants a session to do next.
type orders struct {
	claims   []string
	reads    []string
	unclaims []driver.Task
	inspects []string
	rescues  []driver.Liveness
	// resync asks for a full read now, channels for the database's channels.
	resync, channels bool
	// asked is the number of the last order to read; see [session.read].
	asked uint64
}

func (o *orders) empty() bool {
	return len(o.claims) == 0 && len(o.reads) == 0 && len(o.unclaims) == 0 &&
		len(o.inspects) == 0 && len(o.rescues) == 0 && !o.resync && !o.channels
}

// listener is told what a session finds out. Its methods are called from the
// session's goroutine and must not block, except syncRows.
type listener interface {
	// sessionState reports a step towards readiness or a reason why not.
	sessionState(s *session, state DatabaseState, detail string)
	fingerprinted(s *session, fp driver.Fingerprint)
	// channelsRead brings the channels that are configured in the database; err
	// says why there are none that could be used.
	channelsRead(s *session, cfgs []channels.Config, err error)
	// syncBegin, syncRows and syncEnd bring a snapshot. syncRows may block until
	// the engine has caught up; it reports whether all earlier rows have been taken,
	// so that their memory can be used again.
	syncBegin(s *session)
	syncRows(ctx context.Context, s *session, rows []driver.Row) (earlier bool)
	// syncEnd ends it; told are the jobs that notifications named meanwhile.
	syncEnd(s *session, told map[string]struct{})
	// rowsRead brings rows that were read; gone are those without a row. asked
	// is the number of the last order to read that this answers.
	rowsRead(s *session, rows []driver.Row, gone []string, asked uint64)
	// scheduled returns when the engine has taken in what it was told, and has
	// given its orders.
	scheduled(ctx context.Context)
	// claimed brings the result of a claim: what was taken, and how the rows
	// look that were not.
	claimed(s *session, got []driver.Task, rows []driver.Row, gone []string)
	unclaimed(s *session, tasks []driver.Task, changed []driver.Row)
	inspected(s *session, found []driver.Liveness)
	rescued(s *session, rows []driver.Row)
	// notified reports that so many notifications of others' changes arrived.
	notified(s *session, n int)
	// sessionLost reports the end of a connection that had been established.
	sessionLost(s *session, err error)
}

// session serves one database: connect, fingerprint, lock, listen, snapshot,
// and then orders and notifications until the connection is lost, again and
// again until its context ends.
type session struct {
	db     driver.Database
	config func() Config
	out    listener

	conn driver.Session

	mu        sync.Mutex // guards the following
	todo      orders
	interrupt context.CancelFunc

	// The rest belongs to the session's goroutine.
	dirty    backlog
	foreseen foreseen
	asked    uint64    // the last order to read that dirty contains
	heard    time.Time // when the server was last heard
	// taken is closed when the engine has taken the last rows of a full read.
	taken chan struct{}
	batch int // the size of the next read, if that is one of many
	// unreported are the notifications that the engine has not been told of.
	unreported int
	reload     bool      // the database's channels have changed
	echoSince  time.Time // when the oldest claim without an echo was made; zero if none
	resyncAt   time.Time
	probed     time.Time // when the last probe began, or the last full read ended

	// pulse may be read by everybody.
	pulse pulse
}

func newSession(db driver.Database, config func() Config, out listener) *session {
	return &session{db: db, config: config, out: out}
}

// order changes what the session shall do, and wakes it.
func (s *session) order(change func(*orders)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.todo)
	if s.interrupt != nil {
		s.interrupt()
	}
}

// read orders a read and returns its number: rows that arrive with that number
// or a later one were read after this call.
func (s *session) read(uuids ...string) uint64 {
	var n uint64
	s.order(func(o *orders) {
		o.asked++
		n = o.asked
		o.reads = append(o.reads, uuids...)
	})
	return n
}

// unread takes back an order to read, if it has not been carried out yet.
func (s *session) unread(uuid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.todo.reads, uuid); i >= 0 {
		s.todo.reads = slices.Delete(s.todo.reads, i, i+1)
	}
}

// dropClaims takes back the claims that have not been made yet.
func (s *session) dropClaims() []string {
	var claims []string
	s.order(func(o *orders) { claims, o.claims = o.claims, nil })
	return claims
}

// take returns the orders and leaves none.
func (s *session) take() orders {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.todo
	s.todo = orders{asked: o.asked}
	return o
}

// run serves the database until ctx ends.
func (s *session) run(ctx context.Context) {
	pause := backoff{first: reconnectFirst, limit: reconnectLimit}
	for ctx.Err() == nil {
		s.out.sessionState(s, DatabaseConnecting, "")
		found, err := s.serve(ctx, &pause)
		if ctx.Err() != nil {
			return
		}
		d := pause.next()
		if err == nil && (found.Health == driver.Undetected || found.Health == driver.Neutralized) {
			// No connection is kept; the add-on may be installed some day, or the
			// mark removed.
			d = jitter(s.config().DiscoverInterval)
			pause.reset()
		}
		if !sleep(ctx, d) {
			return
		}
	}
}

// serve is one connection's life. A nil error means that there is nothing to
// serve, for the reason that the fingerprint gives.
func (s *session) serve(ctx context.Context, pause *backoff) (found driver.Fingerprint, err error) {
	cfg := s.config()
	err = within(ctx, connectTimeout, func(ctx context.Context) (err error) {
		s.conn, err = cfg.Driver.OpenSession(ctx, cfg.Postgres, s.db.Name)
		return err
	})
	if err != nil {
		s.out.sessionState(s, DatabaseUnreachable, err.Error())
		return found, err
	}
	defer s.close(ctx)
	found, err = s.prepare(ctx)
	if err != nil || found.Health != driver.Healthy {
		if err != nil && ctx.Err() == nil {
			s.out.sessionState(s, DatabaseUnreachable, err.Error())
		}
		return found, err
	}
	s.pulse.begin()
	// From here on the engine knows the session: orders of an earlier
	// connection mean nothing to this one.
	s.take()
	s.dirty.clear()
	s.foreseen = foreseen{}
	s.batch = 0
	s.echoSince = time.Time{}
	err = s.sync(ctx)
	if err == nil {
		began := time.Now()
		if err = s.loop(ctx); time.Since(began) >= stableAfter {
			pause.reset()
		}
	}
	s.pulse.end()
	s.out.sessionLost(s, err)
	return found, err
}

// prepare goes the way from a connection to one that holds the lock and listens.
func (s *session) prepare(ctx context.Context) (found driver.Fingerprint, err error) {
	if found, err = s.fingerprint(ctx); err != nil {
		return found, err
	}
	s.out.fingerprinted(s, found)
	if found.Health != driver.Healthy {
		return found, nil
	}
	if err := s.lock(ctx); err != nil {
		return found, err
	}
	if err := within(ctx, listenTimeout, s.conn.Listen); err != nil {
		return found, fmt.Errorf("listen: %w", err)
	}
	return found, nil
}

func (s *session) fingerprint(ctx context.Context) (found driver.Fingerprint, err error) {
	err = s.call(ctx, "fingerprint", fingerprintTimeout, func(ctx context.Context) (err error) {
		if follower, ok := s.conn.(driver.Follower); ok {
			follower.Follow(s.config().Driver)
		}
		found, err = s.conn.Fingerprint(ctx)
		return err
	})
	return found, err
}

// recheck looks whether the database is what it was when the connection was
// made: an add-on can be removed, or brought up to another generation.
func (s *session) recheck(ctx context.Context) error {
	found, err := s.fingerprint(ctx)
	if err != nil {
		return err
	}
	s.out.fingerprinted(s, found)
	if found.Health != driver.Healthy {
		return fmt.Errorf("%w: %s: %s", errChanged, found.Health, found.Description)
	}
	return nil
}

// errChanged ends a connection whose database cannot be served as before.
var errChanged = errors.New("the database has changed")

// lock waits until no other runner serves the database.
func (s *session) lock(ctx context.Context) error {
	for {
		var l driver.Lock
		err := within(ctx, lockTimeout, func(ctx context.Context) (err error) {
			l, err = s.conn.Lock(ctx)
			return err
		})
		if err != nil {
			return fmt.Errorf("take the runner lock: %w", err)
		}
		if l.Held {
			return nil
		}
		s.out.sessionState(s, DatabaseStandby, l.Holder)
		if !sleep(ctx, jitter(lockInterval)) {
			return ctx.Err()
		}
	}
}

// close ends the connection; the database's lock goes with it.
func (s *session) close(ctx context.Context) {
	_ = within(context.WithoutCancel(ctx), closeTimeout, s.conn.Close)
}

// sync reads every job. It is the only way a lost notification is repaired, so
// it follows every LISTEN and comes back every few minutes.
func (s *session) sync(ctx context.Context) error {
	if err := s.readChannels(ctx); err != nil {
		return err
	}
	s.out.syncBegin(s)
	var chunk, before []driver.Row
	err := within(ctx, snapshotTimeout, func(ctx context.Context) error {
		return s.conn.Snapshot(ctx, func(row driver.Row) {
			if chunk == nil {
				chunk = make([]driver.Row, 0, snapshotChunk)
			}
			if chunk = append(chunk, row); len(chunk) < snapshotChunk {
				return
			}
			if !s.out.syncRows(ctx, s, chunk) {
				before = nil
			}
			chunk, before = before[:0], chunk
		})
	})
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	s.out.syncRows(ctx, s, chunk)
	if err := s.collect(ctx); err != nil {
		return err
	}
	told := s.dirty.copy()
	maps.Copy(told, s.foreseen.waiting.set)
	s.out.syncEnd(s, told)
	now := time.Now()
	s.heard, s.probed, s.resyncAt = now, now, now.Add(jitter(resyncInterval))
	s.pulse.beat(now)
	s.pulse.synced.Store(now.UnixMicro())
	return nil
}

// readChannels reads the channels that are configured in the database, where
// these count.
func (s *session) readChannels(ctx context.Context) error {
	s.reload = false
	if s.config().DatabaseChannels == nil {
		return nil
	}
	reader, ok := s.conn.(driver.ChannelReader)
	if !ok {
		s.out.channelsRead(s, nil, errNoChannels)
		return nil
	}
	var cfgs []channels.Config
	err := s.call(ctx, "read the channels", channelsTimeout, func(ctx context.Context) (err error) {
		cfgs, err = reader.Channels(ctx)
		return err
	})
	if err != nil && !errors.Is(err, driver.ErrChannels) {
		return err
	}
	s.out.channelsRead(s, cfgs, err)
	return nil
}

// errNoChannels is what a driver without such channels has to say.
var errNoChannels = fmt.Errorf("%w: the driver knows of none", driver.ErrChannels)

// loop serves until the connection is lost. Batches form by themselves: what
// arrives during a round trip goes with the next one.
func (s *session) loop(ctx context.Context) error {
	for {
		if err := s.wait(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		o := s.take()
		if o.asked > s.asked {
			s.asked = o.asked
		}
		now := time.Now()
		for _, uuid := range o.reads {
			s.foreseen.end(uuid, now)
			s.dirty.add(uuid)
		}
		for _, uuid := range s.foreseen.take(now) {
			s.dirty.add(uuid)
		}
		if o.resync {
			s.resyncAt = time.Time{}
		}
		if o.channels || s.reload {
			if err := s.readChannels(ctx); err != nil {
				return err
			}
		}
		if err := s.execute(ctx, &o); err != nil {
			return err
		}
		if err := s.attend(ctx); err != nil {
			return err
		}
	}
}

// wait collects notifications, and blocks as long as there is nothing to do.
func (s *session) wait(ctx context.Context) error {
	wctx, cancel := context.WithDeadline(ctx, s.deadline())
	defer cancel()
	s.mu.Lock()
	if !s.todo.empty() || s.dirty.len() > 0 || s.reload {
		cancel() // only what has arrived already
	}
	s.interrupt = cancel
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.interrupt = nil
		s.mu.Unlock()
	}()
	return s.listen(wctx)
}

// collect takes the notifications that have arrived already.
func (s *session) collect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return s.listen(ctx)
}

// listen waits for notifications as long as ctx allows, and notes the jobs.
func (s *session) listen(ctx context.Context) error {
	n, err := s.conn.Wait(ctx)
	if err != nil {
		return fmt.Errorf("wait for notifications: %w", err)
	}
	if len(n.Changed) > 0 || len(n.Echoes) > 0 || n.Reload {
		s.heard = time.Now()
	}
	if len(n.Echoes) > 0 {
		s.echoSince = time.Time{}
	}
	s.reload = s.reload || n.Reload
	for _, uuid := range n.Changed {
		if !s.foreseen.wait(uuid, s.heard) {
			s.dirty.add(uuid)
		}
	}
	s.pulse.beat(s.heard)
	if len(n.Changed) > 0 {
		s.pulse.notified.Add(uint64(len(n.Changed)))
		s.unreported += len(n.Changed)
	}
	return nil
}

// deadline is when the session has something to do by itself.
func (s *session) deadline() time.Time {
	d := earliest(s.heard.Add(probeInterval), s.resyncAt)
	if !s.echoSince.IsZero() {
		d = earliest(d, s.echoSince.Add(echoTimeout))
	}
	if due := s.foreseen.due(); !due.IsZero() {
		d = earliest(d, due)
	}
	return d
}

// execute carries orders out. Claims and reads go together. While there is more to
// read than one read takes, claims go first and alone, or each would wait for rows
// that have nothing to do with it.
func (s *session) execute(ctx context.Context, o *orders) error {
	if s.batch > 0 {
		if err := s.claimAll(ctx, o.claims, nil); err != nil {
			return err
		}
		o.claims = nil
	}
	if err := s.claimAll(ctx, o.claims, s.nextRead(o.reads)); err != nil {
		return err
	}
	if len(o.unclaims) > 0 {
		var rows []driver.Row
		err := s.call(ctx, "put jobs back", unclaimTimeout, func(ctx context.Context) (err error) {
			rows, err = s.conn.Unclaim(ctx, o.unclaims)
			return err
		})
		if err != nil {
			return err
		}
		s.out.unclaimed(s, o.unclaims, rows)
	}
	return s.look(ctx, o)
}

// nextRead takes the jobs of one read: of those that changed or were asked for,
// the latter first, for places depend on them.
func (s *session) nextRead(first []string) []string {
	uuids := s.dirty.take(first, max(s.batch, readBatchFirst))
	s.batch = 0
	if s.dirty.len() > 0 {
		s.batch = min(readBatch, readBatchGrowth*len(uuids))
	}
	for _, uuid := range uuids {
		s.foreseen.read(uuid)
	}
	return uuids
}

// claimAll makes the claims that have been ordered, and one read along with the
// first of them.
func (s *session) claimAll(ctx context.Context, claims, reads []string) error {
	for len(claims) > 0 {
		n := min(len(claims), claimBatch)
		if err := s.claim(ctx, claims[:n], reads); err != nil {
			return err
		}
		claims, reads = claims[n:], nil
	}
	if len(reads) == 0 {
		return nil
	}
	rows, err := s.readRows(ctx, reads)
	if err != nil {
		return err
	}
	s.deliver(reads, rows)
	s.out.scheduled(ctx)
	return nil
}

// deliver hands over what was read. The listener's scheduled is to be called after
// it: what the rows let start is ordered by then, so that the claim is the next thing
// that the connection does, and waiting for notifications need not be interrupted.
func (s *session) deliver(uuids []string, rows []driver.Row) {
	for i := range rows {
		if !rows[i].State.Running() {
			s.foreseen.end(rows[i].UUID, s.heard)
		}
	}
	missing := gone(uuids, rows)
	for _, uuid := range missing {
		s.foreseen.end(uuid, s.heard)
	}
	if s.unreported > 0 {
		s.out.notified(s, s.unreported)
		s.unreported = 0
	}
	s.out.rowsRead(s, rows, missing, s.asked)
}

func (s *session) readRows(ctx context.Context, uuids []string) (rows []driver.Row, err error) {
	err = s.call(ctx, "read jobs", readTimeout, func(ctx context.Context) (err error) {
		rows, err = s.conn.Read(ctx, uuids)
		return err
	})
	return rows, err
}

// gone returns those of the jobs that have no row.
func gone(uuids []string, rows []driver.Row) []string {
	if len(rows) == len(uuids) {
		return nil
	}
	found := make(map[string]struct{}, len(rows))
	for i := range rows {
		found[rows[i].UUID] = struct{}{}
	}
	return without(uuids, found)
}

// without returns those of list that are not in a set.
func without(list []string, set map[string]struct{}) (rest []string) {
	for _, v := range list {
		if _, ok := set[v]; !ok {
			rest = append(rest, v)
		}
	}
	return rest
}

// claim marks jobs enqueued, and reads those that it did not get, so that the
// engine learns why. The rows of reads come first: they are older than the claim.
func (s *session) claim(ctx context.Context, uuids, reads []string) error {
	var got []driver.Task
	var rows []driver.Row
	err := s.call(ctx, "claim jobs", claimTimeout, func(ctx context.Context) (err error) {
		got, rows, err = s.conn.Claim(ctx, uuids, reads)
		return err
	})
	if err != nil {
		return err
	}
	if len(got) > 0 && s.echoSince.IsZero() {
		s.echoSince = time.Now()
	}
	if len(reads) > 0 {
		s.deliver(reads, rows)
	}
	for i := range got {
		s.foreseen.claimed(got[i].UUID)
	}
	// At once: should the read below fail, these have been claimed all the same.
	s.out.claimed(s, got, nil, nil)
	if len(reads) > 0 {
		s.out.scheduled(ctx)
	}
	if len(got) == len(uuids) {
		return nil
	}
	taken := make(map[string]struct{}, len(got))
	for i := range got {
		taken[got[i].UUID] = struct{}{}
	}
	missed := without(uuids, taken)
	if rows, err = s.readRows(ctx, missed); err == nil {
		s.out.claimed(s, nil, rows, gone(missed, rows))
	}
	return err
}

// look inspects and rescues.
func (s *session) look(ctx context.Context, o *orders) error {
	if len(o.inspects) > 0 {
		var found []driver.Liveness
		err := s.call(ctx, "inspect jobs", rescueTimeout, func(ctx context.Context) (err error) {
			found, err = s.conn.Inspect(ctx, o.inspects)
			return err
		})
		if err != nil {
			return err
		}
		s.out.inspected(s, found)
	}
	if len(o.rescues) == 0 {
		return nil
	}
	var rows []driver.Row
	err := s.call(ctx, "rescue jobs", rescueTimeout, func(ctx context.Context) (err error) {
		rows, err = s.conn.Rescue(ctx, o.rescues)
		return err
	})
	if err == nil {
		s.out.rescued(s, rows)
	}
	return err
}

// attend does what is due by the clock: resync, echo watch, probe.
func (s *session) attend(ctx context.Context) error {
	now := time.Now()
	if !now.Before(s.resyncAt) {
		if err := s.recheck(ctx); err != nil {
			return err
		}
		return s.sync(ctx)
	}
	if !s.echoSince.IsZero() && now.Sub(s.echoSince) >= echoTimeout {
		return fmt.Errorf("no notification of our own claim within %s: %w", echoTimeout, driver.ErrLost)
	}
	if now.Sub(s.heard) >= probeInterval || now.Sub(s.probed) >= probeLimit {
		s.probed = now
		return s.call(ctx, "probe", probeTimeout, s.conn.Probe)
	}
	return nil
}

// call makes one call to the driver. A statement that failed although the
// connection lives is as bad as a lost connection: what it should have done is
// not done, and a new snapshot is the way to know where things stand.
func (s *session) call(ctx context.Context, doing string, timeout time.Duration, f func(context.Context) error) error {
	if err := within(ctx, timeout, f); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	s.heard = time.Now()
	s.pulse.beat(s.heard)
	return nil
}

// within runs f with a deadline.
func within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("no result within %s", d))
	defer cancel()
	err := f(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}
