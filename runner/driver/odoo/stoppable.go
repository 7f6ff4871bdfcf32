package odoo

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// errNoLockTable is why nothing can be stopped where there is no lock row to find a backend by.
var errNoLockTable = errors.New("this release of the add-on has no table queue_job_lock, so nothing tells which backend runs a job")

// maySignalSQL is whether PostgreSQL lets us signal the backends of role r.
const maySignalSQL = `((SELECT m.rolsuper FROM pg_roles m WHERE m.rolname = current_user)
	OR NOT r.rolsuper AND (pg_has_role(r.oid, 'USAGE')
		OR EXISTS (SELECT FROM pg_roles s WHERE s.rolname = 'pg_signal_backend' AND pg_has_role(s.oid, 'USAGE'))))`

// ownerSQL tells whose backends run jobs, which is the owner of Odoo's tables, and whether we may signal
// them.
const ownerSQL = `
SELECT r.rolname::text, r.rolsuper, current_user::text, ` + maySignalSQL + `
FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = to_regclass($1)`

// unstoppable says why no job of the database can be stopped, as far as that can be told before one
// runs; empty if nothing is known that forbids it.
func (s *session) unstoppable(ctx context.Context) (why string, err error) {
	if !s.generation.locks {
		return errNoLockTable.Error(), nil
	}
	switch _, err := s.commits(ctx); {
	case errors.Is(err, errFunctionsUnreadable):
		return err.Error(), nil
	case err != nil:
		return "", err
	}
	var owner, we string
	var mighty, may bool
	err = s.conn.QueryRow(ctx, ownerSQL, s.generation.tables.qualify("queue_job")).Scan(&owner, &mighty, &we, &may)
	if err != nil {
		return "", s.conn.Failed(err, "check whether the role may signal Odoo's backends")
	}
	if why = signalRefused(owner, we, mighty, may); why != "" {
		why = "the table queue_job " + why
	}
	return why, nil
}

// signalRefused says why PostgreSQL does not let us signal backends of a role, and what to do; empty if
// it does.
func signalRefused(role, we string, mighty, may bool) string {
	switch {
	case may:
		return ""
	case mighty:
		return fmt.Sprintf("belongs to %s, whom only superusers may signal, and %s is none", role, we)
	}
	return fmt.Sprintf("belongs to %s: GRANT pg_signal_backend TO %s, or connect as %s", role, pgx.Identifier{we}.Sanitize(), role)
}
