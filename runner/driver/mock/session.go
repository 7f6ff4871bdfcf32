package mock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// session implements [driver.Session]. All fields are guarded by the world's mutex.
type session struct {
	w   *World
	db  *database
	pid uint32

	inbox driver.Notifications
	wake  chan struct{}
	// gone is closed when the connection is lost.
	gone chan struct{}

	inUse         bool
	lost          bool
	fingerprinted bool
	listening     bool
	locked        bool
	gated         bool
	// pooled is set if it hears nothing, and holds no lock.
	pooled bool
	fence  func() driver.Fence
	// keys are those that rows tell.
	keys driver.Keys
	// found is what the last fingerprint was.
	found driver.Fingerprint
	// underway are the notifications that have not arrived yet.
	underway []notification
}

// signal wakes Wait.
func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lose ends the connection from the server's side.
func (s *session) lose() {
	if s.lost {
		return
	}
	s.lost = true
	close(s.gone)
	delete(s.db.sessions, s)
	if s.db.holder == s {
		s.db.holder = nil
	}
}

// do runs one statement: fn with the mutex held, unless something is wrong. Its result may take a while
// to arrive.
func (s *session) do(ctx context.Context, method string, fault error, hang bool, fn func() error) error {
	s.w.checkDeadline(ctx, method)
	s.enter(method)
	defer s.leave()
	if method != "Fingerprint" && !s.fingerprinted {
		s.w.violation("%s on %s before Fingerprint", method, s.db.name)
	}
	if (hang || s.db.faults.Frozen) && !s.lost {
		s.w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-s.gone:
		}
		s.w.mu.Lock()
	}
	if s.lost {
		return s.failed(method, driver.ErrLost)
	}
	if err := ctx.Err(); err != nil {
		s.lose()
		return s.failed(method, fmt.Errorf("%w: %w", driver.ErrLost, err))
	}
	if err := s.excluded(method); err != nil {
		return err
	}
	if fault != nil {
		if errors.Is(fault, driver.ErrLost) {
			s.lose()
		}
		return s.failed(method, fault)
	}
	err := fn()
	if !s.lost && !s.take(ctx, s.db.faults.Slow) {
		s.lose()
		return s.failed(method, driver.ErrLost)
	}
	return err
}

// failed says what was being done.
func (s *session) failed(method string, err error) error {
	return fmt.Errorf("%s in %s: %w", strings.ToLower(method), s.db.name, err)
}

// enter and leave watch that one goroutine at a time uses the session.
func (s *session) enter(method string) {
	s.db.calls[method]++
	if s.inUse {
		s.w.violation("%s on %s while another call was under way", method, s.db.name)
	}
	s.inUse = true
}

func (s *session) leave() { s.inUse = false }

// fingerprint is what a driver finds in the database.
func (db *database) fingerprint() driver.Fingerprint {
	if db.faults.Fingerprint != nil {
		return *db.faults.Fingerprint
	}
	return driver.Fingerprint{Health: driver.Healthy, Description: "ready", Generation: Generation, Version: "1.0", Locks: true}
}

func (s *session) Fingerprint(ctx context.Context) (fp driver.Fingerprint, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Fingerprint", s.db.faults.FingerprintErr, false, func() error {
		s.fingerprinted = true
		s.found = s.db.fingerprint()
		fp = s.found
		return nil
	})
	return fp, err
}

func (s *session) Lock(ctx context.Context) (lock driver.Lock, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Lock", s.db.faults.LockErr, false, func() error {
		switch {
		case s.db.foreign != "":
			lock.Holder = s.db.foreign
		case s.pooled && s.db.holder == nil:
			lock.Held = true
		case s.db.holder == nil:
			s.db.holder, s.db.locked = s, time.Now()
			s.locked, lock.Held = true, true
		case s.db.holder == s:
			lock.Held = true
		default:
			lock.Holder = fmt.Sprintf("pid %d, application mock", s.db.holder.pid)
		}
		return nil
	})
	return lock, err
}

func (s *session) Listen(ctx context.Context) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.do(ctx, "Listen", nil, false, func() error {
		s.listening = !s.pooled
		return nil
	})
}

// Channels implements [driver.ChannelReader].
func (s *session) Channels(ctx context.Context) (cfgs []channels.Config, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Channels", s.db.faults.ChannelsErr, false, func() error {
		cfgs = slices.Clone(s.db.channels)
		return nil
	})
	return cfgs, err
}

// Count counts as a bounded query does.
func (s *session) Count(ctx context.Context) (c channels.Count, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Count", s.db.faults.CountErr, false, func() error {
		c.DB = s.db.name
		for _, j := range s.db.jobs {
			c.Add(j.State, 1)
		}
		return nil
	})
	return c, err
}

func (s *session) Running(ctx context.Context) (rows []driver.Row, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Running", nil, false, func() error {
		for _, j := range s.db.stored(func(j *Job) bool { return j.State.Running() }) {
			rows = append(rows, s.told(&j))
		}
		return nil
	})
	return rows, err
}

func (s *session) Snapshot(ctx context.Context, yield func(driver.Row)) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	var rows []Job
	read := func(fault error) error {
		return s.do(ctx, "Snapshot", fault, false, func() error {
			rows = s.db.stored(func(j *Job) bool {
				return j.State != channels.Done && j.State != channels.Cancelled && j.State != channels.WaitDependencies
			})
			return nil
		})
	}
	err := read(nil)
	if fault := s.db.faults.SnapshotErr; err == nil && fault != nil {
		rows = rows[:min(len(rows), s.db.faults.SnapshotErrAfter)]
		err = s.do(ctx, "Snapshot", fault, false, nil)
	}
	// The caller's function may well ask the world.
	s.w.mu.Unlock()
	defer s.w.mu.Lock()
	for _, j := range rows {
		row := s.told(&j)
		row.Exception = ""
		yield(row)
	}
	return err
}

func (s *session) Read(ctx context.Context, uuids []string) (rows []driver.Row, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Read", s.db.faults.ReadErr, false, func() error {
		for _, j := range s.jobs(uuids) {
			rows = append(rows, s.told(j))
		}
		return nil
	})
	return rows, err
}

// jobs returns those of the jobs that exist, each once, in the order of the table.
func (s *session) jobs(uuids []string) (jobs []*Job) {
	seen := map[string]bool{}
	for _, uuid := range uuids {
		if j := s.db.jobs[uuid]; j != nil && !seen[uuid] {
			seen[uuid] = true
			jobs = append(jobs, j)
		}
	}
	slices.SortFunc(jobs, byPlace)
	return jobs
}

func (s *session) Claim(ctx context.Context, uuids, others []string) (tasks []driver.Task, rows []driver.Row, err error) {
	tasks, rows, err = s.claim(ctx, "Claim", uuids, others, func(*Job) bool { return true })
	if err != nil || len(tasks) > 0 || len(uuids) == 0 {
		return tasks, rows, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err := s.changed(); err != nil {
		return nil, nil, s.failed("Claim", err)
	}
	return nil, rows, nil
}

var _ driver.VacantClaimer = (*session)(nil)

func (s *session) ClaimVacant(ctx context.Context, uuid string) (tasks []driver.Task, rows []driver.Row, err error) {
	return s.claim(ctx, "ClaimVacant", []string{uuid}, []string{uuid}, func(j *Job) bool {
		return (j.Channel == "" || j.Channel == "root") && j.ETA == 0
	})
}

// claim claims those jobs that may be.
func (s *session) claim(ctx context.Context, method string, uuids, others []string, may func(*Job) bool) (tasks []driver.Task, rows []driver.Row, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	slow := s.db.faults.SlowClaim
	s.take(ctx, slow)
	err = s.do(ctx, method, s.db.faults.ClaimErr, s.db.faults.HangClaim, func() error {
		if s.db.holder != s && !s.pooled {
			s.w.violation("Claim on %s without the lock", s.db.name)
		}
		for _, j := range s.jobs(others) {
			rows = append(rows, s.told(j))
		}
		now := time.Now().Truncate(time.Second).UnixMicro()
		for _, j := range s.jobs(uuids) {
			if j.State != channels.Pending || s.db.faults.locks(j) || s.gated && s.db.upgrade.marked != "" || s.db.copied() || !may(j) {
				continue
			}
			s.w.update(j.Key, s.pid, func(j *Job) {
				j.State, j.Enqueued, j.claimed = channels.Enqueued, now, s.w.record.tick()
			})
			tasks = append(tasks, driver.Task{Key: j.Key, Enqueued: now})
		}
		if s.db.faults.LoseAfterClaim {
			s.db.faults.LoseAfterClaim = false
			tasks, rows = nil, nil
			s.lose()
			return s.failed(method, driver.ErrLost)
		}
		return nil
	})
	if err == nil && !s.take(ctx, slow) {
		s.lose()
		return nil, nil, s.failed(method, driver.ErrLost)
	}
	return tasks, rows, err
}

// take lets time pass, with the mutex held before and afterwards. It reports whether the session and its
// context have lasted that long.
func (s *session) take(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		s.w.mu.Unlock()
		defer s.w.mu.Lock()
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return false
		case <-s.gone:
			return false
		}
	}
	return true
}

var _ driver.Quarantiner = (*session)(nil)

func (s *session) Unclaim(ctx context.Context, tasks []driver.Task) (rows []driver.Row, err error) {
	return s.unclaim(ctx, "Unclaim", tasks, func(int) func(*Job) {
		return func(j *Job) { j.State, j.Enqueued = channels.Pending, 0 }
	})
}

func (s *session) FailUnclaimed(ctx context.Context, tasks []driver.Task, why []string) (rows []driver.Row, err error) {
	return s.unclaim(ctx, "FailUnclaimed", tasks, func(i int) func(*Job) { return fail(driver.QuarantineName, why[i]) })
}

// unclaim changes those tasks that are as their claims left them.
func (s *session) unclaim(ctx context.Context, method string, tasks []driver.Task, effects func(i int) func(*Job)) (rows []driver.Row, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, method, s.db.faults.UnclaimErr, false, func() error {
		for i, t := range tasks {
			j := s.db.jobs[t.UUID]
			if j == nil || s.db.faults.locks(j) || j.State != channels.Enqueued || j.Enqueued != t.Enqueued {
				continue
			}
			s.w.update(t.Key, s.pid, effects(i))
			rows = append(rows, s.told(j))
		}
		arrange(rows)
		return nil
	})
	return rows, err
}

func (s *session) Inspect(ctx context.Context, uuids []string) (found []driver.Liveness, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Inspect", s.db.faults.InspectErr, false, func() error {
		for _, uuid := range uuids {
			j := s.db.jobs[uuid]
			if j == nil {
				row := driver.Row{Job: channels.Job{Key: channels.Key{DB: s.db.name, UUID: uuid}}}
				found = append(found, driver.Liveness{Row: row, Gone: true})
				continue
			}
			found = append(found, s.inspect(j))
		}
		return nil
	})
	return found, err
}

// inspect judges by the same evidence as the real driver.
func (s *session) inspect(j *Job) driver.Liveness {
	l := driver.Liveness{Row: s.told(j)}
	if !j.State.Running() {
		return l
	}
	if j.Enqueued != 0 {
		l.Age = time.Since(time.UnixMicro(j.Enqueued))
	}
	switch {
	case j.LockPID != 0 && !j.LockHidden:
		l.Verdict, l.PID = driver.Alive, j.LockPID
	case s.overdue(j):
		l.Verdict = driver.Dead
	}
	return l
}

// dead is the predicate of the rescue (docs/contract.md 3.4).
func (s *session) dead(j *Job) bool { return s.overdue(j) && j.LockPID == 0 }

// overdue is that predicate without the lock row. A claim of the future was made by hand.
func (s *session) overdue(j *Job) bool {
	return s.db.fingerprint().Locks && j.State.Running() && j.Enqueued != 0 && time.Since(time.UnixMicro(j.Enqueued)).Abs() > Grace
}

func (s *session) Rescue(ctx context.Context, dead []driver.Liveness) (rows []driver.Row, err error) {
	return s.rescue(ctx, "Rescue", dead, func(int) func(*Job) { return requeue })
}

func (s *session) FailDead(ctx context.Context, dead []driver.Liveness, why []string) (rows []driver.Row, err error) {
	return s.rescue(ctx, "FailDead", dead, func(i int) func(*Job) { return fail(driver.QuarantineName, why[i]) })
}

// FailStopped implements [driver.Stopper].
func (s *session) FailStopped(ctx context.Context, dead []driver.Liveness, why []string) (rows []driver.Row, err error) {
	return s.rescue(ctx, "FailStopped", dead, func(i int) func(*Job) { return fail(driver.StoppedName, why[i]) })
}

// rescue changes those tasks that are still dead.
func (s *session) rescue(ctx context.Context, method string, dead []driver.Liveness, effects func(i int) func(*Job)) (rows []driver.Row, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, method, s.db.faults.RescueErr, false, func() error {
		locks := s.db.fingerprint().Locks
		for i, l := range dead {
			if !locks && !l.Expired {
				return s.failed(method, errors.New("without lock rows nothing proves a job dead"))
			}
			j := s.db.jobs[l.Row.UUID]
			if j == nil || s.db.faults.locks(j) || locks && !s.dead(j) || !locks && j.State != channels.Started || j.State != l.Row.State || j.Enqueued != l.Row.Enqueued {
				continue
			}
			s.w.update(j.Key, s.pid, effects(i))
			rows = append(rows, s.told(j))
		}
		arrange(rows)
		return nil
	})
	return rows, err
}

// requeue has the effects of docs/contract.md 3.4.
func requeue(j *Job) {
	exhausted := j.MaxRetries != 0 && j.Retry > j.MaxRetries
	if j.State == channels.Started {
		j.Retry++
	}
	j.State = channels.Pending
	if exhausted {
		j.State, j.Exception, j.Info = channels.Failed, "JobFoundDead", "Job found dead after too many retries"
	}
}

// fail fails a job.
func fail(name, why string) func(*Job) {
	return func(j *Job) {
		if j.State == channels.Started {
			j.Retry++
		}
		j.State, j.Exception = channels.Failed, name
		j.Info = strings.TrimPrefix(j.Info+"\n\n"+why, "\n\n")
	}
}

func (s *session) Wait(ctx context.Context) (driver.Notifications, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.enter("Wait")
	defer s.leave()
	for {
		if s.lost {
			return driver.Notifications{}, s.failed("Wait", driver.ErrLost)
		}
		n := s.inbox
		if !s.db.faults.Frozen && (len(n.Changed) > 0 || len(n.Echoes) > 0 || n.Reload || n.Overflow) {
			s.inbox = driver.Notifications{}
			return n, nil
		}
		if ctx.Err() != nil {
			return driver.Notifications{}, nil
		}
		s.w.mu.Unlock()
		select {
		case <-s.wake:
		case <-s.gone:
		case <-ctx.Done():
		}
		s.w.mu.Lock()
	}
}

func (s *session) Probe(ctx context.Context) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.do(ctx, "Probe", nil, false, func() error {
		var err error
		switch {
		case s.db.faults.ProbeErr != nil:
			err = s.db.faults.ProbeErr
		case s.listening && s.db.faults.Deaf:
			err = errors.New("no longer listening")
		case s.locked && s.db.holder != s:
			err = errors.New("no longer holding the lock")
		case s.listening || s.pooled:
			if err = s.changed(); err != nil {
				return s.failed("Probe", err)
			}
			return nil
		default:
			return nil
		}
		s.lose()
		return s.failed("Probe", fmt.Errorf("%w: %w", driver.ErrLost, err))
	})
}

func (s *session) Close(context.Context) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.enter("Close")
	defer s.leave()
	s.lose()
	return nil
}
