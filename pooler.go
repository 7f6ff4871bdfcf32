package jobrunner

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// Pooler is a connection pooler, such as PgBouncer, through which the runner reaches the databases.
// It may be in transaction mode. The runner then hears no notifications: it reads the jobs of a
// database when PostgreSQL has counted that something was written there (`track_counts`, which is on
// by default), and every few seconds. What is weaker than with connections to PostgreSQL itself is said
// in docs/operations.md.
//
//	{"url": "postgres://odoo@pgbouncer.internal:6432?sslmode=verify-full", "poll": "5s"}
type Pooler struct {
	// Where the pooler is: a connection string like that of `postgres`, from which it takes the user and
	// the password if it names no user. The database that it names does not matter. Placeholders
	// are resolved. Required.
	URL string `json:"url,omitempty"`

	// The time between two reads of the jobs of a database if nothing is known to have been written
	// there, at least `500ms`. If a read takes long, the next one follows after twenty times as long.
	// Default: `5s`.
	Poll caddy.Duration `json:"poll,omitempty"`
}

// use puts it into the configuration of the runner, if there is one.
func (p *Pooler) use(cfg *runner.Config, log *zap.Logger) error {
	if p == nil {
		return nil
	}
	cfg.Poll = time.Duration(p.Poll)
	if p.URL == "" {
		return errors.New("pooler: the url is missing")
	}
	dsn, err := resolve("pooler", p.URL)
	if err != nil {
		return err
	}
	if literalPassword(p.URL) {
		log.Warn("pooler contains a password, which everyone who reaches the admin API can read; leave the user and the password out, so that those of postgres hold")
	}
	cfg.Pooler, err = parsePooler(dsn, cfg.Postgres, log)
	switch {
	case err == nil:
		return nil
	case dsn != p.URL || literalPassword(dsn) || !connectionShape.MatchString(dsn):
		return errors.New("pooler: the connection string cannot be used; details are withheld because it may hold a password")
	}
	return fmt.Errorf("pooler: %w", err)
}

// parsePooler reads the connection string. Without a user it is for that of postgres.
func parsePooler(dsn string, postgres *pgx.ConnConfig, log *zap.Logger) (*pgx.ConnConfig, error) {
	if err := checkFiles(dsn); err != nil {
		return nil, err
	}
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if !namesUser(dsn) {
		cfg.User, cfg.Password = postgres.User, postgres.Password
	}
	if err := checkParams(cfg, log); err != nil {
		return nil, err
	}
	warnUnverified(cfg, log)
	return cfg, nil
}

// namesUser reports whether a connection string says as whom.
func namesUser(dsn string) bool {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		return err != nil || u.User != nil || u.Query().Has("user") || u.Query().Has("service")
	}
	return hasKeyword(dsn, "user") || hasKeyword(dsn, "service")
}

// check refuses durations that cannot be meant.
func (p *Pooler) check() error {
	if p == nil {
		return nil
	}
	return checkDuration("poll", p.Poll, runner.PollLeast)
}

// parsePooler reads: pooler <url> { <options> }.
func (r *Runner) parsePooler(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 {
		return wrongArguments(d, "pooler")
	}
	p := &Pooler{URL: args[0]}
	if err := parseOptions(d, "pooler", "pooler", poolerOptions, p); err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	r.Pooler = p
	return nil
}

// poolerOptions are the options of its block. A parser starts at the option's name.
var poolerOptions = map[string]func(*Pooler, *caddyfile.Dispenser) error{
	"poll": func(p *Pooler, d *caddyfile.Dispenser) (err error) { p.Poll, err = parsePositive(d); return err },
}

// poolerAddress is where it is, for people.
func poolerAddress(cfg *pgx.ConnConfig) string {
	return cfg.User + "@" + net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port)))
}
