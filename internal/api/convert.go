package api

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Order returns the pause as a runner takes it.
func (p Pause) Order() runner.Pause {
	return runner.Pause{Database: p.Database, Channel: p.Channel, Since: p.Since, Until: p.Until, By: p.By, Note: p.Note}
}

// NewPause describes a pause; nil for none.
func NewPause(p *runner.Pause) *Pause {
	if p == nil {
		return nil
	}
	return &Pause{
		Scope: p.Scope(), Database: p.Database, Channel: p.Channel, Since: p.Since, Until: p.Until, By: p.By, Note: p.Note,
	}
}

// NewPauses describes pauses. The list is never nil, and neither are those below,
// because in JSON they are arrays.
func NewPauses(pauses []runner.Pause) []Pause {
	views := make([]Pause, 0, len(pauses))
	for i := range pauses {
		views = append(views, *NewPause(&pauses[i]))
	}
	return views
}

// NewDrains describes drains.
func NewDrains(drains []runner.Drain) []Drain {
	views := make([]Drain, 0, len(drains))
	for _, d := range drains {
		views = append(views, newDrain(&d))
	}
	return views
}

func newDrain(d *runner.Drain) Drain {
	return Drain{Upstream: d.Upstream, Since: d.Since, By: d.By, Note: d.Note}
}

// age returns the time since t in seconds, nil for the zero time.
func age(now, t time.Time) *float64 {
	if t.IsZero() {
		return nil
	}
	return new(max(0, now.Sub(t).Seconds()))
}

// at returns a time in microseconds since the Unix epoch, 0 for none.
func at(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return shown(time.UnixMicro(micros))
}

// shown returns a time in UTC as far as RFC 3339, and with it JSON, can write it:
// in the years 0 to 9999. Those of PostgreSQL, and infinity, lie beyond.
func shown(t time.Time) time.Time {
	t = t.UTC()
	switch year := t.Year(); {
	case year < 0:
		return time.Date(0, time.January, 1, 0, 0, 0, 0, time.UTC)
	case year > 9999:
		return time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// NewStatus describes the runner of that name.
func NewStatus(name string, st *runner.Status, now time.Time) Status {
	v := Status{
		Runner: name, Leader: st.Leader, LeaderKnown: st.LeaderKnown, LeaderDetail: st.LeaderDetail,
		TakingOver: st.TakingOver, Stopping: st.Stopping, Problems: st.Problems(now), Warnings: st.Warnings(now), State: st.Health(now).String(),
		Tasks: TaskCounts{Claiming: st.Claiming, Open: st.Open, Watched: st.Watched, Overdue: st.Overdue, Stuck: len(st.Stuck)},
		Connections: Connections{
			Limit: st.Connections.Limit, Reason: st.Connections.Reason, Used: st.Connections.Used, Waiting: st.Connections.Waiting,
			Longest: st.Connections.Longest.Seconds(), Refused: st.Connections.Refused,
		},
		Databases: make(map[string]int), Upstreams: NewUpstreams("", st),
		Pauses: NewPauses(st.Controls.Pauses), Drains: NewDrains(st.Controls.Drains),
	}
	v.Ready = len(v.Problems) == 0
	v.Served, v.Expected, _ = st.Serving(now)
	for _, c := range st.Counts {
		v.Jobs.Pending += c.Pending
		v.Jobs.Enqueued += c.Enqueued
		v.Jobs.Started += c.Started
		v.Jobs.Failed += c.Failed
	}
	if st.DatabaseChannels {
		v.DatabaseChannels = &Capacity{MaxCapacity: st.MaxCapacity, Running: st.Running}
	}
	for i := range st.Databases {
		v.Databases[st.Databases[i].State.String()]++
		if st.Databases[i].JobsUnknown {
			v.JobsUnknown++
		}
	}
	for i := range st.Channels {
		if a := age(now, st.Channels[i].Oldest); a != nil && (v.OldestPending == nil || *a > *v.OldestPending) {
			v.OldestPending = a
		}
	}
	return v
}

// NewDatabases describes the databases of the runner of that name.
func NewDatabases(name string, st *runner.Status, now time.Time) []Database {
	views := make([]Database, 0, len(st.Databases))
	for i := range st.Databases {
		db := &st.Databases[i]
		v := Database{
			Runner: name, Database: db.Name, State: db.State.String(), Detail: db.Detail, HeldUntil: db.HeldUntil,
			UpgradeSince: db.UpgradeSince,
			Health:       db.Fingerprint.Health.String(), Description: db.Fingerprint.Description,
			Generation: db.Fingerprint.Generation, Version: db.Fingerprint.Version, Locks: db.Fingerprint.Locks,
			Fresh: db.Fresh(now), SyncedAge: age(now, db.Synced), HeardAge: age(now, db.Heard),
			SessionAge: age(now, db.Connected), Notifications: db.Notifications, Pause: NewPause(db.Pause),
			Jobs:          JobCounts{Pending: db.Pending, Enqueued: db.Enqueued, Started: db.Started, Failed: db.Failed},
			JobsUnknown:   db.JobsUnknown,
			SharedChannel: db.Sharing,
		}
		if v.Detail == "" && db.Sharing > 0 {
			v.Detail = fmt.Sprintf("its jobs name more than %d channels, %d of them share one", channels.NamesPerDatabase, db.Sharing)
		}
		if st.Leader {
			v.Cause = databaseCause(db, now)
		}
		views = append(views, v)
	}
	return views
}

// databaseCause says why the jobs of a database are not run; empty if they are, or if there are none.
func databaseCause(db *runner.DatabaseStatus, now time.Time) string {
	switch {
	case db.State == runner.DatabaseUndetected:
		return ""
	case db.Obstacle(now) != "":
		return db.Obstacle(now)
	case db.Pause != nil:
		return "is " + db.Pause.String()
	}
	return ""
}

// held counts the jobs that are in no queue, by place in the channel tree.
func held(st *runner.Status, now time.Time) map[channels.ID]int {
	out := make(map[string]bool)
	for i := range st.Databases {
		if db := &st.Databases[i]; db.Pending > 0 && (db.Obstacle(now) != "" || db.Pause != nil) {
			out[db.Name] = true
		}
	}
	if len(out) == 0 {
		return nil
	}
	sums := make(map[channels.ID]int)
	for _, c := range st.Counts {
		if !out[c.DB] {
			continue
		}
		at := channels.ID{Channel: c.Channel}
		if st.DatabaseChannels {
			at.DB = c.DB
		}
		sums[at] += c.Pending
	}
	return sums
}

// NewChannels describes the channels of the runner of that name.
func NewChannels(name string, st *runner.Status, now time.Time) []Channel {
	held, unknown := held(st, now), st.JobsUnknown()
	views := make([]Channel, 0, len(st.Channels))
	for i := range st.Channels {
		c := &st.Channels[i]
		views = append(views, Channel{
			Runner: name, Database: c.DB, Channel: c.FullName, Configured: c.Configured, Capacity: c.Capacity, Sequential: c.Sequential,
			Throttle: c.Throttle.Seconds(), Paused: c.Paused || c.Stopped, PausedByConfig: c.Paused,
			Queued: c.Queued, Held: held[channels.ID{DB: c.DB, Channel: c.FullName}], PassedBy: c.PassedBy,
			JobsUnknown: c.DB == "" && len(unknown) > 0 || unknown[c.DB], Running: c.Running, Failed: c.Failed, ThrottledUntil: c.PausedUntil,
			OldestPending: age(now, c.Oldest), Pause: NewPause(c.Pause),
			Percent: c.Percent, Min: c.Min, Auto: c.Auto, Window: newWindow(c), Rate: newRate(c), RateWaits: c.Rated, RateNext: shown(c.RatedUntil),
		})
	}
	return views
}

func newWindow(c *runner.ChannelStatus) *Window {
	if c.Window == nil {
		return nil
	}
	return &Window{Capacity: c.Window.Capacity, Line: c.Window.String(), Until: shown(c.WindowUntil)}
}

func newRate(c *runner.ChannelStatus) *Rate {
	if c.Rate == nil {
		return nil
	}
	return &Rate{Line: c.Rate.String(), Available: c.Tokens, Next: shown(c.NextToken)}
}

// NewUpstreams describes the Odoo servers of the runner of that name.
func NewUpstreams(name string, st *runner.Status) []Upstream {
	views := make([]Upstream, 0, len(st.Upstreams))
	for _, u := range st.Upstreams {
		v := Upstream{Runner: name, Upstream: u.Name, Pool: u.Pool, Up: u.Up, Reason: u.Reason, Until: shown(u.Until), InFlight: u.InFlight,
			Workers: u.Limits.Workers, MaxJobs: u.Limits.MaxJobs, Reserve: u.Limits.Reserve, Full: u.Full}
		if u.Counted {
			v.Visitors = &u.Visitors
		}
		if u.Drain != nil {
			v.Drain = new(newDrain(u.Drain))
			v.SafeToStop = u.InFlight == 0
		}
		views = append(views, v)
	}
	return views
}

// NewJob describes a job of the runner of that name.
func NewJob(name string, d *driver.Detail) Job {
	return Job{
		Runner: name, Database: d.DB, UUID: d.UUID, ID: d.ID, Channel: channels.Normalize(d.Channel), State: d.RawState,
		Priority: d.Priority, Model: d.Model, Method: d.Method, Name: d.Name, Identity: d.IdentityKey, Retry: d.Retry, MaxRetries: d.MaxRetries,
		Exception: d.Exception, Created: at(d.Created), ETA: at(d.ETA), Enqueued: at(d.Enqueued),
		Started: shown(d.Started), Done: shown(d.Done),
	}
}

// NewJobPage describes a page of jobs of the runner of that name.
func NewJobPage(name string, p *runner.JobPage) JobPage {
	page := JobPage{Jobs: make([]Job, 0, len(p.Jobs)), Next: p.Next, Partial: p.Partial, Left: p.Left, Problems: p.Problems}
	for i := range p.Jobs {
		page.Jobs = append(page.Jobs, NewJob(name, &p.Jobs[i]))
	}
	return page
}

// NewWhy says why a job of the runner of that name does, or does not, run.
func NewWhy(name string, w *runner.Why) Why {
	v := Why{
		Runner: name, Database: w.Key.DB, UUID: w.Key.UUID, Why: w.Code, Text: w.Text, Until: shown(w.Until),
		Channel: w.Channel, Capacity: w.Capacity, Running: w.Running, Ahead: w.Ahead, AtLeast: w.AtLeast,
		Blocker: w.Blocker.UUID, Upstream: w.Upstream, Since: shown(w.Since), Pause: NewPause(w.Pause), Problem: w.Problem,
	}
	if w.Detail != nil {
		v.Job = new(NewJob(name, w.Detail))
	}
	if w.Record != nil {
		v.Record = newRecord(w.Record)
	}
	return v
}

// newRecord describes what the row of a job says beyond [NewJob].
func newRecord(r *driver.Record) *Record {
	v := &Record{
		Timeline: timeline(r), Page: r.Page, Message: r.Message, Ran: r.Ran.Seconds(), Worker: r.Worker, Company: r.Company, User: r.User, Graph: r.Graph,
		Relatives: make([]Relative, 0, len(r.Relatives)), More: r.MoreRelatives, RelativesProblem: r.RelativesProblem,
	}
	for _, o := range r.Relatives {
		one := Relative{Relation: "parent", UUID: o.UUID, State: cmp.Or(o.State, "missing"), Model: o.Model, Method: o.Method}
		if o.Child {
			one.Relation = "child"
		}
		v.Relatives = append(v.Relatives, one)
	}
	if p := r.Payload; p != nil {
		v.Payload = &Payload{
			Traceback: excerpt(p.Traceback), Records: excerpt(p.Records), Arguments: excerpt(p.Arguments), Keywords: excerpt(p.Keywords),
			Result: excerpt(p.Result),
		}
	}
	return v
}

// excerpt is nil for no text.
func excerpt(t driver.Text) *Excerpt {
	if t.Text == "" {
		return nil
	}
	v := &Excerpt{Text: t.Text}
	if t.Bytes > int64(len(t.Text)) {
		v.Bytes = t.Bytes
	}
	return v
}

// timeline puts the times of a job into their order.
func timeline(r *driver.Record) []Moment {
	ended := "done"
	if r.State == channels.Failed {
		ended = "failed"
	}
	list := []Moment{
		{What: "created", At: at(r.Created)}, {What: "eta", At: at(r.ETA)}, {What: "enqueued", At: at(r.Enqueued)},
		{What: "started", At: shown(r.Started)}, {What: ended, At: shown(r.Done)}, {What: "cancelled", At: shown(r.Cancelled)},
	}
	list = slices.DeleteFunc(list, func(m Moment) bool { return m.At.IsZero() })
	slices.SortStableFunc(list, func(a, b Moment) int { return a.At.Compare(b.At) })
	return list
}

// NewTasks describes the tasks of the runner of that name, the longest running ones
// first. It sorts tasks.
func NewTasks(name string, tasks []runner.TaskStatus, now time.Time) []Task {
	slices.SortFunc(tasks, func(a, b runner.TaskStatus) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.UUID, b.UUID))
	})
	views := make([]Task, 0, len(tasks))
	for i := range tasks {
		t := &tasks[i]
		views = append(views, Task{
			Runner: name, Database: t.DB, UUID: t.UUID, Phase: t.Phase, Channel: t.Channel, Model: t.Model,
			Method: t.Method, Retry: t.Retry, ID: t.ID, Upstream: t.Upstream, Age: age(now, t.Since),
			Timeout: newTimeout(t.Timeout),
		})
	}
	return views
}

// newTimeout describes a time limit; nil for none.
func newTimeout(t *runner.TaskTimeout) *Timeout {
	if t == nil {
		return nil
	}
	return &Timeout{Policy: t.Policy, After: t.After.Seconds(), Stage: t.Stage.String(), Text: t.Text}
}

// NewEvent describes an event.
func NewEvent(ev *runner.Event) Event {
	return Event{
		Time: ev.Time.UTC(), Event: string(ev.Kind), Runner: ev.Runner, Database: ev.Database, UUID: ev.UUID,
		Channel: ev.Channel, Model: ev.Model, Method: ev.Method, Upstream: ev.Upstream, Outcome: ev.Outcome,
		Status: ev.Status, Wait: ev.Wait.Seconds(), Run: ev.Run.Seconds(), Retry: ev.Retry, Count: ev.Count, Detail: ev.Detail, Exception: ev.Exception,
	}
}
