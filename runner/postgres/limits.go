package postgres

import (
	"context"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Limiter = (*Cluster)(nil)

// limitsSQL counts what has a database and a role, which is what every role may see of the
// connections of others. Workers of parallel queries are among these, because what tells them from
// clients is hidden. CONNECTION LIMIT does not hold for superusers; some slots are reserved for them
// and, since PostgreSQL 16, for a role of administrators.
const limitsSQL = `
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
		- coalesce(current_setting('reserved_connections', true)::int, 0),
	count(a.pid)::int,
	coalesce((SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user AND NOT rolsuper AND rolconnlimit > 0), 0)::int,
	(count(a.pid) FILTER (WHERE a.usename = session_user))::int,
	(count(a.pid) FILTER (WHERE a.usename = session_user AND a.application_name LIKE $1 || '%'))::int,
	NOT current_setting('track_counts')::bool
FROM pg_stat_activity a WHERE a.datid IS NOT NULL AND a.usesysid IS NOT NULL`

// Limits implements [driver.Limiter].
func (c *Cluster) Limits(ctx context.Context) (l driver.Limits, err error) {
	err = c.conn.QueryRow(ctx, limitsSQL, ApplicationPrefix).Scan(&l.Server, &l.ServerUsed, &l.Role, &l.RoleUsed, &l.Runners, &l.Uncounted)
	return l, c.conn.Failed(err, "count the connections")
}
