package docs

// The driver that docs/drivers.md shows. TestSkeleton requires that each block of Go in
// that document is a part of this file, so what it shows compiles.

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// Tickets runs the jobs of an application that keeps them in a table called ticket.
type Tickets struct{}

var (
	_ caddy.Module          = (*Tickets)(nil)
	_ caddyfile.Unmarshaler = (*Tickets)(nil)
	_ driver.Driver         = (*Tickets)(nil)
)

// CaddyModule makes the driver a module of Caddy's.
func (Tickets) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "jobrunner.drivers.tickets",
		New: func() caddy.Module { return new(Tickets) },
	}
}

// UnmarshalCaddyfile makes "driver tickets" work in a Caddyfile. The driver has no options.
func (*Tickets) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // its name
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Capabilities implements [driver.Driver]: no optional ability, and a name for log lines.
func (*Tickets) Capabilities() driver.Capabilities {
	return driver.Capabilities{Application: "Tickets"}
}

// OpenCluster implements [driver.Driver] with what is there for all of PostgreSQL.
func (*Tickets) OpenCluster(ctx context.Context, pg *pgx.ConnConfig) (driver.Cluster, error) {
	return postgres.OpenCluster(ctx, pg)
}

// OpenSession implements [driver.Driver].
func (*Tickets) OpenSession(ctx context.Context, pg *pgx.ConnConfig, database string) (driver.Session, error) {
	s := &session{database: database}
	pg = pg.Copy()
	pg.OnNotification = s.put
	conn, err := postgres.Connect(ctx, pg, database, "session")
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return s, nil
}

// Check implements [driver.Driver]. It never runs a task.
func (*Tickets) Check(ctx context.Context, up driver.Upstream) error {
	_, err := get(ctx, up, "/health", nil, nil)
	return err
}

// Run implements [driver.Driver]. The answer comes when the task has ended.
func (*Tickets) Run(ctx context.Context, up driver.Upstream, t driver.Task) driver.Result {
	sent := false
	trace := &httptrace.ClientTrace{WroteHeaders: func() { sent = true }}
	status, err := get(httptrace.WithClientTrace(ctx, trace), up, "/run",
		url.Values{"database": {t.DB}, "ticket": {t.UUID}}, t.Trace)
	switch {
	case err != nil && !sent:
		return driver.Result{Outcome: driver.NotSent, Err: err}
	case err != nil:
		return driver.Result{Outcome: driver.Broken, Err: err}
	case status == http.StatusServiceUnavailable:
		return driver.Result{Outcome: driver.Unavailable, Status: status, Err: fmt.Errorf("status %d", status)}
	}
	return driver.Result{Outcome: driver.Answered, Status: status}
}

// get sends one request by the transport that the engine has chosen.
func get(ctx context.Context, up driver.Upstream, path string, query url.Values,
	trace map[string]string,
) (status int, err error) {
	u := url.URL{Scheme: up.Scheme, Host: up.Host, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Host = up.HostHeader
	for name, value := range trace {
		req.Header.Set(name, value)
	}
	resp, err := up.Transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// session implements [driver.Session] on one connection.
type session struct {
	database string
	conn     *postgres.Conn
	inbox    driver.Notifications
}

var _ driver.Session = (*session)(nil)

// lockKey is the advisory lock by which runners of tickets exclude each other.
const lockKey int64 = 4711

// put is called by pgx for each notification, also while a statement runs.
func (s *session) put(_ *pgconn.PgConn, n *pgconn.Notification) {
	if s.conn != nil && n.PID == s.conn.PID {
		s.inbox.Echoes = append(s.inbox.Echoes, n.Payload)
		return
	}
	s.inbox.Changed = append(s.inbox.Changed, n.Payload)
}

func (s *session) Fingerprint(ctx context.Context) (driver.Fingerprint, error) {
	var found bool
	err := s.conn.QueryRow(ctx, "SELECT to_regclass('ticket') IS NOT NULL").Scan(&found)
	switch {
	case err != nil:
		return driver.Fingerprint{}, s.conn.Failed(err, "look for tickets")
	case !found:
		return driver.Fingerprint{Description: "there are no tickets here"}, nil
	}
	return driver.Fingerprint{Health: driver.Healthy, Description: "ready", Generation: "tickets"}, nil
}

func (s *session) Lock(ctx context.Context) (driver.Lock, error) { return s.conn.TryLock(ctx, lockKey) }

func (s *session) Listen(ctx context.Context) error {
	_, err := s.conn.Exec(ctx, "LISTEN ticket")
	return s.conn.Failed(err, "listen")
}

// columns are those of a row, in the order in which rows scans them.
const columns = "uuid, channel, id, priority, state, (extract(epoch FROM enqueued) * 1e6)::int8"

func (s *session) Running(ctx context.Context) ([]driver.Row, error) {
	return s.rows(ctx, "SELECT "+columns+" FROM ticket WHERE state IN ('enqueued', 'started')")
}

func (s *session) Snapshot(ctx context.Context, yield func(driver.Row)) error {
	rows, err := s.rows(ctx, "SELECT "+columns+" FROM ticket WHERE state <> 'done'")
	for _, row := range rows {
		yield(row)
	}
	return err
}

func (s *session) Read(ctx context.Context, uuids []string) ([]driver.Row, error) {
	return s.rows(ctx, "SELECT "+columns+" FROM ticket WHERE uuid = ANY ($1)", uuids)
}

// Claim tests the state in the statement that changes it, so that no ticket is claimed twice.
func (s *session) Claim(ctx context.Context, uuids, others []string) ([]driver.Task, []driver.Row, error) {
	read, err := s.Read(ctx, others)
	if err != nil {
		return nil, nil, err
	}
	claimed, err := s.rows(ctx, "UPDATE ticket SET state = 'enqueued', enqueued = now()"+
		" WHERE uuid = ANY ($1) AND state = 'pending' RETURNING "+columns, uuids)
	tasks := make([]driver.Task, 0, len(claimed))
	for _, row := range claimed {
		tasks = append(tasks, driver.Task{Key: row.Key, Enqueued: row.Enqueued})
	}
	return tasks, read, err
}

// Unclaim puts back what is still as the claim left it.
func (s *session) Unclaim(ctx context.Context, tasks []driver.Task) ([]driver.Row, error) {
	var changed []driver.Row
	for _, t := range tasks {
		rows, err := s.rows(ctx, "UPDATE ticket SET state = 'pending', enqueued = NULL WHERE uuid = $1"+
			" AND state = 'enqueued' AND enqueued = to_timestamp($2::int8 / 1e6) RETURNING "+columns, t.UUID, t.Enqueued)
		if err != nil {
			return changed, err
		}
		changed = append(changed, rows...)
	}
	return changed, nil
}

// Inspect proves nothing: tickets have no lock that a worker holds.
func (s *session) Inspect(ctx context.Context, uuids []string) ([]driver.Liveness, error) {
	rows, err := s.Read(ctx, uuids)
	list := make([]driver.Liveness, 0, len(rows))
	for _, row := range rows {
		list = append(list, driver.Liveness{Row: row, Verdict: driver.Uncertain})
	}
	return list, err
}

// Rescue has nothing to put back where nothing proves a task dead.
func (*session) Rescue(context.Context, []driver.Liveness) ([]driver.Row, error) { return nil, nil }

func (s *session) Wait(ctx context.Context) (driver.Notifications, error) {
	for len(s.inbox.Changed)+len(s.inbox.Echoes) == 0 {
		err := s.conn.PgConn().WaitForNotification(ctx)
		switch {
		case err == nil:
		case ctx.Err() != nil && !s.conn.IsClosed():
			return driver.Notifications{}, nil // interrupted by the engine
		default:
			return driver.Notifications{}, s.conn.Failed(err, "wait for notifications")
		}
	}
	n := s.inbox
	s.inbox = driver.Notifications{}
	return n, nil
}

func (s *session) Probe(ctx context.Context) error {
	key := lockKey
	return s.conn.Probe(ctx, postgres.Expect{Channel: "ticket", Lock: &key})
}

func (s *session) Close(ctx context.Context) error {
	return postgres.Wrap(s.conn.Close(ctx), "close the session")
}

// rows runs a statement that returns columns.
func (s *session) rows(ctx context.Context, sql string, args ...any) ([]driver.Row, error) {
	found, err := s.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, s.conn.Failed(err, "read tickets")
	}
	list, err := pgx.CollectRows(found, func(r pgx.CollectableRow) (row driver.Row, err error) {
		var enqueued *int64
		row.DB = s.database
		err = r.Scan(&row.UUID, &row.Channel, &row.ID, &row.Priority, &row.RawState, &enqueued)
		row.State = channels.ParseState(row.RawState)
		if enqueued != nil {
			row.Enqueued = *enqueued
		}
		return row, err
	})
	return list, s.conn.Failed(err, "read tickets")
}

// TestSkeleton: what docs/drivers.md shows of a driver is what compiles here.
func TestSkeleton(t *testing.T) {
	source := read(t, "test/docs/skeleton_test.go").text
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(read(t, "docs/drivers.md").text, -1)
	require.NotEmpty(t, blocks)
	for _, b := range blocks {
		require.Contains(t, source, b[1])
	}
}
