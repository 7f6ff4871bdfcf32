package odoostub

import (
	"context"
	"embed"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed sql/*.sql
var scripts embed.FS

// Generation is a state of the add-on's tables.
type Generation uint8

const (
	// QueueJob10 is 10.0 and 11.0. The runner has to create the trigger.
	QueueJob10 Generation = iota + 1
	// QueueJob12 is 12.0 to 18.0 without lock table.
	QueueJob12
	// QueueJobLock is 16.0 to 19.0 with the table queue_job_lock.
	QueueJobLock
	// Channels has channels that are configured in the database, too.
	Channels
	// Connector7, Connector8 and Connector9 are the ancestor of queue_job. The
	// runner has to create the trigger.
	Connector7
	Connector8
	Connector9
)

// generations holds, by generation, its version and the scripts that it adds to
// those of the one before.
var generations = [...]struct {
	name, module, version string
	before                Generation
	scripts               []string
}{
	QueueJob10:   {"QueueJob10", "queue_job", "10.0.1.1.0", 0, []string{"queue_job_10"}},
	QueueJob12:   {"QueueJob12", "queue_job", "12.0.3.7.0", QueueJob10, []string{"queue_job_12", "trigger"}},
	QueueJobLock: {"QueueJobLock", "queue_job", "18.0.2.0.0", QueueJob12, []string{"lock"}},
	Channels:     {"Channels", "queue_job", "18.0.3.0.0", QueueJobLock, []string{"channels"}},
	Connector7:   {"Connector7", "connector", "7.0.2.2.0", 0, []string{"connector_7"}},
	Connector8:   {"Connector8", "connector", "8.0.3.3.0", Connector7, []string{"connector_8"}},
	Connector9:   {"Connector9", "connector", "9.0.1.0.2", Connector8, []string{"connector_9"}},
}

// Generations returns all of them, oldest first.
func Generations() []Generation {
	return []Generation{Connector7, Connector8, Connector9, QueueJob10, QueueJob12, QueueJobLock, Channels}
}

// Connector reports whether it is one of connector, not of queue_job.
func (g Generation) Connector() bool { return generations[g].module == "connector" }

// Locks reports whether jobs have lock rows.
func (g Generation) Locks() bool { return g == QueueJobLock || g == Channels }

// String returns the constant's name.
func (g Generation) String() string {
	if g == 0 || int(g) >= len(generations) {
		return fmt.Sprintf("Generation(%d)", uint8(g))
	}
	return generations[g].name
}

// DB is a connection, a pool or a transaction.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Install turns a database into one of Odoo with the add-on installed.
func Install(ctx context.Context, db DB, gen Generation) error {
	if err := InstallBase(ctx, db); err != nil {
		return err
	}
	return InstallAddon(ctx, db, gen)
}

// InstallBase turns a database into one of Odoo without the add-on.
func InstallBase(ctx context.Context, db DB) error { return apply(ctx, db, "base") }

// InstallAddon installs the add-on in a database of Odoo, or upgrades an older
// generation; jobs stay.
func InstallAddon(ctx context.Context, db DB, gen Generation) error {
	var names []string
	for g := gen; g != 0; g = generations[g].before {
		names = slices.Concat(generations[g].scripts, names)
	}
	if err := apply(ctx, db, names...); err != nil {
		return err
	}
	const sql = "UPDATE ir_module_module SET state = 'installed', latest_version = $1 WHERE name = $2"
	if _, err := db.Exec(ctx, sql, generations[gen].version, generations[gen].module); err != nil {
		return fmt.Errorf("marking the add-on installed: %w", err)
	}
	return nil
}

// UninstallAddon removes the add-on and all jobs.
func UninstallAddon(ctx context.Context, db DB) error { return apply(ctx, db, "uninstall") }

// SetAddonState writes the state of the add-on's module, for example "to upgrade".
func SetAddonState(ctx context.Context, db DB, state string) error {
	if _, err := db.Exec(ctx, "UPDATE ir_module_module SET state = $1 WHERE name = 'queue_job'", state); err != nil {
		return fmt.Errorf("setting the add-on's state: %w", err)
	}
	return nil
}

// InstallTrigger creates the trigger, which the add-on of [QueueJob10] leaves to
// the runner.
func InstallTrigger(ctx context.Context, db DB) error { return apply(ctx, db, "trigger") }

// InstallConnectorTrigger creates that of connector.
func InstallConnectorTrigger(ctx context.Context, db DB) error {
	return apply(ctx, db, "trigger_connector")
}

// DropTrigger removes the trigger but not its function.
func DropTrigger(ctx context.Context, db DB) error {
	if _, err := db.Exec(ctx, "DROP TRIGGER IF EXISTS queue_job_notify ON queue_job"); err != nil {
		return fmt.Errorf("dropping the trigger: %w", err)
	}
	return nil
}

// apply runs scripts in one transaction.
func apply(ctx context.Context, db DB, names ...string) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		for _, name := range names {
			script, err := scripts.ReadFile("sql/" + name + ".sql")
			if err != nil {
				return fmt.Errorf("reading a script: %w", err)
			}
			// Without arguments, PostgreSQL takes several statements at once.
			if _, err := tx.Conn().PgConn().Exec(ctx, string(script)).ReadAll(); err != nil {
				return fmt.Errorf("applying %s.sql: %w", name, err)
			}
		}
		return nil
	})
}

// Neutralize leaves the mark that the neutralization of Odoo 16.0 and later leaves.
func Neutralize(ctx context.Context, db DB) error {
	const sql = `INSERT INTO ir_config_parameter (key, value) VALUES ('database.is_neutralized', true)
		ON CONFLICT (key) DO UPDATE SET value = true`
	if _, err := db.Exec(ctx, sql); err != nil {
		return fmt.Errorf("neutralizing: %w", err)
	}
	return nil
}
