package odoo

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

var _ driver.Sleeper = (*session)(nil)

// restSQL finds whether there is something to do within $1, and the earliest eta, of which the pending
// jobs of $2 are none. States that are not known count as something.
func (g *generation) restSQL() string {
	eta := "NULL::timestamp"
	if slices.Contains(g.columns, "eta") {
		eta = "j.eta"
	}
	return `SELECT EXISTS (SELECT FROM queue_job j WHERE ` + unfinished + ` AND j.state NOT IN ('pending', 'failed'))
	OR EXISTS (SELECT FROM queue_job j WHERE j.state = 'pending' AND (j.uuid = ANY($2::varchar[])) IS NOT TRUE AND (` + eta + ` IS NULL OR ` + eta + ` <= now() AT TIME ZONE 'UTC' + $1::interval)),
	(SELECT min(` + eta + `) FROM queue_job j WHERE j.state = 'pending' AND (j.uuid = ANY($2::varchar[])) IS NOT TRUE)`
}

// Sleep implements [driver.Sleeper].
func (s *session) Sleep(ctx context.Context, soon time.Duration, barred []string) (r driver.Rest, err error) {
	if s.generation == nil {
		return r, errNoFingerprint
	}
	r.Writes, err = postgres.WritesHere(ctx, s.conn)
	if errors.Is(err, driver.ErrLost) {
		return r, err
	}
	blind := err != nil // nothing would tell that it has to be woken
	var next pgtype.Timestamp
	switch err := s.conn.QueryRow(ctx, s.statements.rest, soon, barred).Scan(&r.Busy, &next); {
	case waited(err): // the table is being changed
		r.Busy = true
		return r, nil
	case err != nil:
		return r, s.conn.Failed(err, "look for jobs to do")
	}
	r.Busy = r.Busy || blind
	if next.Valid { // infinity is the farthest time, or the job would be one that waits for nothing
		r.Next = time.UnixMicro(micros(next)).UTC()
	}
	return r, nil
}
