// Package postgres owns connections to PostgreSQL that live as long as their server lets them: it
// connects, sets the session up, tells lost connections from failed statements, finds poolers, and
// takes session advisory locks. It knows nothing about jobs.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// ConnectTimeout bounds one attempt to connect to one host, unless the configuration has a
	// connect_timeout. The context given to [Connect] bounds all of them together.
	ConnectTimeout = 10 * time.Second

	// statementLimit is how many prepared statements a connection keeps, more than it has.
	statementLimit = 64

	// StatementTimeout is the server's own bound on a statement, in case the client cannot tell it
	// to stop any more. Every statement has a shorter one in its context.
	StatementTimeout = 15 * time.Minute

	// LockTimeout is how long the server lets a statement wait for a lock, for example while an
	// add-on's upgrade changes the table. It is below the time that a claim or a probe may take, so
	// that these end with the server's word and not with the connection.
	LockTimeout = 4 * time.Second

	// KeepaliveIdle, KeepaliveInterval and KeepaliveCount make the server notice within 20 s that
	// the client's host has vanished, so that the locks of its sessions become free
	// (docs/contract.md 3.1). UserTimeout does the same while data is on its way.
	KeepaliveIdle     = 8 * time.Second
	KeepaliveInterval = 4 * time.Second
	KeepaliveCount    = 3
	UserTimeout       = 20 * time.Second

	// IdleTimeout is how long the server keeps a session whose client says nothing, although its
	// host answers: a process that is stopped or hangs must not hold its locks for ever. A session
	// that lives says something at least every 15 s. It needs PostgreSQL 14.
	IdleTimeout = 20 * time.Second

	// ClientCheckInterval is how often the server checks whether the client of a statement under
	// way is still there. Without it a statement that cannot be interrupted, because a trigger
	// traps the interruption, keeps its backend and its locks for as long as it likes. It needs
	// PostgreSQL 14.
	ClientCheckInterval = 5 * time.Second

	// CloseTimeout bounds the goodbye on a connection that cannot be used.
	CloseTimeout = 2 * time.Second

	// ApplicationPrefix begins the application_name of our sessions.
	ApplicationPrefix = "caddy-jobrunner/"
)

// Conn is one connection and what is known of its session. It is owned by one goroutine.
type Conn struct {
	*pgx.Conn
	// PID is the backend's process id as the server itself says. Behind a pooler it differs from
	// the one that the client was told.
	PID uint32
	// Pooling is what lies between the client and that backend. Behind [TransactionPooling] the
	// session has none of our settings.
	Pooling Pooling

	// messages are what the server sends.
	messages *messages
	// leads is set for the maintenance connection, whose lock only runners like this one take,
	// whatever they call themselves. That of a database is OCA's runner's too.
	leads bool
	// frozen watches who holds a lock that this session wants.
	frozen frozen
	// pooled is set for a connection that brings along with each transaction what that needs.
	pooled *pooled
}

// Connect opens a connection to a database and sets its session up. cfg is not changed; an empty
// database means the one that cfg names. applicationName is used after [ApplicationPrefix] unless
// cfg has an application_name. Where cfg does not ask for a kind of server, it must be a primary:
// of several hosts the first one that is not in recovery is taken.
//
// Behind a pooler in transaction mode nothing is set up, because the settings would stay with a
// backend that others use: see [Conn.Pooling].
//
// All errors match [driver.ErrLost].
func Connect(ctx context.Context, cfg *pgx.ConnConfig, database, applicationName string) (*Conn, error) {
	c, err := open(ctx, cfg, database, applicationName)
	if err != nil {
		return nil, err
	}
	if c.Pooling, err = c.pooling(ctx); err == nil && c.Pooling != TransactionPooling {
		err = c.setUp(ctx)
	}
	if err != nil {
		c.Abandon(ctx)
		return nil, lost(err, "set up the session in "+c.Config().Database)
	}
	return c, nil
}

// open makes a connection whose session is the server's default.
func open(ctx context.Context, cfg *pgx.ConnConfig, database, applicationName string) (*Conn, error) {
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
	// pgx makes room for 512 statements at once, and for as many descriptions that nothing here uses:
	// 50 kB of each connection.
	cfg.StatementCacheCapacity = min(cfg.StatementCacheCapacity, statementLimit)
	if cfg.DefaultQueryExecMode != pgx.QueryExecModeCacheDescribe {
		cfg.DescriptionCacheCapacity = 0
	}
	var met server
	cfg.ValidateConnect = met.validate(cfg.ValidateConnect)
	c, err := Raw(ctx, cfg)
	if err != nil {
		return nil, lost(err, "connect to "+cfg.Database)
	}
	c.PID = met.pid
	return c, nil
}

// Raw opens a connection of which nothing is known, and asks for nothing. It changes cfg.
func Raw(ctx context.Context, cfg *pgx.ConnConfig) (*Conn, error) {
	messages := new(messages)
	cfg.BuildFrontend = messages.frontend
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: conn, messages: messages}, nil
}

// server is what the server says about a new connection.
type server struct {
	pid        uint32
	recovering bool
}

// validate asks the server before anything else is, and then lets want decide, by default whether
// the server is a primary. Until the session is set up, names are looked up along a path that the
// owner of the database chooses, so all of ours are qualified, and those of want, which pgx brings,
// get a path of a transaction: a session's would stay with the backend of a pooler.
func (s *server) validate(want pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := s.ask(ctx, conn); err != nil {
			return err
		}
		if want == nil {
			if s.recovering {
				return errRecovering
			}
			return nil
		}
		if err := conn.Exec(ctx, "BEGIN; SET LOCAL search_path = "+SearchPath).Close(); err != nil {
			return err
		}
		refused := want(ctx, conn)
		return errors.Join(refused, conn.Exec(ctx, "ROLLBACK").Close())
	}
}

// errRecovering refuses a server that cannot be written to.
var errRecovering = errors.New("the server is in recovery: a standby, not a primary")

// ask sends a query whose names no other role can have defined.
func (s *server) ask(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()").ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 2 {
		return errors.New("the server does not say who it is")
	}
	row := results[0].Rows[0]
	pid, err := strconv.ParseUint(string(row[0]), 10, 32)
	s.pid, s.recovering = uint32(pid), string(row[1]) == "t"
	return err
}

// Abandon closes a connection that cannot be used, without waiting long.
func (c *Conn) Abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CloseTimeout)
	defer cancel()
	_ = c.Close(ctx) // its outcome does not matter any more
}

// SearchPath is the path of our sessions. Names without a schema are looked up nowhere but among
// PostgreSQL's own. The owner of a database, or of a role, can set any path, and each role that may
// create functions and operators in a schema on it, as every role may in public up to PostgreSQL
// 14, would have them called by our role.
const SearchPath = "pg_catalog, pg_temp"

// settings returns the settings of our sessions: everything that a database or a role can set
// otherwise and that a statement depends on. Behind a pooler they must be set after connecting;
// most poolers refuse them as start-up parameters.
func settings() (names, values []string) {
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	s := func(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
	for _, g := range [][2]string{
		{"search_path", SearchPath},
		// How text, times and literals are written and read.
		{"client_encoding", "UTF8"},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"},
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
		// Each statement is a transaction that sees what was committed before it.
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		// A policy that hides rows from us is an error, not silence; nor do its expressions run as
		// our role.
		{"row_security", "off"},
		{"statement_timeout", ms(StatementTimeout)},
		{"transaction_timeout", "0"}, // since PostgreSQL 17
		{"lock_timeout", ms(LockTimeout)},
		{"idle_in_transaction_session_timeout", "0"},
		{"idle_session_timeout", ms(IdleTimeout)},                     // since PostgreSQL 14
		{"client_connection_check_interval", ms(ClientCheckInterval)}, // since PostgreSQL 14
		{"jit", "off"}, // since PostgreSQL 11; compiling would take longer than our statements
		{"tcp_keepalives_idle", s(KeepaliveIdle)},
		{"tcp_keepalives_interval", s(KeepaliveInterval)},
		{"tcp_keepalives_count", strconv.Itoa(KeepaliveCount)},
		{"tcp_user_timeout", ms(UserTimeout)}, // since PostgreSQL 12
	} {
		names, values = append(names, g[0]), append(values, g[1])
	}
	return names, values
}

// settingsSQL makes the settings that the server knows. It runs under a path that is not ours yet,
// so every name and operator is qualified. Servers on systems other than Linux may refuse, with an
// error, to check the client's connection.
const settingsSQL = `
SELECT pg_catalog.count(pg_catalog.set_config(s.name, w.value, false)),
	pg_catalog.pg_try_advisory_lock_shared($3::pg_catalog.int8)
FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS w (name, value)
JOIN pg_catalog.pg_settings s ON s.name OPERATOR(pg_catalog.=) w.name
WHERE s.name OPERATOR(pg_catalog.<>) 'client_connection_check_interval'
OR pg_catalog.strpos(pg_catalog.version(), 'linux') OPERATOR(pg_catalog.>) 0`

// setUp makes the settings and the mark in one round trip: a prepared statement would be a second
// one, and would not be there any more behind some poolers. The server ignores keepalives on Unix
// sockets.
func (c *Conn) setUp(ctx context.Context) error {
	names, values := settings()
	return c.QueryRow(ctx, settingsSQL, pgx.QueryExecModeExec, names, values, markKey).Scan(nil, nil)
}

// Limited has the server stop the statements of f after limit. Its error then matches
// [driver.ErrTooLong], nothing was changed, and the connection can be used.
func (c *Conn) Limited(ctx context.Context, limit time.Duration, f func() error) error {
	if c.pooled != nil {
		defer c.pooled.bound(limit)()
		return tooLong(f())
	}
	if err := c.limit(ctx, limit); err != nil {
		return c.Failed(err, "limit a statement")
	}
	err := f()
	if c.IsClosed() {
		return err
	}
	err = tooLong(err)
	if failed := c.limit(ctx, StatementTimeout); failed != nil {
		return lost(failed, "take back the limit of a statement") // of all that follow, too
	}
	return err
}

// tooLong makes the error of a statement that the server has stopped match [driver.ErrTooLong].
func tooLong(err error) error {
	const queryCanceled = "57014"
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == queryCanceled {
		return fmt.Errorf("%w: %w", driver.ErrTooLong, err)
	}
	return err
}

// limit sets the server's own bound on a statement.
func (c *Conn) limit(ctx context.Context, limit time.Duration) error {
	_, err := c.Exec(ctx, "SELECT set_config('statement_timeout', $1, false)", pgx.QueryExecModeExec, strconv.FormatInt(limit.Milliseconds(), 10))
	return err
}

// Failed wraps the error of a statement with what was being done. Errors after which the connection
// cannot be used any more match [driver.ErrLost]. It returns nil for nil.
func (c *Conn) Failed(err error, doing string) error {
	if err != nil && c.IsClosed() {
		if c.messages != nil && c.messages.tooLarge.Load() && !errors.Is(err, errTooLarge) {
			err = fmt.Errorf("%w (%w)", errTooLarge, err)
		}
		return lost(err, doing)
	}
	return Wrap(err, doing)
}
