package odoo

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

var _ driver.Examiner = (*Driver)(nil)

// Examine implements [driver.Examiner].
func (d *Driver) Examine(ctx context.Context, pg *pgx.ConnConfig, database string) (e driver.Examination, err error) {
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
	if e.Unstoppable, err = s.unstoppable(ctx); err != nil {
		return e, err
	}
	if e.StartedLimits, err = s.collectors(ctx); err != nil {
		return e, err
	}
	if e.Upgrade, err = s.Upgrading(ctx, driver.Upgrade{}); err != nil {
		return e, err
	}
	if e.Upgrade.Active {
		if e.Marked, err = s.markedSince(ctx); err != nil {
			return e, err
		}
	}
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
