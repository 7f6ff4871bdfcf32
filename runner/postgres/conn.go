// Package postgres owns connections to PostgreSQL that live as long as their
// server lets them: it connects, sets the session up, tells lost connections
// from failed statements, finds poolers, and takes session advisory locks. It
// knows nothing about jobs.
package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// ConnectTimeout bounds one attempt to connect to one host, unless the
	// configuration has a connect_timeout. The context given to [Connect]
	// bounds all of them together.
	ConnectTimeout = 10 * time.Second

	// StatementTimeout is the server's own bound on a statement, for the case
	// that the client cannot tell it to stop any more. Every statement has a
	// shorter one in its context.
	StatementTimeout = 15 * time.Minute

	// LockTimeout is how long the server lets a statement wait for a lock, for
	// example while an add-on's upgrade changes the table.
	LockTimeout = 5 * time.Second

	// KeepaliveIdle, KeepaliveInterval and KeepaliveCount make the server notice
	// within 20 s that the client's host has vanished, so that the locks of its
	// sessions become free (docs/contract.md 3.1). UserTimeout does the
	// same while data is on its way.
	KeepaliveIdle     = 8 * time.Second
	KeepaliveInterval = 4 * time.Second
	KeepaliveCount    = 3
	UserTimeout       = 20 * time.Second

	// IdleTimeout is how long the server keeps a session whose client says
	// nothing, although its host answers: a process that is stopped or hangs must
	// not hold its locks for ever. A session that lives says something at least
	// every 15 s. It needs PostgreSQL 14.
	IdleTimeout = 20 * time.Second

	// CloseTimeout bounds the goodbye on a connection that turned out to be of
	// no use.
	CloseTimeout = 2 * time.Second

	// ApplicationPrefix begins the application_name of our sessions.
	ApplicationPrefix = "caddy-jobrunner/"
)

// Conn is one connection and what is known of its session. It is owned by one
// goroutine.
type Conn struct {
	*pgx.Conn
	// PID is the backend's process id as the server itself says. Behind a
	// pooler it differs from the one that the client was told.
	PID uint32
}

// Connect opens a connection to a database and sets its session up. cfg is not
// changed; an empty database means the one that cfg names. applicationName is
// used after [ApplicationPrefix] unless cfg has an application_name. Where cfg
// does not ask for a kind of server, it must be a primary: of several hosts the
// first one that is not in recovery is taken.
//
// All errors match [driver.ErrLost].
func Connect(ctx context.Context, cfg *pgx.ConnConfig, database, applicationName string) (*Conn, error) {
	cfg = cfg.Copy()
	if database != "" {
		cfg.Database = database
	}
	if cfg.RuntimeParams == nil {
		cfg.RuntimeParams = map[string]string{}
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = ApplicationPrefix + applicationName
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = ConnectTimeout
	}
	if cfg.ValidateConnect == nil {
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, lost(err, "connect to "+cfg.Database)
	}
	c := &Conn{Conn: conn}
	if err := c.setUp(ctx); err != nil {
		c.Abandon(ctx)
		return nil, lost(err, "set up the session in "+cfg.Database)
	}
	return c, nil
}

// Abandon closes a connection that is of no use, without waiting long.
func (c *Conn) Abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CloseTimeout)
	defer cancel()
	_ = c.Close(ctx) // nobody is interested any more
}

// settings returns the session's settings. Behind a pooler they must be set
// after connecting; most poolers refuse them as start-up parameters.
func settings() (names, values []string) {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	s := func(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
	for _, g := range [][2]string{
		{"TimeZone", "UTC"},
		{"statement_timeout", ms(StatementTimeout)},
		{"lock_timeout", ms(LockTimeout)},
		{"idle_in_transaction_session_timeout", "0"},
		{"idle_session_timeout", ms(IdleTimeout)}, // since PostgreSQL 14
		{"jit", "off"},                            // since PostgreSQL 11; compiling would take longer than our statements
		{"tcp_keepalives_idle", s(KeepaliveIdle)},
		{"tcp_keepalives_interval", s(KeepaliveInterval)},
		{"tcp_keepalives_count", strconv.Itoa(KeepaliveCount)},
		{"tcp_user_timeout", ms(UserTimeout)}, // since PostgreSQL 12
	} {
		names, values = append(names, g[0]), append(values, g[1])
	}
	return names, values
}

// setUp makes the settings that the server knows, in one round trip, and learns
// the backend's process id. The server ignores keepalives on Unix sockets.
func (c *Conn) setUp(ctx context.Context) error {
	names, values := settings()
	// One round trip: a prepared statement would be a second one, and would not
	// be there any more behind some poolers.
	return c.QueryRow(ctx, `
		SELECT pg_backend_pid(), (
			SELECT count(set_config(s.name, w.value, false))
			FROM unnest($1::text[], $2::text[]) AS w(name, value)
			JOIN pg_settings s ON s.name = w.name)`,
		pgx.QueryExecModeExec, names, values,
	).Scan(&c.PID, nil)
}

// Failed wraps the error of a statement with what was being done. Errors after
// which the connection cannot be used any more match [driver.ErrLost]. It
// returns nil for nil.
func (c *Conn) Failed(err error, doing string) error {
	if err != nil && c.IsClosed() {
		return lost(err, doing)
	}
	return Wrap(err, doing)
}
