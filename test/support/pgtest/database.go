package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// maintenanceDB is the database from which the others are managed.
	maintenanceDB = "postgres"
	// emptyTemplate is a template that nobody can be connected to.
	emptyTemplate = "template0"
	// connectTimeout bounds one attempt to connect.
	connectTimeout = 5 * time.Second
	// dropAttempts is how often a database is dropped whose users come back.
	dropAttempts = 20
	// adminTimeout bounds one administrative statement.
	adminTimeout = 60 * time.Second
)

// DSN returns the URL of a database over TCP.
func (c *Cluster) DSN(db string) string {
	return c.dsn("127.0.0.1:"+strconv.Itoa(c.port), db, url.Values{"sslmode": {"disable"}})
}

// SocketDSN returns the URL of a database over the Unix socket.
func (c *Cluster) SocketDSN(db string) string {
	return c.ProxySocketDSN(c.dir, strconv.Itoa(c.port), db)
}

// Socket returns the path of the Unix socket.
func (c *Cluster) Socket() string { return SocketPath(c.dir, strconv.Itoa(c.port)) }

// SocketPath returns the path of a Unix socket that clients of PostgreSQL look for
// when they are told a folder and a port.
func SocketPath(dir, port string) string { return filepath.Join(dir, ".s.PGSQL."+port) }

// ProxySocketDSN returns the URL of a database through a proxy that listens on
// the Unix socket of a folder and a port.
func (c *Cluster) ProxySocketDSN(dir, port, db string) string {
	return c.dsn("", db, url.Values{"host": {dir}, "port": {port}})
}

// ProxyDSN returns the URL of a database through a proxy that listens on addr.
func (c *Cluster) ProxyDSN(addr, db string) string {
	return c.dsn(addr, db, url.Values{"sslmode": {"disable"}})
}

func (c *Cluster) dsn(host, db string, query url.Values) string {
	u := url.URL{Scheme: "postgres", User: url.User(c.opts.User), Host: host, Path: "/" + db, RawQuery: query.Encode()}
	if c.opts.Password != "" {
		u.User = url.UserPassword(c.opts.User, c.opts.Password)
	}
	return u.String()
}

// ConnConfig returns the configuration for a connection to a database over TCP.
func (c *Cluster) ConnConfig(db string) *pgx.ConnConfig {
	config, err := pgx.ParseConfig(c.DSN(db))
	if err != nil {
		panic(fmt.Sprintf("pgtest: own DSN is wrong: %v", err)) // built from a url.URL, so it parses
	}
	config.ConnectTimeout = connectTimeout
	return config
}

func (c *Cluster) connect(ctx context.Context, db string) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, c.ConnConfig(db))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", db, err)
	}
	return conn, nil
}

// Exec runs one statement in a database, on a connection of its own, in at most
// a minute.
func (c *Cluster) Exec(ctx context.Context, db, sql string, args ...any) (err error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	conn, err := c.connect(ctx, db)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("running %q in %s: %w", sql, db, err)
	}
	return nil
}

// CreateDatabase creates a database. An empty template gives an empty database.
func (c *Cluster) CreateDatabase(ctx context.Context, name, template string) error {
	if template == "" {
		template = emptyTemplate
	}
	return c.Exec(ctx, maintenanceDB, "CREATE DATABASE "+quote(name)+" TEMPLATE "+quote(template))
}

// DropDatabase drops a database, if it exists, and throws out who is connected.
func (c *Cluster) DropDatabase(ctx context.Context, name string) error {
	var err error
	for range dropAttempts {
		// DROP DATABASE WITH (FORCE) needs PostgreSQL 13.
		if err = c.TerminateBackends(ctx, name); err != nil {
			return err
		}
		if err = c.Exec(ctx, maintenanceDB, "DROP DATABASE IF EXISTS "+quote(name)); err == nil {
			return nil
		}
	}
	return err
}

// TerminateBackends ends all connections to a database, as an administrator
// does with pg_terminate_backend. An empty name means all databases.
func (c *Cluster) TerminateBackends(ctx context.Context, db string) error {
	return c.Exec(ctx, maintenanceDB, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname IS NOT NULL AND usename IS NOT NULL AND pid <> pg_backend_pid() AND ($1 = '' OR datname = $1)`, db)
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
