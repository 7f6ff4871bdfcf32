package supervisor

import (
	"context"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// outageMemory is how long a database has to be served before its next outage is a new one: a
// database that is held back is tried again and again in between.
const outageMemory = time.Minute

// outages remember since when databases have not been served, because the jobs of such a database
// are in no queue, and the queues alone would say that nothing waits.
type outages struct {
	mu sync.Mutex // guards the following
	by map[string]*outage
}

// outage is the outage of one database. served is zero while it lasts.
type outage struct{ since, served time.Time }

// observe notes whether a database is served.
func (o *outages) observe(database string, served bool, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.by[database]
	switch {
	case served && out == nil:
	case served && out.served.IsZero():
		out.served = now
	case served && now.Sub(out.served) > outageMemory:
		delete(o.by, database)
	case served:
	case out == nil || !out.served.IsZero() && now.Sub(out.served) > outageMemory:
		o.by[database] = &outage{since: now}
	default:
		out.served = time.Time{}
	}
}

// since is when the present outage of a database began.
func (o *outages) since(database string) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if out := o.by[database]; out != nil {
		return out.since
	}
	return time.Time{}
}

// keep forgets the databases that are not kept.
func (o *outages) keep(kept map[string]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for database := range o.by {
		if !kept[database] {
			delete(o.by, database)
		}
	}
}

// Observe notes what becomes of a database. It does not block.
func (r *Runner) Observe(ev *runner.Event) {
	switch ev.Kind {
	case runner.EventDatabaseReady:
		r.outages.observe(ev.Database, true, ev.Time)
	case runner.EventDatabaseHeld, runner.EventDatabaseLost, runner.EventDatabaseUnhealthy, runner.EventDatabaseStandby,
		runner.EventDatabaseUpgrading:
		r.outages.observe(ev.Database, false, ev.Time)
	default: // it is about something else
	}
}

// Status asks the engine, and lets the jobs of databases that are not served count as waiting: since
// the outage began, which is the least that is known.
func (r *Runner) Status(ctx context.Context) (runner.Status, error) {
	st, err := r.Operations.Status(ctx)
	if err == nil {
		r.wait(&st, time.Now())
	}
	return st, err
}

// Fails reports whether GET /jobrunner/ready has to fail.
func (r *Runner) Fails(health runner.Health) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return health >= r.failsOn
}

// wait adds the jobs that are in no queue to the age of the oldest one.
func (r *Runner) wait(st *runner.Status, now time.Time) {
	since := make(map[string]time.Time)
	kept := make(map[string]bool, len(st.Databases))
	for i := range st.Databases {
		db := &st.Databases[i]
		kept[db.Name] = true
		if !st.Leader {
			continue
		}
		r.outages.observe(db.Name, db.Obstacle(now) == "", now)
		switch {
		case db.Pending == 0:
		case db.Obstacle(now) != "":
			since[db.Name] = r.outages.since(db.Name)
		case db.Pause != nil:
			since[db.Name] = db.Pause.Since
		}
	}
	r.outages.keep(kept)
	if len(since) == 0 {
		return
	}
	oldest := make(map[channels.ID]time.Time)
	for _, c := range st.Counts {
		began, ok := since[c.DB]
		if !ok || c.Pending == 0 {
			continue
		}
		at := channels.ID{Channel: c.Channel}
		if st.DatabaseChannels {
			at.DB = c.DB
		}
		if was, ok := oldest[at]; !ok || began.Before(was) {
			oldest[at] = began
		}
	}
	for i := range st.Channels {
		c := &st.Channels[i]
		if began, ok := oldest[channels.ID{DB: c.DB, Channel: c.FullName}]; ok && (c.Oldest.IsZero() || began.Before(c.Oldest)) {
			c.Oldest = began
		}
	}
}

// Observe tells the runner that an event is about. It does not block.
func Observe(ev runner.Event) {
	if ev.Database == "" {
		return
	}
	switch ev.Kind {
	case runner.EventDatabaseReady, runner.EventDatabaseHeld, runner.EventDatabaseLost, runner.EventDatabaseUnhealthy,
		runner.EventDatabaseStandby, runner.EventDatabaseUpgrading:
		if r := observed.get(ev.Runner); r != nil {
			r.Observe(&ev)
		}
	default: // it is about something else
	}
}

// observed are the runners at work by name. They are apart from the supervisor, which keeps others
// waiting while it puts a configuration into force, for what happens must not wait.
var observed registry

type registry struct {
	mu sync.Mutex // guards the following
	by map[string]*Runner
}

func (g *registry) get(name string) *Runner {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.by[name]
}

func (g *registry) set(name string, r *Runner) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.by == nil {
		g.by = make(map[string]*Runner)
	}
	g.by[name] = r
}

// drop forgets a runner, unless another one has taken its name.
func (g *registry) drop(name string, r *Runner) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.by[name] == r {
		delete(g.by, name)
	}
}
