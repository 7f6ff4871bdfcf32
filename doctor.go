package jobrunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// Timeouts of one look at something.
const (
	doctorConnectTimeout  = 15 * time.Second
	doctorDatabaseTimeout = 30 * time.Second
	doctorServerTimeout   = 10 * time.Second
)

// doctorCommand is the sub-command doctor.
func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Checks a set-up and says what to do about what is wrong with it",
		Long: `
Loads a configuration without running it, connects to PostgreSQL and to the Odoo
servers itself, and looks for everything that would keep jobs from running. It takes
no locks and changes nothing; the servers are asked for a job that does not exist.

Exit statuses: 0 nothing is wrong, or there are only warnings; 1 the configuration
cannot be loaded; 3 something is wrong.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
				caddy.BufferedLog() // keeps the loading of the configuration off the terminal
				raw, _, _, err := caddycmd.LoadConfig(fl.String("config"), fl.String("adapter"))
				if err != nil {
					return 1, fmt.Errorf("loading the configuration: %w", err)
				}
				found, err := diagnose(cmd.Context(), raw, fl.String("runner"))
				if err != nil {
					return 1, err
				}
				return report(cmd.OutOrStdout(), found, fl.Bool("json"))
			})(cmd, args)
		},
	}
}

// diagnose examines the runners of a configuration; all of them if name is empty.
func diagnose(ctx context.Context, raw []byte, name string) ([]finding, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	var cfg *caddy.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	cfg.Logging = silent()
	provisioned, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return nil, fmt.Errorf("loading the configuration: %w", err)
	}
	mod, err := provisioned.AppIfConfigured("jobrunner")
	if err != nil {
		return nil, errors.New("there is no jobrunner in the configuration")
	}
	app, ok := mod.(*App)
	if !ok {
		return nil, fmt.Errorf("the jobrunner app is a %T", mod)
	}
	defer app.Cleanup() //nolint:errcheck // the process ends
	if name != "" && app.generation.runners[name] == nil {
		return nil, fmt.Errorf("there is no runner %s in the configuration", name)
	}
	var found []finding
	for _, n := range slices.Sorted(maps.Keys(app.generation.runners)) {
		if name == "" || n == name {
			e := &examination{ctx: ctx, runner: n, member: app.generation.runners[n]}
			e.run()
			found = append(found, e.found...)
		}
	}
	return found, nil
}

// silent is a configuration of logs that writes nothing anywhere. The one of the
// file names log files of the Caddy that runs, and the doctor tells what it finds
// in its own words.
func silent() *caddy.Logging {
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}},
	}}
}

// examination is that of one runner.
type examination struct {
	ctx    context.Context
	runner string
	member *member
	found  []finding
	// served are the databases with jobs.
	served map[string]odoo.Examination
	// neutralized is set when there is a copy whose jobs are left alone.
	neutralized bool
}

func (e *examination) add(k kind, format string, args ...any) *finding {
	e.found = append(e.found, finding{Severity: k.severity, Code: k.code, Check: k.check, Runner: e.runner, Message: fmt.Sprintf(format, args...)})
	return &e.found[len(e.found)-1]
}

func (e *examination) run() {
	e.odooConfig()
	e.cluster()
	e.upstreams()
	e.capacity()
}

// odooConfig looks at what Odoo itself is told.
func (e *examination) odooConfig() {
	conf := e.member.odoo
	if conf != nil && !conf.RunnerOff {
		e.add(foundRunnerOn, "Odoo's configuration does not switch its own runner off, so Odoo would start it: "+
			"set ODOO_QUEUE_JOB_CHANNELS=root:0 in Odoo's environment, or channels = root:0 in its file and channels in the jobrunner block")
	}
}

// cluster looks at PostgreSQL and at each of its databases.
func (e *examination) cluster() {
	cfg := e.member.config
	ctx, cancel := context.WithTimeout(e.ctx, doctorConnectTimeout)
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
	list, err := c.Databases(ctx, cfg.Databases)
	if err != nil {
		e.add(foundNoList, "the databases cannot be listed: %s", err)
		return
	}
	e.add(foundPostgres, "PostgreSQL answers and lists %d databases", len(list))
	if len(list) == 0 {
		e.add(foundNoDatabase, "no database is found for the role %s: name databases that belong to another role with databases, or check its patterns", cfg.Postgres.User)
		return
	}
	e.served = make(map[string]odoo.Examination)
	for _, db := range list {
		e.database(db.Name)
	}
	if len(e.served) == 0 && !e.neutralized {
		e.add(foundNothing, "none of the databases has jobs that can be run: install queue_job in one of them, or choose others with databases")
	}
}

// database looks at one database.
func (e *examination) database(name string) {
	ctx, cancel := context.WithTimeout(e.ctx, doctorDatabaseTimeout)
	defer cancel()
	x, err := e.examine(ctx, name)
	add := func(k kind, format string, args ...any) {
		e.add(k, format, args...).Database = name
	}
	switch {
	case err != nil:
		add(foundNoExamination, "it cannot be examined, GRANT CONNECT on it or exclude it with databases !%s: %s", name, err)
		return
	case x.Health == driver.Undetected:
		add(foundUndetected, "nothing to do here: %s", x.Description)
		return
	case x.Health == driver.Neutralized:
		e.neutralized = true
		add(foundNeutralized, "%s %s: %s", x.Generation, x.Version, x.Description)
		return
	case x.Health == driver.Unhealthy:
		add(foundUnhealthy, "%s %s: %s", x.Generation, x.Version, x.Description)
		return
	}
	e.served[name] = x
	add(foundHealthy, "%s %s: %s", x.Generation, x.Version, x.Description)
	e.databaseChannels(ctx, name)
	for _, w := range x.Warnings {
		add(foundRival, "%s", w)
	}
	switch {
	case x.Holder == "":
		add(foundLockFree, "no runner serves it at the moment")
	case strings.Contains(x.Holder, "application "+postgres.ApplicationPrefix):
		add(foundLockOurs, "it is served by a Caddy (%s)", x.Holder)
	default:
		add(foundLockForeign, "another runner serves it (%s): switch Odoo's own runner off with channels = root:0 and restart Odoo, or stop that program", x.Holder)
	}
}

// examine asks the driver as much as it can tell.
func (e *examination) examine(ctx context.Context, name string) (x odoo.Examination, err error) {
	cfg := e.member.config
	if d, ok := cfg.Driver.(*OdooDriver); ok {
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

// upstreams looks at the servers.
func (e *examination) upstreams() {
	ctx, cancel := context.WithTimeout(e.ctx, doctorServerTimeout)
	defer cancel()
	ups, err := e.member.config.Targets.Upstreams(ctx)
	if err != nil || len(ups) == 0 {
		e.add(foundNoUpstream, "no Odoo server is known, check the upstreams of the reverse_proxy or name them with upstream: %v", err)
		return
	}
	for _, up := range ups {
		e.upstream(up)
	}
}

// upstream looks at one server: whether it answers, and whether it answers for
// each database as the add-on does for a job that does not exist.
func (e *examination) upstream(up driver.Upstream) {
	drv := e.member.config.Driver
	add := func(k kind, format string, args ...any) *finding {
		f := e.add(k, format, args...)
		f.Upstream = up.Name
		return f
	}
	err := e.within(func(ctx context.Context) error { return drv.Check(ctx, up) })
	switch {
	case errors.Is(err, driver.ErrNoAnswer):
		add(foundBusy, "it accepts connections and does not answer within %s: all workers may be busy, add some", doctorServerTimeout)
		return
	case err != nil:
		add(foundDown, "it does not answer, start Odoo or correct the address: %s", err)
		return
	}
	add(foundUp, "it answers")
	for _, name := range slices.Sorted(maps.Keys(e.served)) {
		x := e.served[name]
		var res driver.Result
		_ = e.within(func(ctx context.Context) error {
			res = drv.Run(ctx, up, driver.Task{Key: channels.Key{DB: name, UUID: uuid.NewString()}, Hint: x.Hint})
			return nil
		})
		switch {
		case res.Outcome == driver.Answered && res.Status < 300:
			add(foundRoute, "it would run jobs of this database").Database = name
		case res.Outcome == driver.Answered || res.Outcome == driver.Refused:
			add(foundRouteRefused, "it would not run jobs of this database (%s): load %s with server_wide_modules, and let the Host header pass dbfilter (driver odoo { host ... })",
				said(res), x.Module).Database = name
		default:
			add(foundRouteBroken, "it did not answer for a job of this database: %v", res.Err).Database = name
		}
	}
}

func said(res driver.Result) string {
	if res.Err != nil {
		return res.Err.Error()
	}
	return fmt.Sprintf("status %d", res.Status)
}

func (e *examination) within(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(e.ctx, doctorServerTimeout)
	defer cancel()
	return f(ctx)
}

// capacity compares the root channel with the workers, where those are known.
func (e *examination) capacity() {
	conf, cfg := e.member.odoo, e.member.config
	root := 1
	for _, c := range cfg.Channels {
		if c.Name == "root" {
			root = c.Capacity
		}
	}
	if d := cfg.DatabaseChannels; d != nil {
		if root = d.Max; root == 0 {
			e.add(foundNoCapacity, "max_capacity is 0, so no job runs: raise it")
			return
		}
	}
	switch {
	case root == 0:
		e.add(foundUnlimited, "the root channel has no limit, so jobs can take all workers away from the users: give it a capacity below the number of workers")
	case conf != nil && conf.Workers > 0 && root >= conf.Workers:
		e.add(foundCapacity, "up to %d jobs run at once and a server has %d workers, so jobs can take all of them away from the users: lower the capacity, or raise workers",
			root, conf.Workers)
	}
	if conf != nil && len(conf.ServerWide) > 0 && len(e.served) > 1 {
		for name, x := range e.served {
			if x.Module != "" && !slices.Contains(conf.ServerWide, x.Module) {
				e.add(foundServerWide, "server_wide_modules has no %s, which servers of several databases need: add it", x.Module).Database = name
				return
			}
		}
	}
}
