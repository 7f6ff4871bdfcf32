package odoo

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Limits of what is appended to rows.
const (
	// causeLimit is the length of the longest cause, in characters.
	causeLimit = 4000
	// exceptionLimit is the length of the longest exc_info, in bytes, that still gets another cause:
	// a job that is retried for ever must not have a row that grows for ever.
	exceptionLimit = 1 << 20
)

// causeText makes a text fit into a row: no longer than causeLimit, and without what PostgreSQL does
// not take for text.
func causeText(text string) string {
	text = strings.TrimSpace(strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", ""))
	if runes := []rune(text); len(runes) > causeLimit {
		text = string(runes[:causeLimit-1]) + "…"
	}
	return text
}

// causeTexts does so with several.
func causeTexts(texts []string) []string {
	fit := make([]string, len(texts))
	for i, text := range texts {
		fit[i] = causeText(text)
	}
	return fit
}

// shows reports whether a cause can be put into a row: its form shows exc_info in every series,
// whatever the state, and Odoo empties it when the job is done.
func (g *generation) shows() bool {
	return slices.Contains(g.readable, "exc_info") && slices.Contains(g.writable, "exc_info")
}

// appendCauseSQL is an expression for the new exc_info of row j: what it has, and a cause as its last
// paragraph. cause is an SQL expression that is not NULL, made by [causeText]; if it is empty, or
// [generation.shows] does not hold, nothing changes. A cause that is the last paragraph already is
// not appended again.
func (g *generation) appendCauseSQL(cause string) string {
	return fmt.Sprintf(`CASE WHEN %[1]s THEN concat_ws(E'\n\n', nullif(j.exc_info, ''), %[2]s) ELSE j.exc_info END`,
		g.newCauseSQL(cause), cause)
}

// newCauseSQL is a condition on row j: whether a cause would be appended.
func (g *generation) newCauseSQL(cause string) string {
	if !g.shows() {
		return "false"
	}
	return fmt.Sprintf(`(%[1]s <> '' AND coalesce(octet_length(j.exc_info), 0) < %[2]d
		AND right(coalesce(j.exc_info, ''), length(%[1]s)) <> %[1]s)`, cause, exceptionLimit)
}

// retriesLeft is true for a job that failed and that Odoo would have retried after a retryable
// error. The counter has this attempt in it already: Odoo counts when it begins one, and writes the
// counter with the failure (docs/contract.md 1.5). 0 and NULL mean that there is no limit.
const retriesLeft = `(coalesce(j.max_retries, 0) = 0 OR coalesce(j.retry, 0) < j.max_retries)`

// accountSQL tells failed attempts why, and retries some. What a retry clears is what Odoo's own
// clears; the counter stays, as it does there. eta stays, too: it has passed.
func (g *generation) accountSQL() string {
	retries := "d.again"
	if slices.Contains(g.columns, "max_retries") {
		retries += " AND " + retriesLeft
	}
	set := []string{"state = CASE WHEN c.again THEN 'pending' ELSE j.state END"}
	for _, column := range []string{"date_enqueued", "date_started", "date_done", "worker_pid"} {
		if slices.Contains(g.writable, column) && slices.Contains(g.readable, column) {
			set = append(set, fmt.Sprintf("%[1]s = CASE WHEN c.again THEN NULL ELSE j.%[1]s END", column))
		}
	}
	if g.shows() {
		set = append(set, "exc_info = "+g.appendCauseSQL("c.cause"))
	}
	return `
WITH path AS (SELECT ` + g.pathSQL() + ` AS path), c AS (
	SELECT j.id, d.cause, ` + retries + ` AS again FROM queue_job j
	JOIN unnest($1::varchar[], $2::timestamp[], $3::text[], $4::bool[]) AS d(uuid, enqueued, cause, again)
	ON j.uuid = d.uuid AND ` + sameAttempt + `
	WHERE j.state = 'failed'
	FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE queue_job j SET ` + strings.Join(set, ", ") + `
FROM path, c
WHERE j.id = c.id AND j.state = 'failed' AND (c.again OR ` + g.newCauseSQL("c.cause") + `)
RETURNING `
}

// Account implements [driver.Stopper]. Odoo wrote the exception that the signal raised in the job;
// what an operator's limit has to do with it, users only learn from here.
func (s *session) Account(ctx context.Context, causes []driver.Cause) ([]driver.Row, error) {
	if s.generation == nil {
		return nil, errNoFingerprint
	}
	defer s.excluding()()
	texts, again := make([]string, len(causes)), make([]bool, len(causes))
	for i := range causes {
		texts[i], again[i] = causeText(causes[i].Text), causes[i].Retry
	}
	uuids, enqueued := attempts(len(causes), func(i int) driver.Task { return causes[i].Attempt })
	return s.rows(ctx, "tell jobs why they were stopped", s.statements.account, uuids, enqueued, texts, again)
}
