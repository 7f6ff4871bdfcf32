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

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// maintenanceDatabase is where the maintenance connection goes when the
// connection string names no database. Odoo uses the same one.
const maintenanceDatabase = "postgres"

// locatingVariables are those of libpq's environment variables that say where
// PostgreSQL is; one of them will do instead of a connection string.
var locatingVariables = []string{"PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE"}

// connection is how to reach PostgreSQL. No error repeats the connection string. What Odoo's
// configuration says counts where the runner does not name another server; odoo is nil without it.
func (r *Runner) connection(odoo *odooconf.Config, log *zap.Logger) (*pgx.ConnConfig, error) {
	if r.Postgres == "" && odoo == nil && !slices.ContainsFunc(locatingVariables, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil, fmt.Errorf("no PostgreSQL configured: set postgres, or one of the variables %s in the environment of the server", strings.Join(locatingVariables, ", "))
	}
	dsn, err := resolve("postgres", r.Postgres)
	if err != nil {
		return nil, err
	}
	withheld := r.Postgres != dsn || literalPassword(dsn) || !connectionShape.MatchString(dsn)
	filePassword := ""
	if own, ok := withoutServer(dsn); ok && odoo != nil {
		dsn = strings.TrimSpace(connectionString(odoo) + " " + own)
		if !hasKeyword(own, "password") {
			filePassword = odoo.DBPassword
		}
	}
	if err := checkFiles(dsn); err != nil {
		return nil, err
	}
	pg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, connectionError(err, withheld)
	}
	password, err := resolve("postgres_password", r.PostgresPassword)
	if err != nil {
		return nil, err
	}
	pg.Password = cmp.Or(password, filePassword, pg.Password)
	if literalPassword(r.Postgres) {
		log.Warn("postgres contains a password, which everyone who reaches the admin API can read; use postgres_password with {file.*} or {env.*}")
	}
	if literal(r.PostgresPassword) {
		log.Warn("postgres_password is written out, so everyone who reaches the admin API can read it; use {file.*} or {env.*}")
	}
	if err := checkParams(pg, log); err != nil {
		return nil, err
	}
	warnUnverified(pg, log)
	return pg, nil
}

// chooseMaintenance names the database of the maintenance connection where nothing else does. Not
// every role may enter it; the first one that is served is then taken instead.
func chooseMaintenance(pg *pgx.ConnConfig, drv driver.Driver, served []string) {
	if pg.Database != "" {
		return
	}
	pg.Database = maintenanceDatabase
	for _, name := range served {
		if d, ok := drv.(*OdooDriver); ok && !strings.ContainsAny(name, `*?[]\!`) {
			d.maintenance = name
			return
		}
	}
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
// takes effect at the next connect. pooler is nil without one.
func connectionIdentity(pg, pooler *pgx.ConnConfig) string {
	id := oneIdentity(pg)
	if pooler != nil {
		id += " through " + oneIdentity(pooler)
	}
	return id
}

func oneIdentity(pg *pgx.ConnConfig) string {
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
