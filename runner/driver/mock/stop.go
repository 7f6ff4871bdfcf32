package mock

import (
	"context"
	"slices"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Stopper = (*session)(nil)

// Stop implements [driver.Stopper].
func (s *session) Stop(ctx context.Context, attempts []driver.Task, terminate bool) (stopped []driver.Stopped, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Stop", s.db.faults.StopErr, false, func() error {
		for _, t := range attempts {
			stopped = append(stopped, s.stop(t, terminate))
		}
		if s.db.faults.LoseAfterStop {
			s.db.faults.LoseAfterStop = false
			stopped = nil
			s.lose()
			return s.failed("Stop", driver.ErrLost)
		}
		return nil
	})
	return stopped, err
}

// stop signals the worker of one attempt.
func (s *session) stop(t driver.Task, terminate bool) driver.Stopped {
	no := func(r driver.StopResult, text string) driver.Stopped {
		return driver.Stopped{Task: t, Result: r, Text: text}
	}
	j := s.db.jobs[t.UUID]
	if !s.db.fingerprint().Locks {
		return no(driver.Unstoppable, "there are no lock rows")
	}
	if j == nil || s.db.faults.locks(j) || j.State != channels.Started || j.Enqueued != t.Enqueued || j.LockPID == 0 || j.LockHidden {
		return no(driver.NotRunning, "no backend executes it")
	}
	pid := j.LockPID
	run := s.w.record.executing(t)
	if run != nil && run.stopping != nil && run.stopping.plan.Unstoppable != "" {
		return no(driver.Unstoppable, run.stopping.plan.Unstoppable)
	}
	if s.db.faults.StopDenied {
		return no(driver.Denied, "the role may not signal the backend")
	}
	if terminate {
		j.LockPID = 0
	}
	if run != nil && run.stopping != nil {
		run.stopping.signal(terminate)
	}
	return driver.Stopped{Task: t, Result: driver.Signalled, PID: pid}
}

// executing returns the run that executes an attempt, nil if none does.
func (r *record) executing(t driver.Task) *Run {
	for _, run := range r.under[t.Key] {
		if run.Executing() && run.Task.Enqueued == t.Enqueued {
			return run
		}
	}
	return nil
}

// stopping is how a job that runs can be stopped.
type stopping struct {
	plan Plan
	// noticed is closed when the job notices that it is to end, and told is set then. closed is set
	// when its connection to the database was closed.
	noticed      chan struct{}
	told, closed bool
}

// newStopping returns nil for a job that takes no time.
func newStopping(p *Plan) *stopping {
	if p.RunFor <= 0 && p.Until == nil {
		return nil
	}
	return &stopping{plan: *p, noticed: make(chan struct{})}
}

// signal lets the job notice what it notices.
func (s *stopping) signal(terminate bool) {
	s.closed = s.closed || terminate
	if !s.told && (terminate && !s.plan.IgnoresTerminate || !terminate && !s.plan.IgnoresCancel) {
		s.told = true
		close(s.noticed)
	}
}

// wasStopped reports whether the job has noticed, at the latest when it wants to end.
func (w *World) wasStopped(run *Run) bool {
	if run.stopping == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return run.stopping.told || run.stopping.closed
}

// Account implements [driver.Stopper].
func (s *session) Account(ctx context.Context, causes []driver.Cause) (rows []driver.Row, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Account", s.db.faults.AccountErr, false, func() error {
		for _, c := range causes {
			j := s.db.jobs[c.Attempt.UUID]
			if j == nil || j.State != channels.Failed || j.Enqueued == 0 || j.Enqueued != c.Attempt.Enqueued {
				continue
			}
			if s.db.faults.locks(j) {
				continue
			}
			again := c.Retry && (j.MaxRetries == 0 || j.Retry < j.MaxRetries)
			told := len(j.Causes) > 0 && j.Causes[len(j.Causes)-1] == c.Text
			if told && !again {
				continue
			}
			s.w.update(j.Key, s.pid, func(j *Job) {
				if !told {
					j.Causes = append(slices.Clip(j.Causes), c.Text)
				}
				if again {
					j.State, j.Enqueued = channels.Pending, 0
				}
			})
			rows = append(rows, s.told(j))
		}
		arrange(rows)
		return nil
	})
	return rows, err
}
