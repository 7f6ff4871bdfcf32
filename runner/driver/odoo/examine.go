package odoo

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// Examination is what [Driver.Examine] finds in a database.
type Examination struct {
	driver.Fingerprint
	// Module is the add-on that a server must have loaded.
	Module string
	// Holder describes the session that holds the runner's lock; empty if nobody
	// does.
	Holder string
	// DriverState is what a task of this database has for [Driver.Run].
	DriverState string
}

// Examine looks at a database for somebody who sets a runner up. It takes no lock
// and changes nothing.
func (d *Driver) Examine(ctx context.Context, pg *pgx.ConnConfig, database string) (e Examination, err error) {
	conn, err := postgres.Connect(ctx, pg, database, "examination")
	if err != nil {
		return e, err
	}
	s := &session{database: database, runNeutralized: d.options.RunNeutralized, conn: conn}
	defer conn.Abandon(ctx)
	if e.Fingerprint, err = s.Fingerprint(ctx); err != nil || s.generation == nil {
		return e, err
	}
	g := s.generation
	e.Module, e.DriverState = g.module, g.driverState()
	keys := []int64{g.lockKey}
	if g.olderLock != "" {
		older, err := s.olderKey(ctx)
		if err != nil {
			return e, err
		}
		keys = append(keys, older)
	}
	for _, key := range keys {
		if e.Holder, err = conn.LockHolder(ctx, key); err != nil || e.Holder != "" {
			break
		}
	}
	return e, err
}
