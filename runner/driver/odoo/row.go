package odoo

import (
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// scanner reads rows without allocating more than their strings.
type scanner struct {
	database               string
	id, priority, retry    pgtype.Int8
	uuid, channel, state   pgtype.Text
	exception              pgtype.Text
	created, eta, enqueued pgtype.Timestamp
	keys                   driver.Keys // those that are read
	company                pgtype.Int8
	identity               pgtype.Text
}

// scan reads the columns of rowColumns and then those of more.
func (s *scanner) scan(rows pgx.Rows, more ...any) (driver.Row, error) {
	targets := []any{
		&s.id, &s.uuid, &s.channel, &s.state, &s.priority, &s.created, &s.eta, &s.enqueued, &s.retry, &s.exception,
	}
	if s.keys.Companies {
		targets = append(targets, &s.company)
	}
	if s.keys.Identities {
		targets = append(targets, &s.identity)
	}
	targets = append(targets, more...)
	if err := rows.Scan(targets...); err != nil {
		return driver.Row{}, err
	}
	return driver.Row{
		Job: channels.Job{
			Key:      channels.Key{DB: s.database, UUID: s.uuid.String},
			Channel:  s.channel.String,
			ID:       s.id.Int64,
			Priority: narrow(s.priority.Int64),
			Company:  narrow(s.company.Int64),
			Identity: identity([]byte(s.identity.String)),
			Created:  micros(s.created),
			ETA:      etaMicros(s.eta),
		},
		State:     channels.ParseState(s.state.String),
		RawState:  s.state.String,
		Enqueued:  micros(s.enqueued),
		Retry:     narrow(s.retry.Int64),
		Exception: s.exception.String,
		Nameless:  !s.uuid.Valid || len(s.uuid.String) > UUIDLimit,
	}, nil
}

// narrow makes a number fit. Odoo's own are of four bytes, but a site may have made the columns
// wider; beyond that, only the order of the numbers counts.
func narrow(n int64) int32 { return int32(min(max(n, math.MinInt32), math.MaxInt32)) }

// lastSecond is the last one since the Unix epoch whose microseconds can be counted. PostgreSQL's
// years go on to 294276, thirty more than that.
const lastSecond = math.MaxInt64/1_000_000 - 1

// micros returns a timestamp in microseconds since the Unix epoch. NULL is 0, and infinity, like
// what cannot be told from it, the farthest time.
func micros(t pgtype.Timestamp) int64 {
	switch {
	case !t.Valid:
		return 0
	case t.InfinityModifier == pgtype.Infinity:
		return math.MaxInt64
	case t.InfinityModifier == pgtype.NegativeInfinity:
		return math.MinInt64
	case t.Time.Unix() > lastSecond:
		return math.MaxInt64
	}
	return t.Time.UnixMicro()
}

// etaMicros is micros of an earliest start. One that has always been over is none.
func etaMicros(t pgtype.Timestamp) int64 {
	if t.InfinityModifier == pgtype.NegativeInfinity {
		return 0
	}
	return micros(t)
}

// better reports whether a row matters more than another one of the same uuid, which the database
// does not forbid: one that occupies a slot goes before one that waits for a slot, and that before
// all others; then the lower id.
func better(a, b driver.Row) bool {
	if ra, rb := rank(a.State), rank(b.State); ra != rb {
		return ra < rb
	}
	return a.ID < b.ID
}

func rank(s channels.State) int {
	switch {
	case s.Running():
		return 0
	case s == channels.Pending:
		return 1
	}
	return 2
}
