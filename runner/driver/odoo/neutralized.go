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
const neutralizedSQL = `SELECT EXISTS (SELECT FROM %s
	WHERE key = 'database.is_neutralized' AND value <> '')`

// neutralized finds out whether the database was neutralized, which switches off in a copy what
// must not reach the world: outgoing mail, scheduled actions, payments. Published add-ons leave the
// jobs alone, which would do just that.
func neutralized(ctx context.Context, conn *postgres.Conn, c catalog) (yes bool, err error) {
	if !c.ReadParameters {
		return false, nil
	}
	err = conn.QueryRow(ctx, fmt.Sprintf(neutralizedSQL, c.schemas().qualify("ir_config_parameter")), pgx.QueryExecModeExec).Scan(&yes)
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
