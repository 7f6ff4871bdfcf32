package jobrunner

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// What follows is the JSON of the admin API. Durations are in seconds, times in
// RFC 3339; what does not apply is left out.

type pauseView struct {
	// Scope is "all", "database" or "channel".
	Scope    string    `json:"scope"`
	Database string    `json:"database,omitempty"`
	Channel  string    `json:"channel,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
	By       string    `json:"by,omitempty"`
	Note     string    `json:"note,omitempty"`
}

func (p pauseView) pause() runner.Pause {
	return runner.Pause{Database: p.Database, Channel: p.Channel, Since: p.Since, Until: p.Until, By: p.By, Note: p.Note}
}

func viewPause(p *runner.Pause) *pauseView {
	if p == nil {
		return nil
	}
	v := &pauseView{Scope: "all", Database: p.Database, Channel: p.Channel, Since: p.Since, Until: p.Until, By: p.By, Note: p.Note}
	switch {
	case p.Database != "":
		v.Scope = "database"
	case p.Channel != "":
		v.Scope = "channel"
	}
	return v
}

func viewPauses(pauses []runner.Pause) []pauseView {
	views := make([]pauseView, 0, len(pauses))
	for i := range pauses {
		views = append(views, *viewPause(&pauses[i]))
	}
	return views
}

type drainView struct {
	Upstream string    `json:"upstream"`
	Since    time.Time `json:"since,omitzero"`
	By       string    `json:"by,omitempty"`
	Note     string    `json:"note,omitempty"`
}

func viewDrains(drains []runner.Drain) []drainView {
	views := make([]drainView, 0, len(drains))
	for _, d := range drains {
		views = append(views, drainView{Upstream: d.Upstream, Since: d.Since, By: d.By, Note: d.Note})
	}
	return views
}

// statusView is one runner in GET /jobrunner/status.
type statusView struct {
	Runner       string `json:"runner"`
	Leader       bool   `json:"leader"`
	LeaderKnown  bool   `json:"leader_known"`
	LeaderDetail string `json:"leader_detail,omitempty"`
	TakingOver   bool   `json:"taking_over,omitempty"`
	Stopping     bool   `json:"stopping,omitempty"`
	// Ready is what GET /jobrunner/ready says, Problems why not.
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems,omitempty"`
	// Warnings are about databases whose jobs wait although all is well otherwise.
	Warnings []string `json:"warnings,omitempty"`
	Tasks    struct {
		Claiming int `json:"claiming"`
		Open     int `json:"open"`
		Watched  int `json:"watched"`
	} `json:"tasks"`
	Jobs jobCounts `json:"jobs"`
	// DatabaseChannels is there if each database has a channel tree of its own.
	DatabaseChannels *capacityView `json:"database_channels,omitempty"`
	// OldestPending is the age of the longest waiting job.
	OldestPending *float64 `json:"oldest_pending_seconds,omitempty"`
	// Databases counts them by state, Upstreams lists the servers.
	Databases map[string]int `json:"databases"`
	Upstreams []upstreamView `json:"upstreams"`
	Pauses    []pauseView    `json:"pauses"`
	Drains    []drainView    `json:"drains"`
}

// capacityView is how many jobs run in all databases together, and how many may.
type capacityView struct {
	MaxCapacity int `json:"max_capacity"`
	Running     int `json:"running"`
}

type jobCounts struct {
	Pending  int `json:"pending"`
	Enqueued int `json:"enqueued"`
	Started  int `json:"started"`
	Failed   int `json:"failed"`
}

type databaseView struct {
	Runner      string    `json:"runner"`
	Database    string    `json:"database"`
	State       string    `json:"state"`
	Detail      string    `json:"detail,omitempty"`
	HeldUntil   time.Time `json:"held_until,omitzero"`
	Health      string    `json:"health"`
	Description string    `json:"description,omitempty"`
	Generation  string    `json:"generation,omitempty"`
	Version     string    `json:"version,omitempty"`
	Locks       bool      `json:"locks"`
	// Fresh is false when a served database has no session that was heard lately.
	Fresh         bool       `json:"fresh"`
	SessionAge    *float64   `json:"session_age_seconds,omitempty"`
	HeardAge      *float64   `json:"heard_age_seconds,omitempty"`
	SyncedAge     *float64   `json:"synced_age_seconds,omitempty"`
	Notifications uint64     `json:"notifications"`
	Jobs          jobCounts  `json:"jobs"`
	Pause         *pauseView `json:"pause,omitempty"`
}

type channelView struct {
	Runner string `json:"runner"`
	// Database is left out in a tree of all databases.
	Database   string `json:"database,omitempty"`
	Channel    string `json:"channel"`
	Configured bool   `json:"configured"`
	// Capacity 0 means no limit.
	Capacity   int     `json:"capacity"`
	Sequential bool    `json:"sequential,omitempty"`
	Throttle   float64 `json:"throttle_seconds,omitempty"`
	// Paused is set by the configuration or, with Pause, by an operator.
	Paused         bool       `json:"paused"`
	PausedByConfig bool       `json:"paused_by_configuration,omitempty"`
	Queued         int        `json:"queued"`
	Running        int        `json:"running"`
	Failed         int        `json:"failed"`
	ThrottledUntil time.Time  `json:"throttled_until,omitzero"`
	OldestPending  *float64   `json:"oldest_pending_seconds,omitempty"`
	Pause          *pauseView `json:"pause,omitempty"`
}

type upstreamView struct {
	Runner   string     `json:"runner,omitempty"`
	Upstream string     `json:"upstream"`
	Up       bool       `json:"up"`
	Reason   string     `json:"reason,omitempty"`
	InFlight int        `json:"in_flight"`
	Drain    *drainView `json:"drain,omitempty"`
	// SafeToStop is set when it is drained and runs no job of this process.
	SafeToStop bool `json:"safe_to_stop,omitempty"`
}

type taskView struct {
	Runner   string   `json:"runner"`
	Database string   `json:"database"`
	UUID     string   `json:"uuid"`
	Phase    string   `json:"phase"`
	Channel  string   `json:"channel,omitempty"`
	Model    string   `json:"model,omitempty"`
	Method   string   `json:"method,omitempty"`
	Retry    int32    `json:"retry"`
	ID       string   `json:"request_id,omitempty"`
	Upstream string   `json:"upstream,omitempty"`
	Age      *float64 `json:"age_seconds,omitempty"`
}

type jobView struct {
	Runner     string    `json:"runner"`
	Database   string    `json:"database"`
	UUID       string    `json:"uuid"`
	ID         int64     `json:"id"`
	Channel    string    `json:"channel"`
	State      string    `json:"state"`
	Priority   int32     `json:"priority"`
	Model      string    `json:"model,omitempty"`
	Method     string    `json:"method,omitempty"`
	Retry      int32     `json:"retry"`
	MaxRetries int32     `json:"max_retries"`
	Exception  string    `json:"exception,omitempty"`
	Created    time.Time `json:"created,omitzero"`
	ETA        time.Time `json:"eta,omitzero"`
	Enqueued   time.Time `json:"enqueued,omitzero"`
	Started    time.Time `json:"started,omitzero"`
	Done       time.Time `json:"done,omitzero"`
}

type whyView struct {
	Runner   string     `json:"runner"`
	Database string     `json:"database"`
	UUID     string     `json:"uuid"`
	Why      string     `json:"why"`
	Text     string     `json:"text"`
	Until    time.Time  `json:"until,omitzero"`
	Channel  string     `json:"channel,omitempty"`
	Capacity int        `json:"capacity,omitempty"`
	Running  int        `json:"running,omitempty"`
	Ahead    int        `json:"ahead,omitempty"`
	AtLeast  bool       `json:"ahead_at_least,omitempty"`
	Blocker  string     `json:"blocker,omitempty"`
	Upstream string     `json:"upstream,omitempty"`
	Since    time.Time  `json:"since,omitzero"`
	Pause    *pauseView `json:"pause,omitempty"`
	Job      *jobView   `json:"job,omitempty"`
	Problem  string     `json:"problem,omitempty"`
}

// eventView is the data of one event of GET /jobrunner/events.
type eventView struct {
	Time     time.Time `json:"time"`
	Event    string    `json:"event"`
	Runner   string    `json:"runner"`
	Database string    `json:"database,omitempty"`
	UUID     string    `json:"uuid,omitempty"`
	Channel  string    `json:"channel,omitempty"`
	Model    string    `json:"model,omitempty"`
	Method   string    `json:"method,omitempty"`
	Upstream string    `json:"upstream,omitempty"`
	Outcome  string    `json:"outcome,omitempty"`
	Status   int       `json:"status,omitempty"`
	Wait     float64   `json:"wait_seconds,omitempty"`
	Run      float64   `json:"run_seconds,omitempty"`
	Retry    int32     `json:"retry,omitempty"`
	Count    int       `json:"count,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}

func viewEvent(ev *runner.Event) eventView {
	return eventView{
		Time: ev.Time.UTC(), Event: string(ev.Kind), Runner: ev.Runner, Database: ev.Database, UUID: ev.UUID,
		Channel: ev.Channel, Model: ev.Model, Method: ev.Method, Upstream: ev.Upstream, Outcome: ev.Outcome,
		Status: ev.Status, Wait: ev.Wait.Seconds(), Run: ev.Run.Seconds(), Retry: ev.Retry, Count: ev.Count, Detail: ev.Detail,
	}
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

func viewStatus(name string, st *runner.Status, now time.Time) statusView {
	v := statusView{
		Runner: name, Leader: st.Leader, LeaderKnown: st.LeaderKnown, LeaderDetail: st.LeaderDetail,
		TakingOver: st.TakingOver, Stopping: st.Stopping, Problems: unready(st, now),
		Databases: make(map[string]int), Upstreams: viewUpstreams("", st, now),
		Pauses: viewPauses(st.Controls.Pauses), Drains: viewDrains(st.Controls.Drains),
	}
	v.Ready = len(v.Problems) == 0
	v.Tasks.Claiming, v.Tasks.Open, v.Tasks.Watched = st.Claiming, st.Open, st.Watched
	for _, c := range st.Counts {
		v.Jobs.Pending += c.Pending
		v.Jobs.Enqueued += c.Enqueued
		v.Jobs.Started += c.Started
		v.Jobs.Failed += c.Failed
	}
	v.Warnings = warnings(st, now)
	if st.DatabaseChannels {
		v.DatabaseChannels = &capacityView{MaxCapacity: st.MaxCapacity, Running: st.Running}
	}
	for i := range st.Databases {
		v.Databases[st.Databases[i].State.String()]++
	}
	for i := range st.Channels {
		if a := age(now, st.Channels[i].Oldest); a != nil && (v.OldestPending == nil || *a > *v.OldestPending) {
			v.OldestPending = a
		}
	}
	return v
}

// unready says what speaks against a runner's being ready.
func unready(st *runner.Status, now time.Time) []string {
	var problems []string
	switch {
	case st.Stopping:
		problems = append(problems, "it is stopping")
	case !st.LeaderKnown:
		problems = append(problems, "no leader is known: "+st.LeaderDetail)
	}
	up := 0
	for i := range st.Upstreams {
		if st.Upstreams[i].Up && st.Upstreams[i].Drain == nil {
			up++
		}
	}
	if up == 0 {
		problems = append(problems, "no Odoo server is healthy")
	}
	if !st.Leader {
		return problems
	}
	if st.TakingOver {
		problems = append(problems, "it is taking over")
	}
	for i := range st.Databases {
		db := &st.Databases[i]
		if db.Served() && !db.Fresh(now) {
			problem := fmt.Sprintf("database %s has no fresh session, it is %s", db.Name, db.State)
			if db.Detail != "" {
				problem += ": " + db.Detail
			}
			problems = append(problems, problem)
		}
	}
	return problems
}

// warnings names the databases that are served and still run nothing, for what is
// wrong stands in them: their channels cannot be used.
func warnings(st *runner.Status, now time.Time) (list []string) {
	for i := range st.Databases {
		if db := &st.Databases[i]; db.State == runner.DatabaseUnhealthy && db.Fresh(now) {
			list = append(list, fmt.Sprintf("database %s runs no jobs: %s", db.Name, db.Detail))
		}
	}
	return list
}

func viewDatabases(name string, st *runner.Status, now time.Time) []databaseView {
	var views []databaseView
	for i := range st.Databases {
		db := &st.Databases[i]
		v := databaseView{
			Runner: name, Database: db.Name, State: db.State.String(), Detail: db.Detail, HeldUntil: db.HeldUntil,
			Health: db.Fingerprint.Health.String(), Description: db.Fingerprint.Description,
			Generation: db.Fingerprint.Generation, Version: db.Fingerprint.Version, Locks: db.Fingerprint.Locks,
			Fresh: db.Fresh(now), SyncedAge: age(now, db.Synced), HeardAge: age(now, db.Heard),
			SessionAge: age(now, db.Connected), Notifications: db.Notifications, Pause: viewPause(db.Pause),
			Jobs: jobCounts{Pending: db.Pending, Enqueued: db.Enqueued, Started: db.Started, Failed: db.Failed},
		}
		views = append(views, v)
	}
	return views
}

func viewChannels(name string, st *runner.Status, now time.Time) []channelView {
	var views []channelView
	for i := range st.Channels {
		c := &st.Channels[i]
		views = append(views, channelView{
			Runner: name, Database: c.DB, Channel: c.FullName, Configured: c.Configured, Capacity: c.Capacity, Sequential: c.Sequential,
			Throttle: c.Throttle.Seconds(), Paused: c.Paused || c.Stopped, PausedByConfig: c.Paused,
			Queued: c.Queued, Running: c.Running, Failed: c.Failed, ThrottledUntil: c.PausedUntil,
			OldestPending: age(now, c.Oldest), Pause: viewPause(c.Pause),
		})
	}
	return views
}

func viewUpstreams(name string, st *runner.Status, _ time.Time) []upstreamView {
	views := make([]upstreamView, 0, len(st.Upstreams))
	for _, u := range st.Upstreams {
		v := upstreamView{Runner: name, Upstream: u.Name, Up: u.Up, Reason: u.Reason, InFlight: u.InFlight}
		if u.Drain != nil {
			v.Drain = &viewDrains([]runner.Drain{*u.Drain})[0]
			v.SafeToStop = u.InFlight == 0
		}
		views = append(views, v)
	}
	return views
}

func viewJob(name string, d *driver.Detail) jobView {
	return jobView{
		Runner: name, Database: d.DB, UUID: d.UUID, ID: d.ID, Channel: channels.Normalize(d.Channel), State: d.RawState,
		Priority: d.Priority, Model: d.Model, Method: d.Method, Retry: d.Retry, MaxRetries: d.MaxRetries,
		Exception: d.Exception, Created: at(d.Created), ETA: at(d.ETA), Enqueued: at(d.Enqueued),
		Started: shown(d.Started), Done: shown(d.Done),
	}
}

func viewWhy(name string, w *runner.Why) whyView {
	v := whyView{
		Runner: name, Database: w.Key.DB, UUID: w.Key.UUID, Why: w.Code, Text: w.Text, Until: shown(w.Until),
		Channel: w.Channel, Capacity: w.Capacity, Running: w.Running, Ahead: w.Ahead, AtLeast: w.AtLeast,
		Blocker: w.Blocker.UUID, Upstream: w.Upstream, Since: shown(w.Since), Pause: viewPause(w.Pause), Problem: w.Problem,
	}
	if w.Detail != nil {
		v.Job = new(viewJob(name, w.Detail))
	}
	return v
}

// viewTasks lists the tasks, the longest running ones first.
func viewTasks(name string, tasks []runner.TaskStatus, now time.Time) []taskView {
	slices.SortFunc(tasks, func(a, b runner.TaskStatus) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.UUID, b.UUID))
	})
	views := make([]taskView, 0, len(tasks))
	for i := range tasks {
		t := &tasks[i]
		views = append(views, taskView{
			Runner: name, Database: t.DB, UUID: t.UUID, Phase: t.Phase, Channel: t.Channel, Model: t.Model,
			Method: t.Method, Retry: t.Retry, ID: t.ID, Upstream: t.Upstream, Age: age(now, t.Since),
		})
	}
	return views
}
