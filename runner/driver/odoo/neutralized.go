package odoo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// What operators read of a neutralized database.
const (
	neutralizedText = "the database is neutralized (a copy for trials), so its jobs do not run; " +
		"run_neutralized in driver odoo lets them run"
	neutralizedServedText = "; the database is neutralized, and served because run_neutralized is set"
	// neutralizedUnreadable is a warning.
	neutralizedUnreadable = "the role may not read ir_config_parameter, so a neutralized copy is not recognized and its jobs run: " +
		"GRANT SELECT (key, value) on it"
)

// neutralizedSQL reads the mark that Odoo 16.0 and later leave. Odoo itself takes every value that
// is not empty for a yes.
const neutralizedSQL = `EXISTS (SELECT FROM ir_config_parameter
	WHERE key = 'database.is_neutralized' AND value <> '')`

// unmarkedSQL is the condition of a claim that the database is not neutralized; empty where the role
// cannot see that.
func (g *generation) unmarkedSQL() string {
	if !g.marked {
		return ""
	}
	return " AND NOT " + neutralizedSQL
}

// markedSQL is an expression: whether the database is neutralized, as far as the role can see it.
func (g *generation) markedSQL() string {
	if !g.marked {
		return "false"
	}
	return neutralizedSQL
}

// marksSQL reads again what a fingerprint depends on and no notification announces: the add-on's
// state and version, the lock table, and whether the database is neutralized. What they were comes as
// parameters. The trigger is a matter of the probe that goes before.
func (g *generation) marksSQL() string {
	return `SELECT NOT EXISTS (SELECT FROM ir_module_module
			WHERE name = $1 AND state = $2 AND coalesce(left(latest_version, 100), '') = $3),
		(to_regclass($4) IS NOT NULL) <> $5, ` + g.markedSQL()
}

// unchanged checks that the database is still what the fingerprint says. Its error matches
// [driver.ErrChanged] if it is not.
func (s *session) unchanged(ctx context.Context) error {
	g := s.generation
	var addon, locks, copied bool
	err := s.conn.QueryRow(ctx, s.statements.marks, g.module, g.installed.state, g.installed.version,
		g.tables.qualify("queue_job_lock"), g.lockTable).Scan(&addon, &locks, &copied)
	switch {
	case err != nil:
		return s.conn.Failed(err, "check whether the database has changed")
	case addon:
		return fmt.Errorf("%w: the add-on %s was changed", driver.ErrChanged, g.module)
	case locks:
		return fmt.Errorf("%w: the table queue_job_lock was created or dropped", driver.ErrChanged)
	case copied && !s.runNeutralized:
		return errNeutralized
	}
	return nil
}

// errNeutralized ends a session whose database turned into a copy for trials.
var errNeutralized = fmt.Errorf("%w: it was neutralized", driver.ErrChanged)

// neutralized finds out whether the database was neutralized, which switches off in a copy what
// must not reach the world: outgoing mail, scheduled actions, payments. Published add-ons leave the
// jobs alone, which would do just that.
func (g *generation) neutralized(ctx context.Context, conn *postgres.Conn) (yes bool, err error) {
	if !g.marked {
		return false, nil
	}
	err = conn.QueryRow(ctx, "SELECT "+g.named(neutralizedSQL), pgx.QueryExecModeExec).Scan(&yes)
	return yes, conn.Failed(err, "check whether the database is neutralized")
}

// RunsNeutralized implements [Neutralizer]: it reports [Options.RunNeutralized].
func (d *Driver) RunsNeutralized() bool { return d.options.RunNeutralized }

var _ driver.Follower = (*session)(nil)

// Neutralizer is what the sessions of this package ask of the driver in force. [Driver] implements
// it, and so does each driver that embeds it; with others, what a session was opened with holds.
type Neutralizer interface {
	// RunsNeutralized reports whether the jobs of neutralized databases run.
	RunsNeutralized() bool
}

// Follow implements [driver.Follower].
func (s *session) Follow(d driver.Driver) {
	if d, ok := d.(Neutralizer); ok {
		s.runNeutralized = d.RunsNeutralized()
	}
}

// withhold turns the fingerprint into one of a neutralized database.
func withhold(fp *driver.Fingerprint) {
	fp.Health, fp.Description = driver.Neutralized, neutralizedText
}
