package odoo

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Settler = (*session)(nil)

// unsettledSQL finds who is making a database. psql and pg_restore, which Odoo uses too, restore it
// by many short statements. After that, and after a copy, Odoo loads its registry and then
// neutralizes the database: by statements, with pauses in which it loads its own code. Only a role
// that is the owner's, or a superuser, does that: others must not be able to keep a database from
// being served. A vacuum of the server's own is no work on it.
const unsettledSQL = `SELECT format('%s, process %s', coalesce(nullif(application_name, ''), 'a session'), pid),
	coalesce(tool AND recent, false)
FROM pg_stat_activity JOIN pg_database USING (datname),
	LATERAL (SELECT application_name IN ('psql', 'pg_restore'),
		state = 'active' OR state_change > clock_timestamp() - interval '1 second') AS t (tool, recent)
WHERE datname = current_database() AND pid <> pg_backend_pid() AND pg_has_role(usesysid, datdba, 'USAGE')
	AND application_name NOT LIKE 'caddy-jobrunner%' AND query NOT LIKE 'autovacuum:%'
	AND (recent OR xact_start < clock_timestamp() - interval '1 second')
ORDER BY 2 DESC NULLS LAST LIMIT 1`

// Unsettled implements [driver.Settler].
func (s *session) Unsettled(ctx context.Context) (who string, sure bool, err error) {
	err = s.conn.QueryRow(ctx, unsettledSQL, pgx.QueryExecModeExec).Scan(&who, &sure)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, s.conn.Failed(fmt.Errorf("check who works in the database: %w", err), "settle")
	}
	return who, sure, nil
}
