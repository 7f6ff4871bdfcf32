package doctor

import (
	"context"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// limits asks how many connections there may be; nil if that cannot be told.
func (e *examination) limits(ctx context.Context, c driver.Cluster) *driver.Limits {
	limiter, ok := c.(driver.Limiter)
	if !ok {
		return nil
	}
	l, err := limiter.Limits(ctx)
	if err != nil {
		e.add(foundConnections, "how many connections PostgreSQL allows cannot be told, so that the runner has no limit unless connections sets one: %s", err)
		return nil
	}
	return &l
}

// sleepers says that a free lock may be that of a database which sleeps, where databases do so because
// of the configuration.
func (e *examination) sleepers() string {
	cfg := &e.subject.Config
	if cfg.Pooler != nil {
		return ", or one does through a pooler, where the lock is held only while jobs are claimed"
	}
	if cfg.Hibernate == nil && cfg.Connections == 0 {
		return ""
	}
	return ", or it is asleep, which \"caddy jobrunner databases\" tells"
}

// connections compares how many connections the runner would take with how many there may be. Those
// of a runner that is at work do not count as taken.
func (e *examination) connections(l *driver.Limits) {
	if l == nil {
		return
	}
	if l.Uncounted && e.subject.Config.Hibernate != nil {
		e.add(foundUncounted, "hibernate does nothing, because PostgreSQL does not count what is written: set track_counts on")
	}
	if l.Uncounted && e.subject.Config.Pooler != nil {
		e.add(foundBlind, "new jobs are found by the poll of pooler alone, because PostgreSQL does not count what is written: set track_counts on")
	}
	if e.subject.Config.Pooler != nil && e.subject.Config.Connections == 0 {
		return // how many there are is the pooler's affair
	}
	most, why := runner.ConnectionsAllowed(*l, l.ServerUsed-l.Runners, l.RoleUsed-l.Runners)
	if set := e.subject.Config.Connections; set > 0 {
		if most > 0 && set > most && e.subject.Config.Pooler == nil {
			e.add(foundOverLimit, "connections is %d, so that the runner can take connections that Odoo needs, because %s otherwise: lower it, or raise CONNECTION LIMIT of the role or max_connections", set, why)
		}
		if n := runner.SessionsOf(set); len(e.served) > n {
			remedy := "raise it"
			if most > 0 && set >= most {
				remedy = "raise CONNECTION LIMIT of the role or max_connections, and then connections"
			}
			e.add(foundConnections, "%d databases are to be served, and %d of them can have a connection at a time, because connections is %d: %s", len(e.served), n, set, remedy)
		}
		return
	}
	if n := runner.SessionsOf(most); most > 0 && len(e.served) > n {
		e.add(foundConnections, "%d databases are to be served, and %d of them can have a connection at a time, because %s: raise connections, CONNECTION LIMIT of the role or max_connections", len(e.served), n, why)
	}
}
