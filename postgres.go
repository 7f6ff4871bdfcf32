package jobrunner

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
)

// maintenanceDatabase is where the maintenance connection goes when the
// connection string names no database. Odoo uses the same one.
const maintenanceDatabase = "postgres"

// locatingVariables are those of libpq's environment variables that say where
// PostgreSQL is; one of them will do instead of a connection string.
var locatingVariables = []string{"PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE"}

// connection parses the connection string, which no error repeats.
func (r *Runner) connection(log *zap.Logger) (*pgx.ConnConfig, error) {
	if r.Postgres == "" && !slices.ContainsFunc(locatingVariables, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil, fmt.Errorf("no PostgreSQL configured: set postgres, or one of the variables %s in the environment of the server", strings.Join(locatingVariables, ", "))
	}
	dsn, err := resolve("postgres", r.Postgres)
	if err != nil {
		return nil, err
	}
	pg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, connectionError(err, r.Postgres != dsn || literalPassword(dsn) || !connectionShape.MatchString(dsn))
	}
	pg.Database = cmp.Or(pg.Database, maintenanceDatabase)
	password, err := resolve("postgres_password", r.PostgresPassword)
	if err != nil {
		return nil, err
	}
	if password != "" {
		pg.Password = password
	}
	if literalPassword(r.Postgres) {
		log.Warn("postgres contains a password, which everyone who reaches the admin API can read; use postgres_password with {file.*} or {env.*}")
	}
	if literal(r.PostgresPassword) {
		log.Warn("postgres_password is written out, so everyone who reaches the admin API can read it; use {file.*} or {env.*}")
	}
	return pg, nil
}

// connectionError reports that a connection string cannot be parsed. pgx masks
// passwords as well as it can, but one that was put in unescaped tears the string
// apart and shows up elsewhere, so a string that may hold one is not quoted at all.
func connectionError(err error, secret bool) error {
	if secret {
		return errors.New("postgres: the connection string cannot be parsed; details are withheld because it may hold a password (put that into postgres_password, or percent-encode its special characters)")
	}
	return fmt.Errorf("postgres: %w", err)
}

var (
	placeholders  = regexp.MustCompile(`\{[^{}]*\}`)
	urlPassword   = regexp.MustCompile(`^postgres(ql)?://[^:/@?]*:[^@]+@`)
	paramPassword = regexp.MustCompile(`(^|[\s?&])password\s*=\s*('[^']|[^'\s&])`)
	// connectionShape is what a connection string looks like. In anything else a
	// password may be anywhere, or be all there is.
	connectionShape = regexp.MustCompile(`^(postgres(ql)?://([^:@/?]*@)?[^@]*|(\s*\w+\s*=\s*('[^']*'|[^\s']*))*\s*)$`)
)

// literal reports whether a secret is written out in the configuration.
func literal(secret string) bool { return placeholders.ReplaceAllString(secret, "") != "" }

// literalPassword reports whether a connection string contains a password that
// is no placeholder.
func literalPassword(dsn string) bool {
	dsn = placeholders.ReplaceAllString(dsn, "")
	return urlPassword.MatchString(dsn) || paramPassword.MatchString(dsn)
}

// connectionIdentity tells connections apart that cannot be swapped under a
// living runner. Password and TLS settings are no part of it: a new password
// takes effect at the next connect.
func connectionIdentity(pg *pgx.ConnConfig) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q@%q:%d", pg.User, pg.Host, pg.Port)
	for _, f := range pg.Fallbacks {
		fmt.Fprintf(&b, ",%q:%d", f.Host, f.Port)
	}
	fmt.Fprintf(&b, "/%q", pg.Database)
	for _, key := range slices.Sorted(maps.Keys(pg.RuntimeParams)) {
		fmt.Fprintf(&b, " %q=%q", key, pg.RuntimeParams[key])
	}
	return b.String()
}
