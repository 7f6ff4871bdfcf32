package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	readTimeout = 30 * time.Second
	// claimTimeout is short because jobs that are being claimed occupy slots that the jobs of other
	// databases may be waiting for.
	claimTimeout   = 5 * time.Second
	unclaimTimeout = 30 * time.Second
	rescueTimeout  = 30 * time.Second

	// probeInterval is how long a session may stay silent, and probeTimeout how long PostgreSQL may
	// take to show that it is there. A connection that has died without a word shows only so.
	probeInterval = 10 * time.Second
	probeTimeout  = 5 * time.Second
	// probeLimit is the time between two probes of a session that is never silent: what is heard does
	// not show that nothing is missing.
	probeLimit = 30 * time.Second
	// echoTimeout is how long the notification of our own claim may take before the session counts as
	// deaf.
	echoTimeout = 10 * time.Second
	// resyncInterval is the time between two snapshots of a healthy database, and lockedInterval that
	// until the next try of one that met a lock.
	resyncInterval = 5 * time.Minute
	lockedInterval = 10 * time.Second
	// lockedPause is the time until jobs are read, or claimed, again after that met a lock.
	lockedPause = time.Second

	// backlogLimit is how many jobs may wait to be read. A snapshot takes the place of what is beyond
	// it, at most once in overflowInterval.
	backlogLimit     = 200_000
	overflowInterval = 10 * time.Second

	// readBatch bounds one read, claimBatch one claim. Between two reads claims have their turn, so
	// that the first jobs of a very large commit start while the others are still being read: the
	// first read of many is one of readBatchFirst, and each that follows is of readBatchGrowth times
	// as many.
	readBatch       = 1000
	readBatchFirst  = 100
	readBatchGrowth = 4
	claimBatch      = 1000
)

// SilenceLimit is how long a live session may not have heard of PostgreSQL: probes are sent in
// between.
const SilenceLimit = probeInterval + probeTimeout

// loop serves until the connection is lost. Batches form by themselves: what
// arrives during a round trip goes with the next one.
func (s *Session) loop(ctx context.Context) error {
	for {
		if err := s.wait(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		o := s.take()
		s.read = max(s.read, o.read)
		now := time.Now()
		for _, uuid := range o.reads {
			s.foreseen.end(uuid, now)
			s.dirty.add(uuid)
		}
		for _, uuid := range s.foreseen.take(now) {
			s.dirty.add(uuid)
		}
		if o.poll {
			s.polls.hinted = true
		}
		if o.resync {
			s.resyncAt = time.Time{}
		}
		if o.channels || s.reload {
			if err := s.postponed(ctx, s.readChannels(ctx)); err != nil {
				return err
			}
		}
		if o.upgrade {
			s.upgradeAt = time.Time{} // the listener may have forgotten what it was told
			if err := s.checkUpgrade(ctx); err != nil {
				return err
			}
		}
		if err := s.execute(ctx, &o); err != nil {
			return err
		}
		if err := s.finish(ctx, &o); err != nil {
			return err
		}
	}
}

// finish does what comes after the orders about jobs.
func (s *Session) finish(ctx context.Context, o *orders) error {
	if len(o.releases) > 0 || len(s.dependents) > 0 {
		if err := s.release(ctx, o.releases); err != nil {
			return err
		}
	}
	if o.sleep {
		if err := s.sleep(ctx, o.barred); err != nil {
			return err
		}
	}
	return s.attend(ctx)
}

// wait collects notifications, and blocks as long as there is nothing to do.
func (s *Session) wait(ctx context.Context) error {
	s.mu.Lock()
	if !s.todo.empty() || s.mayRead() || s.reload || len(s.dependents) > 0 {
		s.mu.Unlock()
		return s.collect()
	}
	wctx, cancel := context.WithDeadline(ctx, s.deadline())
	defer cancel()
	s.interrupt = cancel
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.interrupt = nil
		s.mu.Unlock()
	}()
	return s.listen(wctx)
}

// mayRead reports whether there are jobs to read now.
func (s *Session) mayRead() bool { return s.dirty.len() > 0 && !time.Now().Before(s.readAfter) }

// collect takes the notifications that have arrived already.
func (s *Session) collect() error { return s.listen(over) }

// over is a context that has ended.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// listen waits for notifications as long as ctx allows, and notes the jobs.
func (s *Session) listen(ctx context.Context) error {
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
	s.overflow = s.overflow || n.Overflow
	for _, uuid := range n.Echoes {
		if !s.foreseen.knows(uuid) {
			s.changed(uuid)
		}
	}
	for _, uuid := range n.Changed {
		if !s.foreseen.wait(uuid, s.heard) {
			s.changed(uuid)
		}
	}
	s.pulse.beat(s.heard)
	if len(n.Changed) > 0 {
		s.pulse.notified.Add(uint64(len(n.Changed)))
		s.notified += len(n.Changed)
	}
	return nil
}

// changed notes a job to read. Beyond backlogLimit, all are read instead.
func (s *Session) changed(uuid string) {
	if s.dirty.len() >= backlogLimit {
		s.overflow = true
		return
	}
	s.dirty.add(uuid)
}

// deadline is when the session has something to do by itself.
func (s *Session) deadline() time.Time {
	d := timing.Earliest(s.heard.Add(probeInterval), s.snapshotAt())
	if !s.echoSince.IsZero() {
		d = timing.Earliest(d, s.echoSince.Add(echoTimeout))
	}
	if s.dirty.len() > 0 && !s.readAfter.IsZero() {
		d = timing.Earliest(d, s.readAfter)
	}
	for _, due := range [...]time.Time{s.foreseen.due(), s.upgradeDue(), s.pollAt()} {
		if !due.IsZero() {
			d = timing.Earliest(d, due)
		}
	}
	return d
}

// snapshotAt is when the next snapshot is due. More notifications than are kept make one necessary,
// but whoever sends them does not choose how often. One that met a lock is tried again later.
func (s *Session) snapshotAt() time.Time {
	at := s.resyncAt
	if s.overflow {
		at = timing.Earliest(at, moment(&s.pulse.synced).Add(overflowInterval))
	}
	if at.Before(s.lockedUntil) {
		return s.lockedUntil
	}
	return at
}

// execute carries orders out. Claims and reads go together. While there is more to
// read than one read takes, claims go first and alone, or each would wait for rows
// that have nothing to do with it.
func (s *Session) execute(ctx context.Context, o *orders) error {
	if s.batch > 0 {
		if err := s.claimAll(ctx, o.claims, nil); err != nil {
			return err
		}
		o.claims = nil
	}
	if err := s.claimAndRead(ctx, o); err != nil {
		return err
	}
	if len(o.unclaims) > 0 {
		err := s.unclaim(ctx, "put jobs back", o.unclaims, func(ctx context.Context) ([]driver.Row, error) {
			return s.conn.Unclaim(ctx, o.unclaims)
		})
		if err != nil {
			return err
		}
	}
	if err := s.end(ctx, o); err != nil {
		return err
	}
	if err := s.revive(ctx, o); err != nil {
		return err
	}
	return s.quarantine(ctx, o)
}

// unclaim undoes claims, and tells what the rows are then. Where the table is locked, it is as if each row
// were.
func (s *Session) unclaim(ctx context.Context, what string, tasks []driver.Task, do func(context.Context) ([]driver.Row, error)) error {
	rows, err := s.change(ctx, what, unclaimTimeout, do)
	if err = s.unlessLocked(err); err == nil {
		s.out.Unclaimed(tasks, rows)
	}
	return err
}

// change makes one call that changes rows, and returns them.
func (s *Session) change(ctx context.Context, what string, timeout time.Duration, do func(context.Context) ([]driver.Row, error)) (rows []driver.Row, err error) {
	err = s.call(ctx, what, timeout, func(ctx context.Context) (err error) {
		rows, err = do(ctx)
		return err
	})
	return rows, err
}

// claimAndRead makes the claims that have been ordered, and the next read along with them.
func (s *Session) claimAndRead(ctx context.Context, o *orders) error {
	reads := s.nextRead(o.reads)
	if len(reads) == 1 && len(o.reads) == 0 && len(o.claims) == 0 && s.useGrant(reads[0]) {
		return s.claimVacant(ctx, reads)
	}
	return s.claimAll(ctx, o.claims, reads)
}

// nextRead takes the jobs of one read: of those that changed or were asked for, the latter first,
// because slots depend on them.
func (s *Session) nextRead(first []string) []string {
	if time.Now().Before(s.readAfter) {
		return nil
	}
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
func (s *Session) claimAll(ctx context.Context, claims, reads []string) (err error) {
	if claims, err = s.admit(ctx, claims); err != nil {
		return err
	}
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
	if err := s.readAlone(ctx, reads); err != nil {
		return err
	}
	s.out.Scheduled(ctx)
	return nil
}

// readAlone reads jobs and delivers their rows. Where the table is locked, the jobs are read later.
func (s *Session) readAlone(ctx context.Context, uuids []string) error {
	rows, err := s.readRows(ctx, uuids)
	switch {
	case err == nil:
		s.deliver(uuids, rows)
		return nil
	case s.unlessLocked(err) != nil:
		return err
	}
	for _, uuid := range uuids {
		s.dirty.add(uuid)
	}
	s.readAfter = s.heard.Add(lockedPause)
	s.out.Rows(Reading{Locked: true})
	return nil
}

// deliver hands over what was read. The listener's Scheduled is to be called after it: what the rows
// let start is ordered by then, so that the claim is the next thing that the connection does, and
// waiting for notifications need not be interrupted.
func (s *Session) deliver(uuids []string, rows []driver.Row) { s.out.Rows(s.reading(uuids, rows)) }

// reading is what the listener is told of a read.
func (s *Session) reading(uuids []string, rows []driver.Row) Reading {
	for i := range rows {
		if !rows[i].State.Running() {
			s.foreseen.end(rows[i].UUID, s.heard)
		}
	}
	missing := gone(uuids, rows)
	for _, uuid := range missing {
		s.foreseen.end(uuid, s.heard)
	}
	r := Reading{Rows: rows, Gone: missing, Read: s.read, Notified: s.notified}
	s.notified = 0
	return r
}

func (s *Session) readRows(ctx context.Context, uuids []string) (rows []driver.Row, err error) {
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
	return untold(uuids, rows, func(r *driver.Row) string { return r.UUID })
}

// untold returns those of the jobs that a statement has told nothing of.
func untold[T any](uuids []string, told []T, uuid func(*T) string) (rest []string) {
	found := make(map[string]struct{}, len(told))
	for i := range told {
		found[uuid(&told[i])] = struct{}{}
	}
	for _, v := range uuids {
		if _, ok := found[v]; !ok {
			rest = append(rest, v)
		}
	}
	return rest
}

// claim marks jobs enqueued, and reads those that it did not get, so that the listener learns why.
// The rows of reads come first: they are older than the claim.
func (s *Session) claim(ctx context.Context, uuids, reads []string) error {
	var got []driver.Task
	var rows []driver.Row
	err := s.call(ctx, "claim jobs", claimTimeout, func(ctx context.Context) (err error) {
		got, rows, err = s.conn.Claim(ctx, uuids, reads)
		return err
	})
	if errors.Is(err, driver.ErrUpgrading) {
		return s.unclaimed(ctx, uuids, reads, err)
	}
	if err != nil {
		return err
	}
	s.refused = false
	if len(reads) > 0 {
		s.deliver(reads, rows)
	}
	s.claimed(got)
	// At once: should the read below fail, these have been claimed all the same.
	s.out.Claimed(Claims{Got: got})
	if len(reads) > 0 {
		s.out.Scheduled(ctx)
	}
	missing := notGot(uuids, got)
	if len(missing) == 0 {
		return nil
	}
	if s.gating && len(got) == 0 { // a mark, perhaps
		if err := s.checkUpgrade(ctx); err != nil {
			return err
		}
	}
	return s.missed(ctx, missing)
}

// notGot returns those of the jobs that a claim has not got. As many may have been got all the
// same: a trigger of others can give a job another name.
func notGot(uuids []string, got []driver.Task) []string {
	if len(uuids) == 1 && len(got) == 1 && got[0].UUID == uuids[0] {
		return nil
	}
	return untold(uuids, got, func(t *driver.Task) string { return t.UUID })
}

// claimed notes which notifications are to come of what was got.
func (s *Session) claimed(got []driver.Task) {
	if s.polls.on {
		return
	}
	if len(got) > 0 && s.echoSince.IsZero() {
		s.echoSince = time.Now()
	}
	for i := range got {
		s.foreseen.claimed(got[i].UUID)
	}
}

// unclaimed reads after a claim that met a lock, such as that of an upgrade.
func (s *Session) unclaimed(ctx context.Context, uuids, reads []string, met error) error {
	if err := s.unlessLocked(met); err != nil {
		return err
	}
	s.claimAfter, s.refused = s.heard.Add(lockedPause), true
	s.out.Claimed(Claims{Refused: true})
	if len(reads) > 0 {
		if err := s.readAlone(ctx, reads); err != nil {
			return err
		}
	}
	if err := s.checkUpgrade(ctx); err != nil {
		return err
	}
	return s.missed(ctx, uuids)
}

// revive inspects and rescues.
func (s *Session) revive(ctx context.Context, o *orders) error {
	if len(o.inspects) > 0 {
		var found []driver.Liveness
		err := s.call(ctx, "inspect jobs", rescueTimeout, func(ctx context.Context) (err error) {
			found, err = s.conn.Inspect(ctx, o.inspects)
			return err
		})
		switch {
		case err == nil:
			s.out.Inspected(found)
		case s.unlessLocked(err) != nil:
			return err
		default:
			s.out.Rows(Reading{Locked: true}) // the listener asks again
		}
	}
	if len(o.rescues) == 0 {
		return nil
	}
	return s.rescue(ctx, "rescue jobs", func(ctx context.Context) ([]driver.Row, error) {
		return s.conn.Rescue(ctx, o.rescues)
	})
}

// rescue does with dead jobs what is to be done, and tells what their rows are then.
func (s *Session) rescue(ctx context.Context, what string, do func(context.Context) ([]driver.Row, error)) error {
	rows, err := s.change(ctx, what, rescueTimeout, do)
	if err == nil {
		s.out.Rescued(rows)
	}
	return s.unlessLocked(err) // the listener asks again
}

// quarantine fails what would be put back otherwise.
func (s *Session) quarantine(ctx context.Context, o *orders) error {
	unclaims, rescues := &o.failUnclaims, &o.failRescues
	if len(unclaims.tasks) == 0 && len(rescues.tasks) == 0 {
		return nil
	}
	q, ok := s.conn.(driver.Quarantiner)
	if !ok {
		return errNoQuarantine
	}
	if len(unclaims.tasks) > 0 {
		err := s.unclaim(ctx, "fail jobs that were not run", unclaims.tasks, func(ctx context.Context) ([]driver.Row, error) {
			return q.FailUnclaimed(ctx, unclaims.tasks, unclaims.why)
		})
		if err != nil {
			return err
		}
	}
	if len(rescues.tasks) == 0 {
		return nil
	}
	return s.rescue(ctx, "fail dead jobs", func(ctx context.Context) ([]driver.Row, error) {
		return q.FailDead(ctx, rescues.tasks, rescues.why)
	})
}

// errNoQuarantine is a driver that declares what its sessions do not have.
var errNoQuarantine = errors.New("the sessions of this driver can fail no jobs, although it says that they can")

// attend does what is due by the clock: upgrade watch, resync, echo watch, probe.
func (s *Session) attend(ctx context.Context) error {
	now := time.Now()
	if due := s.upgradeDue(); !due.IsZero() && !now.Before(due) {
		if err := s.checkUpgrade(ctx); err != nil {
			return err
		}
	}
	if !now.Before(s.snapshotAt()) {
		err := s.resync(ctx)
		if !errors.Is(err, driver.ErrUpgrading) {
			return err
		}
		if err := s.postponed(ctx, err); err != nil {
			return err
		}
	}
	if due := s.pollAt(); !due.IsZero() && !now.Before(due) {
		if err := s.postponed(ctx, s.poll(ctx)); err != nil {
			return err
		}
	}
	if !s.echoSince.IsZero() && now.Sub(s.echoSince) >= echoTimeout {
		return fmt.Errorf("no notification of our own claim within %s: %w", echoTimeout, driver.ErrLost)
	}
	if s.probeDue(now) {
		s.probed = now
		s.follow()
		if err := s.unlessLocked(s.call(ctx, "probe", probeTimeout, s.conn.Probe)); err != nil {
			return err
		}
		if err := s.checkUpgrade(ctx); err != nil {
			return err
		}
		return s.unlessLocked(s.checkChannels(ctx)) // what they are, the next probe tells
	}
	return nil
}
