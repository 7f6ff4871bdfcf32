package mock

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Generation is the generation that the mock reports.
const Generation = "mock+lock"

// Driver is one node's access to a [World].
type Driver struct{ w *World }

var _ driver.Driver = (*Driver)(nil)

// Driver returns a driver. Each call is another node.
func (w *World) Driver() *Driver { return &Driver{w: w} }

// Capabilities implements [driver.Driver]. The mock plays Odoo, so that is what it is called.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{Application: "Odoo", DatabaseChannels: true, Operations: true, Stopping: true, Upgrades: true, Releases: true, Quarantine: true, VacantClaims: true, Companies: true, Identities: true, Poolers: true}
}

// OpenCluster implements [driver.Driver]. The configuration is ignored.
func (d *Driver) OpenCluster(ctx context.Context, _ *pgx.ConnConfig) (driver.Cluster, error) {
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkDeadline(ctx, "OpenCluster")
	if err := w.reach(ctx); err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	c := &cluster{w: w, pid: w.next()}
	w.clusters[c] = struct{}{}
	return c, nil
}

// OpenSession implements [driver.Driver]. The configuration is ignored.
func (d *Driver) OpenSession(ctx context.Context, _ *pgx.ConnConfig, name string) (driver.Session, error) {
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkDeadline(ctx, "OpenSession")
	err := w.reach(ctx)
	db := w.databases[name]
	switch {
	case err != nil:
	case db == nil:
		err = fmt.Errorf("database %q does not exist: %w", name, driver.ErrLost)
	default:
		db.calls["OpenSession"]++
		if err = db.faults.OpenErr; err == nil {
			err = w.crowded()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open session to %s: %w", name, err)
	}
	s := &session{w: w, db: db, pid: w.next(), wake: make(chan struct{}, 1), gone: make(chan struct{})}
	db.sessions[s] = struct{}{}
	return s, nil
}

// reach says why PostgreSQL cannot be reached, with the mutex held.
func (w *World) reach(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", driver.ErrLost, err)
	}
	if w.down != nil {
		return fmt.Errorf("%w: %w", driver.ErrLost, w.down)
	}
	return nil
}

// Check implements [driver.Driver].
func (d *Driver) Check(ctx context.Context, up driver.Upstream) error {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	d.w.checkDeadline(ctx, "Check")
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.w.upstream(up.Name).CheckErr
}

// Plan is what becomes of one request to run a task. The zero value runs the job in no time and
// ends in state done, answered with status 200.
type Plan struct {
	// FailBeforeSend fails the request before anything is sent.
	FailBeforeSend bool
	// Refuse answers with this status without starting the job.
	Refuse int
	// StayEnqueued answers 200 and leaves the row alone.
	StayEnqueued bool
	// StartAfter is the time that the request waits in the worker's backlog.
	StartAfter time.Duration
	// LockAfter is the time from the start of the job, when its row says so, to its lock on the lock row:
	// the worker's second transaction. It gives up if the job is not started any more by then, or if
	// another one has the lock. HidesLock lets the lock not show.
	LockAfter time.Duration
	HidesLock bool
	// RunFor is how long the job runs.
	RunFor time.Duration
	// Until, if not nil, lets the job run until the channel is closed, after RunFor.
	Until <-chan struct{}
	// DropConnAfter breaks the connection after that time, 0 means never. The job runs on.
	DropConnAfter time.Duration
	// AnswerAfter has the request answered with 200 after that time, 0 means when the job has ended. The
	// job runs on.
	AnswerAfter time.Duration
	// Crash kills the worker when the job would end: the row stays started, the lock row is free
	// and the connection breaks.
	Crash bool
	// DieAfter kills the worker after the end of the job is committed, and before it has released the
	// jobs that waited for it.
	DieAfter bool
	// ReleaseAfter is how long the worker tries to release them.
	ReleaseAfter time.Duration
	// CrashServer is Crash of the whole server, with all that runs there.
	CrashServer bool
	// Ends is the state in which the job ends. Default: done.
	Ends channels.State
	// Then changes more of the row in the transaction that ends the job.
	Then func(*Job)
	// Status is that of the answer. Default: 200.
	Status int
	// HoldAnswer is the time from the end of the job to the answer.
	HoldAnswer time.Duration
	// IgnoresCancel lets the job not notice that its statement is cancelled, as one that waits for
	// something else than PostgreSQL. IgnoresTerminate lets it notice that its connection was closed
	// only when it would end; the lock row is free at once.
	IgnoresCancel, IgnoresTerminate bool
	// Unstoppable is why the job cannot be told from others by its backend; empty if it can.
	Unstoppable string

	// hang is closed when the server does not hang any more; nil if it does not.
	hang <-chan struct{}
	// killed is closed when the server dies.
	killed <-chan struct{}
}

// SetPlan sets the plan of all requests that PlanFor has not set one for.
func (w *World) SetPlan(p Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plan = p
}

// PlanFor sets the plans of the next requests for one job, one each.
func (w *World) PlanFor(key channels.Key, plans ...Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plans[key] = append(w.plans[key], plans...)
}

// Run implements [driver.Driver].
func (d *Driver) Run(ctx context.Context, up driver.Upstream, t driver.Task) driver.Result {
	w := d.w
	run, plan, refusal := d.admit(ctx, up, t)
	var res driver.Result
	switch {
	case refusal != nil:
		res = *refusal
	case plan.hang != nil:
		res = w.hang(ctx, plan.hang)
		w.turnedAway(run)
	default:
		res = w.exchange(ctx, run, plan, t)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record.close(run, res)
	return res
}

// admit opens the exchange and decides whether a worker gets to see it.
func (d *Driver) admit(ctx context.Context, up driver.Upstream, t driver.Task) (*Run, Plan, *driver.Result) {
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()
	plan := w.plan
	if queue := w.plans[t.Key]; len(queue) > 0 {
		plan, w.plans[t.Key] = queue[0], queue[1:]
	}
	run := &Run{Task: t, Upstream: up.Name, Opened: time.Now(), Node: d, stopping: newStopping(&plan)}
	db := w.databases[t.DB]
	claimed := 0
	if db != nil && db.jobs[t.UUID] != nil {
		run.Job, claimed = db.jobs[t.UUID].Job, db.jobs[t.UUID].claimed
	}
	if w.sent != nil {
		w.sent(w.sentNow(run))
	}
	w.record.add(run, claimed, db != nil && db.fingerprint().Unguarded)
	faults := w.upstream(up.Name)
	switch {
	case ctx.Err() != nil:
		return run, plan, &driver.Result{Outcome: driver.NotSent, Err: ctx.Err()}
	case plan.FailBeforeSend || faults.FailBeforeSend != 0:
		if !plan.FailBeforeSend && faults.FailBeforeSend > 0 {
			faults.FailBeforeSend--
		}
		return run, plan, &driver.Result{Outcome: driver.NotSent, Err: errors.New("connection refused")}
	case plan.Refuse != 0 || faults.RefuseN > 0:
		status := plan.Refuse
		if status == 0 {
			faults.RefuseN--
			status = http.StatusServiceUnavailable
		}
		return run, plan, &driver.Result{Outcome: refusal(status), Status: status, Err: fmt.Errorf("status %d", status)}
	case faults.CutN > 0:
		faults.CutN--
		res := broken(errors.New("connection reset by peer"))
		return run, plan, &res
	}
	run.Waiting = true
	plan.killed = faults.killedBy()
	if faults.Hang {
		plan.hang = faults.resume
	}
	return run, plan, nil
}

// hang waits until a server resumes, or the answer is not waited for any more.
func (w *World) hang(ctx context.Context, resumes <-chan struct{}) driver.Result {
	select {
	case <-resumes:
		return broken(errors.New("connection reset by peer"))
	case <-ctx.Done():
		return broken(ctx.Err())
	case <-w.stop:
		return broken(errWorldClosed)
	}
}

// refusal is what an answer with a status says that does not come from a worker.
func refusal(status int) driver.Outcome {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return driver.Unavailable
	}
	return driver.Refused
}

// exchange sends the request to a worker and waits for the answer. The worker goes on when the
// answer is not waited for any more.
func (w *World) exchange(ctx context.Context, run *Run, plan Plan, t driver.Task) driver.Result {
	answer := make(chan driver.Result, 1)
	w.workers.Go(func() { answer <- w.work(run, plan, t) })
	after := func(d time.Duration) <-chan time.Time {
		if d == 0 {
			return nil
		}
		return time.After(d)
	}
	drop, early := after(plan.DropConnAfter), after(plan.AnswerAfter)
	select {
	case res := <-answer:
		return res
	case <-early:
		return driver.Result{Outcome: driver.Answered, Status: http.StatusOK}
	case <-drop:
		return broken(errors.New("connection reset by peer"))
	case <-ctx.Done():
		return broken(ctx.Err())
	case <-w.stop:
		return broken(errWorldClosed)
	}
}

var errWorldClosed = errors.New("the world was closed")

func broken(err error) driver.Result { return driver.Result{Outcome: driver.Broken, Err: err} }

// work is the worker: Odoo's part of the contract.
func (w *World) work(run *Run, plan Plan, t driver.Task) driver.Result {
	answered := driver.Result{Outcome: driver.Answered, Status: http.StatusOK}
	defer w.turnedAway(run)
	if !w.sleep(plan.StartAfter, nil, plan.killed) {
		return broken(errWorldClosed)
	}
	if plan.StayEnqueued || !w.start(run, &plan, t) {
		return answered
	}
	if !w.sleep(plan.LockAfter, nil, plan.killed) {
		return broken(errWorldClosed)
	}
	if plan.LockAfter > 0 && !w.execute(run, &plan, t) {
		return answered
	}
	if !w.perform(run, plan) {
		w.end(run, t, func(*Job) {}, false)
		return broken(errors.New("EOF"))
	}
	if w.wasStopped(run) {
		w.end(run, t, func(j *Job) {
			j.State = channels.Failed
			j.Retry++
		}, true)
		answered.Status = http.StatusInternalServerError
		return answered
	}
	if plan.Crash || plan.CrashServer {
		if plan.CrashServer {
			w.CrashServer(run.Upstream)
		}
		w.end(run, t, func(*Job) {}, false)
		return broken(errors.New("EOF"))
	}
	w.end(run, t, func(j *Job) {
		j.State = channels.Done
		if plan.Ends != channels.Unknown {
			j.State = plan.Ends
		}
		if plan.Then != nil {
			plan.Then(j)
		}
		j.Done = time.Now()
	}, true)
	if plan.DieAfter {
		return broken(errors.New("EOF"))
	}
	if !w.sleep(plan.ReleaseAfter, nil, plan.killed) {
		return broken(errWorldClosed)
	}
	w.releaseDependents(t.Key)
	if !w.sleep(plan.HoldAnswer, nil, plan.killed) {
		return broken(errWorldClosed)
	}
	if plan.Status != 0 {
		answered.Status = plan.Status
	}
	return answered
}

// turnedAway notes that a request waits no longer.
func (w *World) turnedAway(run *Run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if run.Waiting {
		run.Waiting = false
		w.record.over(run)
	}
}

// start is Odoo's own check: only an enqueued job is started.
func (w *World) start(run *Run, plan *Plan, t driver.Task) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	db := w.databases[t.DB]
	if db == nil || db.jobs[t.UUID] == nil || db.jobs[t.UUID].State != channels.Enqueued {
		return false
	}
	if !db.fingerprint().Locks {
		plan.LockAfter = 0 // there is no second one
	}
	pid := w.next()
	w.update(t.Key, pid, func(j *Job) {
		j.State = channels.Started
		if plan.LockAfter == 0 {
			w.lock(db, j, plan, pid)
		}
	})
	if plan.LockAfter == 0 {
		w.record.start(run)
	}
	return true
}

// execute takes the lock row of a job that was started, if that is still so, and nothing else has it.
func (w *World) execute(run *Run, plan *Plan, t driver.Task) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	db := w.databases[t.DB]
	if db == nil || db.jobs[t.UUID] == nil || db.jobs[t.UUID].State != channels.Started || db.jobs[t.UUID].LockPID != 0 {
		return false
	}
	w.lock(db, db.jobs[t.UUID], plan, w.next())
	w.record.start(run)
	return true
}

// lock has a worker lock the lock row, where there are such, with the mutex held.
func (w *World) lock(db *database, j *Job, plan *Plan, pid uint32) {
	if db.fingerprint().Locks {
		j.LockRow, j.LockPID, j.LockHidden = true, pid, plan.HidesLock
	}
}

// end frees the lock row and, when the job commits, changes the row with it.
func (w *World) end(run *Run, t driver.Task, change func(*Job), commit bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record.end(run)
	db := w.databases[t.DB]
	if db == nil || db.jobs[t.UUID] == nil {
		return
	}
	db.jobs[t.UUID].LockPID = 0
	if commit {
		w.update(t.Key, 0, change)
	}
}

// perform is sleep for as long as the job runs, or until it notices that it is stopped.
func (w *World) perform(run *Run, plan Plan) bool {
	if run.stopping == nil {
		return true
	}
	ended := make(chan bool, 1)
	w.workers.Go(func() { ended <- w.sleep(plan.RunFor, plan.Until, plan.killed) })
	select {
	case ok := <-ended:
		return ok
	case <-run.stopping.noticed:
		return true
	}
}

// sleep waits for d and then for until; false when the world was closed, or the server died.
func (w *World) sleep(d time.Duration, until, killed <-chan struct{}) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-killed:
			return false
		case <-w.stop:
			return false
		}
	}
	if until != nil {
		select {
		case <-until:
		case <-killed:
			return false
		case <-w.stop:
			return false
		}
	}
	return true
}
