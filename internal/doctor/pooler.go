package doctor

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// pooler checks the way to a database through the pooler, if there is one. What concerns the pooler
// itself, and not the database, is said once.
func (e *examination) pooler(name string) {
	cfg := e.subject.Config
	if cfg.Pooler == nil || e.noWay {
		return
	}
	ctx, cancel := context.WithTimeout(e.ctx, connectTimeout)
	defer cancel()
	conn, err := postgres.ConnectPooled(ctx, cfg.Pooler, name, "examination")
	if err == nil {
		defer conn.Abandon(ctx)
		_, err = conn.Exec(ctx, "SELECT 1")
	}
	_, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case err != nil && !answered:
		e.noWay = true
		e.add(foundNoWay, "the pooler cannot be reached, check pooler: %s", err)
	case err != nil:
		e.add(foundRefused, "the pooler refuses the database, check its list of databases and of users, and that it is not in statement mode: %s", err).Database = name
	case !conn.Through():
		e.noWay = true
		e.add(foundNoPooler, "pooler leads to PostgreSQL itself: leave it out, so that jobs are heard of at once, or point it at the pooler")
	}
}
