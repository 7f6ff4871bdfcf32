package odoo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Counter = (*session)(nil)

// countSQL counts jobs by state. Add-ons of every series have an index of the state.
var countSQL = fmt.Sprintf(`SELECT state, count(*) FROM (
	SELECT j.state FROM queue_job j WHERE j.state IN ('pending', 'enqueued', 'started', 'failed') LIMIT %d) AS j
GROUP BY state`, driver.CountLimit)

// errTypedState keeps us from reading a column that may run code of its owner.
var errTypedState = errors.New("the state of the jobs has no type of PostgreSQL's own")

// Count implements [driver.Counter].
func (s *session) Count(ctx context.Context) (c channels.Count, err error) {
	switch {
	case s.generation == nil:
		return c, errNoFingerprint
	case slices.Contains(s.generation.typed, "state"):
		return c, errTypedState
	}
	c.DB = s.database
	// Nothing is prepared: whoever repairs the table changes it.
	rows, err := s.conn.Query(ctx, s.generation.named(countSQL), pgx.QueryExecModeExec)
	if err != nil {
		return c, s.conn.Failed(err, "count the jobs")
	}
	var state string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&state, &n}, func() error {
		c.Add(channels.ParseState(state), n)
		return nil
	})
	return c, s.conn.Failed(err, "count the jobs")
}
