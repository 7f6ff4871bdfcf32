// Package odoo is the driver for Odoo's job queue add-ons. It speaks the job contract of OCA's
// connector and queue_job, in whichever generation it finds a database.
//
// Each file has one subject: generation.go what there is in a database, sql.go the statements,
// session.go the session that runs them, snapshot.go the read of all jobs, listen.go the
// notifications, trigger.go what sends them where that is the runner's affair, rescue.go which
// tasks are dead and what becomes of them, stop.go how a job is stopped that runs, cause.go what its
// row then says, run.go the request that runs a task, bootstrap.go the
// one that some series want before it, warnings.go who else starts jobs, and neutralized.go which
// databases are copies for trials.
package odoo

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// UserAgentDefault is the default of [Options].
const UserAgentDefault = "caddy-jobrunner"

// Options are what cannot be detected.
type Options struct {
	// HostTemplate is the Host header of a request that runs a job, for servers that choose the
	// database by it (dbfilter). "{database}" is replaced by the database's name. Default: the
	// server's Host header.
	HostTemplate string

	// BasicAuthUser and BasicAuthPassword are sent with each request when the user is not empty,
	// for servers that ask for them in front of Odoo.
	BasicAuthUser     string
	BasicAuthPassword string

	// RunNeutralized lets the jobs of neutralized databases run. Default: they are left alone.
	RunNeutralized bool

	// UserAgent is the header of that name. Default: [UserAgentDefault].
	UserAgent string
}

// Driver implements [driver.Driver]. Its only state are the cookies of anonymous sessions, which it
// can get again at any time.
type Driver struct {
	options  Options
	sessions sessions
}

var _ driver.Driver = (*Driver)(nil)

// New returns a driver.
func New(options Options) *Driver {
	if options.UserAgent == "" {
		options.UserAgent = UserAgentDefault
	}
	return &Driver{options: options}
}

// Capabilities implements [driver.Driver].
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{Application: "Odoo", DatabaseChannels: true, Operations: true, Examination: true, Stopping: true, Upgrades: true, Releases: true, Quarantine: true, VacantClaims: true, Companies: true, Identities: true, Poolers: true}
}

// OpenCluster implements [driver.Driver].
func (d *Driver) OpenCluster(ctx context.Context, pg *pgx.ConnConfig) (driver.Cluster, error) {
	return postgres.OpenCluster(ctx, pg)
}

// OpenSession implements [driver.Driver].
func (d *Driver) OpenSession(ctx context.Context, pg *pgx.ConnConfig, database string) (driver.Session, error) {
	s := &session{database: database, runNeutralized: d.options.RunNeutralized, decoder: newDecoder()}
	conn, err := postgres.Connect(ctx, pg, database, "session")
	if err != nil {
		return nil, err
	}
	if conn.Pooling != postgres.TransactionPooling {
		if _, err := conn.Exec(ctx, planSettings, pgx.QueryExecModeExec); err != nil {
			conn.Abandon(ctx)
			return nil, conn.Failed(err, "set up the session")
		}
	}
	s.conn = conn
	s.inbox.own = conn.PID
	conn.Hear(s.inbox.put)
	return s, nil
}

// OpenPooled implements [driver.PoolDriver].
func (d *Driver) OpenPooled(ctx context.Context, pg *pgx.ConnConfig, database string) (driver.Session, error) {
	conn, err := postgres.ConnectPooled(ctx, pg, database, "session", planSetting, planSettingSince12)
	if err != nil {
		return nil, err
	}
	return &session{database: database, runNeutralized: d.options.RunNeutralized, conn: conn}, nil
}

// planSettings are for the statements that name jobs by their uuids. Their plans are made once, and
// those that are made while queue_job is small or has not been analyzed would go through all of it,
// for ever after. Without the second setting, which PostgreSQL has since 12, it plans most of them
// each time anew, for as much as they cost: a plan for one uuid looks better than one for any
// number.
const planSettings = `SELECT set_config(s.name, w.value, false)
	FROM (VALUES ('enable_seqscan', 'off'), ('plan_cache_mode', 'force_generic_plan')) AS w (name, value)
	JOIN pg_settings s ON s.name = w.name`

// planSetting and planSettingSince12 are the same for a session through a pooler.
var (
	planSetting        = [2]string{"enable_seqscan", "off"}
	planSettingSince12 = [2]string{"plan_cache_mode", "force_generic_plan"}
)

// host returns the Host header of a request for a database, empty for the default of the server's
// address.
func (d *Driver) host(up driver.Upstream, database string) string {
	if d.options.HostTemplate != "" && database != "" {
		return strings.ReplaceAll(d.options.HostTemplate, "{database}", database)
	}
	return up.HostHeader
}
