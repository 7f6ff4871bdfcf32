package doctor

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// cluster checks PostgreSQL and each of its databases.
func (e *examination) cluster() {
	cfg := e.subject.Config
	ctx, cancel := context.WithTimeout(e.ctx, connectTimeout)
	defer cancel()
	c, err := cfg.Driver.OpenCluster(ctx, cfg.Postgres)
	switch {
	case errors.Is(err, postgres.ErrTransactionPooling):
		e.add(foundPooler, "%s", postgres.ErrTransactionPooling)
		return
	case err != nil:
		e.add(foundUnreachable, "PostgreSQL cannot be reached, check postgres, postgres_password and pg_hba.conf: %s", err)
		return
	}
	defer c.Close(ctx)
	if adviser, ok := c.(driver.Adviser); ok {
		warnings, err := adviser.Warnings(ctx)
		if err != nil {
			warnings = append(warnings, err.Error())
		}
		for _, w := range warnings {
			e.add(foundRights, "%s", w)
		}
	}
	limits := e.limits(ctx, c)
	list, err := c.Databases(ctx, cfg.Databases)
	if err != nil {
		e.add(foundNoList, "the databases cannot be listed: %s", err)
		return
	}
	what := "databases"
	if len(list) == 1 {
		what = "database"
	}
	e.add(foundPostgres, "PostgreSQL answers and lists %d %s", len(list), what)
	e.missing(list)
	if len(list) == 0 {
		e.add(foundNoDatabase, "no database is found for the role %s: name databases that belong to another role with databases, or check its patterns", cfg.Postgres.User)
		return
	}
	e.served = make(map[string]driver.Examination)
	for _, db := range list {
		e.database(db.Name)
	}
	e.connections(limits)
	if len(e.served) == 0 && !e.neutralized && !e.ill {
		e.add(foundNothing, "none of the databases has jobs that can be run: install queue_job in one of them, or choose others with databases")
	}
}

// missing names the databases that are to be served by their own names, and do not exist. A pattern
// may be for databases that are still to come.
func (e *examination) missing(list []driver.Database) {
	globs := e.subject.Config.Databases
	chosen, err := postgres.Patterns(globs)
	if err != nil {
		return // the list has been made with them
	}
	for _, name := range globs {
		exists := slices.ContainsFunc(list, func(db driver.Database) bool { return db.Name == name })
		if exists || strings.ContainsAny(name, `*?[]\!`) || !chosen(name) {
			continue
		}
		e.add(foundMissing, "there is no database %s to connect to, and it is to be served: correct its name in databases, or in db_name of odoo.conf, or create it", name).Database = name
	}
}

// described says which add-on a database has, as far as that could be read, and how it is.
func described(x *driver.Examination) string {
	what := strings.TrimSpace(x.Generation + " " + x.Version)
	if what == "" {
		return x.Description
	}
	return what + ": " + x.Description
}

// database checks one database.
func (e *examination) database(name string) {
	ctx, cancel := context.WithTimeout(e.ctx, databaseTimeout)
	defer cancel()
	x, err := e.examine(ctx, name)
	add := func(k kind, format string, args ...any) {
		e.add(k, format, args...).Database = name
	}
	switch {
	case err != nil:
		e.ill = true
		add(foundNoExamination, "it cannot be examined, GRANT CONNECT on it or exclude it with databases !%s: %s", name, err)
		return
	case x.Health == driver.Undetected:
		add(foundUndetected, "nothing to do here: %s", x.Description)
		return
	case x.Health == driver.Neutralized:
		e.neutralized = true
		add(foundNeutralized, "%s", described(&x))
		return
	case x.Health == driver.Unhealthy:
		e.ill = true
		add(foundUnhealthy, "%s", described(&x))
		return
	}
	e.served[name] = x
	e.pooler(name)
	add(foundHealthy, "%s", described(&x))
	e.databaseChannels(ctx, name)
	if x.Unstoppable != "" && e.cancels(name) {
		add(foundNoCancel, "a policy cancels its jobs, and they will only be told of: %s", x.Unstoppable)
	}
	for _, w := range x.Warnings {
		add(foundRival, "%s", w)
	}
	e.collector(name, &x)
	e.upgrading(name, &x)
	e.holder(name, x.Holder)
}

// holder tells which runner serves a database.
func (e *examination) holder(name, holder string) {
	add := func(k kind, format string, args ...any) {
		e.add(k, format, args...).Database = name
	}
	switch {
	case holder == "":
		add(foundLockFree, "no runner serves it at the moment%s", e.sleepers())
	case !strings.Contains(holder, "application "+postgres.ApplicationPrefix):
		add(foundLockForeign, "another runner serves it (%s): switch Odoo's own runner off with channels = root:0 and restart Odoo, or stop that program", holder)
	case slices.Contains(e.subject.Standby, name):
		add(foundLockOther, "a second runner serves it (%s), a Caddy that is no node of this one, which waits: stop one of them, or give both the same name in jobrunner NAME, "+
			"the same databases and the same role, so that one stands by for the other", holder)
	default:
		add(foundLockOurs, "it is served by a Caddy (%s)", holder)
	}
}

// examine asks the driver as much as it can tell.
func (e *examination) examine(ctx context.Context, name string) (x driver.Examination, err error) {
	cfg := e.subject.Config
	if d, ok := driver.AsExaminer(cfg.Driver); ok {
		return d.Examine(ctx, cfg.Postgres, name)
	}
	s, err := cfg.Driver.OpenSession(ctx, cfg.Postgres, name)
	if err != nil {
		return x, err
	}
	defer s.Close(ctx)
	x.Fingerprint, err = s.Fingerprint(ctx)
	return x, err
}
