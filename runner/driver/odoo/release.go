package odoo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Releaser = (*session)(nil)

// dependenciesLimit is the length of the longest dependencies that are read, in bytes: those of a job
// with 25,000 parents. They are those of others.
const dependenciesLimit = 1 << 20

// namedSQL is an array of the uuids that the dependencies of job %[1]s list under the key %[2]s. It is
// taken out as text: a cast to JSON would fail for a row that is none, and with it the statement
// for all others.
const namedSQL = `ARRAY(SELECT m[1] FROM regexp_matches(
	CASE WHEN octet_length(%[1]s.dependencies::text) <= %[3]d THEN substring(%[1]s.dependencies::text FROM '"%[2]s"\s*:\s*\[([^]]*)\]') END,
	'"([^"\\]+)"', 'g') AS m)`

// dependencies returns namedSQL for a job and a key.
func dependencies(alias, key string) string {
	return fmt.Sprintf(namedSQL, alias, key, dependenciesLimit)
}

// dependentsSQL finds the jobs that wait for those in $1. A test that no index serves keeps PostgreSQL
// from going through a large graph for each of them.
var dependentsSQL = `SELECT j.id::int8 FROM queue_job p
	CROSS JOIN LATERAL unnest(` + dependencies("p", "reverse_depends_on") + `) AS c(uuid)
	JOIN queue_job j ON j.uuid = c.uuid AND (j.graph_uuid = p.graph_uuid) IS TRUE
WHERE p.uuid = ANY($1) AND p.state = 'done' AND (j.state = 'wait_dependencies') IS TRUE
GROUP BY j.id ORDER BY max(` + effortSQL + `) DESC NULLS LAST`

// waitingSQL finds all jobs that wait.
var waitingSQL = `SELECT j.id::int8 FROM queue_job j WHERE j.state = 'wait_dependencies' AND j.graph_uuid IS NOT NULL
ORDER BY ` + effortSQL + ` DESC NULLS LAST`

// effortSQL is how long it takes to look at job j: a caller that begins with the longest, and with few,
// learns from these how many it can look at together.
var effortSQL = fmt.Sprintf(`CASE WHEN octet_length(j.dependencies::text) <= %[1]d THEN octet_length(j.dependencies::text) END`,
	dependenciesLimit)

// releaseSQL makes jobs pending by the rule of the add-on (docs/contract.md 1.5): all parents that
// there are, in the same graph, are done, and there is one. What they are is read with one snapshot; the
// row that changes is tested again when its lock has been got.
var releaseSQL = `
WITH path AS (SELECT %[1]s AS path), c AS (
	SELECT j.id FROM queue_job j
	WHERE j.id = ANY($1) AND (j.state = 'wait_dependencies') IS TRUE AND (
		SELECT bool_and((p.state = 'done') IS TRUE AND p.uuid <> ALL($3) AND (%[2]s) IS NOT TRUE) FROM queue_job p
		WHERE p.uuid = ANY(` + dependencies("j", "depends_on") + `) AND (p.graph_uuid = j.graph_uuid) IS TRUE)
	FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE queue_job j SET state = 'pending' FROM path, c WHERE j.id = c.id AND j.state = 'wait_dependencies'
RETURNING `

// recentSQL is whether a parent was done a moment ago. The date is that of Odoo's clock, which may be
// ahead; one that is far ahead tells nothing.
const recentSQL = `p.date_done > now() AT TIME ZONE 'UTC' - $2::interval AND p.date_done < now() AT TIME ZONE 'UTC' + $2::interval`

// releaseLimit is how long a look at several jobs may take, and releaseLimitOfOne one at a single job, or
// at what the done ones name. How long that is depends on others: on the length of their lists of parents,
// on how many rows have one uuid, on the triggers of the table. waitingLimit is for the list of all that
// wait, which grows only with their number.
const (
	releaseLimit      = time.Second
	releaseLimitOfOne = 5 * time.Second
	waitingLimit      = 25 * time.Second
)

// releaseSQL returns the statement, with the columns of a row.
func (g *generation) releaseSQL(columns string) string {
	recent := recentSQL
	if !slices.Contains(g.readable, "date_done") {
		recent = "$2::interval < '0'"
	}
	return fmt.Sprintf(releaseSQL, g.pathSQL(), recent) + columns
}

// Dependents implements [driver.Releaser].
func (s *session) Dependents(ctx context.Context, done []string) (ids []int64, err error) {
	switch {
	case s.generation == nil:
		return nil, errNoFingerprint
	case !s.generation.graphs():
		return nil, nil
	}
	sql, args, limit := waitingSQL, []any(nil), waitingLimit
	if done != nil {
		sql, args, limit = dependentsSQL, []any{done}, releaseLimitOfOne
	}
	err = s.conn.Limited(ctx, limit, func() error {
		rows, err := s.conn.Query(ctx, s.generation.named(sql), args...)
		if err == nil {
			ids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		}
		return s.conn.Failed(err, "find the jobs that wait for others")
	})
	return ids, err
}

// Release implements [driver.Releaser].
func (s *session) Release(ctx context.Context, ids []int64, quiet time.Duration, busy []string) ([]driver.Row, error) {
	switch {
	case s.generation == nil:
		return nil, errNoFingerprint
	case !s.generation.graphs() || len(ids) == 0:
		return nil, nil
	}
	defer s.excluding()()
	if busy == nil {
		busy = []string{} // of which all are different
	}
	sql := s.generation.named(s.generation.releaseSQL(s.generation.rowColumns()))
	limit := releaseLimit
	if len(ids) == 1 {
		limit = releaseLimitOfOne
	}
	var rows []driver.Row
	err := s.conn.Limited(ctx, limit, func() (err error) {
		rows, err = s.rows(ctx, "release jobs that waited for others", sql, ids, quiet, busy)
		return err
	})
	return rows, err
}
