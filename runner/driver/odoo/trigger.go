package odoo

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// trigger is what has to be created in a database of a series that leaves this to its runner. The
// zero value is nothing.
type trigger struct {
	needed bool
	// exists is set when only its function is not right.
	exists bool
	// schema and owner are those of the table. All belongs to the same owner, so that a Python
	// runner can replace it later.
	schema, owner string
}

// triggerLockTimeout is how long the creation waits for the table. Whatever writes to the table
// waits behind it meanwhile, so it gives up soon; the session is then opened again, and tries
// again.
const triggerLockTimeout = "250ms"

// triggerFunctionSQL announces every insert and update, whatever it changes, and the deletion of a
// job that was not done (docs/contract.md 1.1).
const triggerFunctionSQL = `
CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS $announce$
BEGIN
	IF TG_OP IN ('INSERT', 'UPDATE') THEN
		PERFORM pg_catalog.pg_notify('%s', NEW.uuid);
	ELSIF OLD.state <> 'done' THEN
		PERFORM pg_catalog.pg_notify('%[2]s', OLD.uuid);
	END IF;
	RETURN NULL;
END
$announce$`

const triggerSQL = `
CREATE TRIGGER queue_job_notify AFTER INSERT OR UPDATE OR DELETE ON %s
FOR EACH ROW EXECUTE PROCEDURE %s()`

// lockNotAvailable is the error code of a lock_timeout.
const lockNotAvailable = "55P03"

// createTrigger creates what the fingerprint found missing.
func (s *session) createTrigger(ctx context.Context) error {
	t := s.generation.trigger
	if !t.needed {
		return nil
	}
	function := pgx.Identifier{t.schema, "queue_job_notify"}.Sanitize()
	statements := []string{
		"SET LOCAL lock_timeout = '" + triggerLockTimeout + "'",
		"SET LOCAL ROLE " + pgx.Identifier{t.owner}.Sanitize(),
		fmt.Sprintf(triggerFunctionSQL, function, s.generation.channel),
	}
	if !t.exists {
		statements = append(statements, fmt.Sprintf(triggerSQL, pgx.Identifier{t.schema, "queue_job"}.Sanitize(), function))
	}
	err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		for _, sql := range statements {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, "SELECT oid FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = 'queue_job_notify'",
			s.generation.tables.qualify("queue_job")).Scan(&s.trigger)
	})
	if waited(err) {
		return errors.New("create the trigger queue_job_notify: a transaction has been writing to queue_job " +
			"for longer than " + triggerLockTimeout + "; it is tried again")
	}
	if err != nil {
		return s.conn.Failed(err, "create the trigger queue_job_notify")
	}
	s.generation.trigger = trigger{}
	return nil
}
