package jobrunner

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/site"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("jobrunner", parseGlobalOption)
}

// parseGlobalOption adds one jobrunner block to the app.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := new(App)
	if previous, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(previous.Value, app); err != nil {
			return nil, d.WrapErr(err)
		}
	}
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "jobrunner", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile adds the runner of one block. Every option may be given once,
// and all of them may be left out:
//
//	jobrunner [<name>] {
//		postgres          <dsn>
//		postgres_password <password>
//		databases         [!]<glob>...
//		site              <address>
//		upstream          <address>...
//		channels          <string>
//		channels          database {
//			max_capacity    <number>
//			db_max_capacity <rules>
//		}
//		channel           <name> [<capacity>|<part>%|auto] {
//			sequential
//			throttle <duration>
//			paused
//			min <slots>
//			capacity_default <capacity>
//			sequential_default
//		}
//		server            {
//			workers  <number>
//			max_jobs <number>
//			reserve  <number>
//		}
//		pool              <name> <address>... {
//			workers  <number>
//			max_jobs <number>
//			reserve  <number>
//		}
//		policy            <glob>... {
//			database <glob>
//			function <glob>
//			timeout  <duration> {
//				warn  <duration>
//				cancel
//				grace <duration>
//				retry
//			}
//			limit    <jobs> per database|company [burst]
//			fair     database|company
//			serialize identity_key
//			pool     <name> [fallback]
//			objective wait [<percent>%] <duration>
//			capacity <jobs> <days> <from>-<to> <time zone>
//			rate     <jobs>/s|m|h|d [burst <jobs>] [per database]
//		}
//		odoo_config       <file>
//		driver            <name> {
//			<options of the driver>
//		}
//		connections       <number>
//		hibernate         <duration> {
//			poll      <duration>
//			check     <duration>
//			max_awake <number>
//		}
//		pooler            <url> {
//			poll <duration>
//		}
//		discover_interval <duration>
//		rescue_started_after <duration>
//		quarantine        <attempts> in <duration>
//		ready_fails_on    not_ready|degraded|never
//		shutdown_timeout  <duration>
//		public_runjob     warn|allow
//		release_dependents
//		upgrade_gate
//		payloads
//		history           <duration>|off
//	}
//
// channel may be given any number of times, for different channels, and so may pool, with different
// names, and policy, of which the first counts that matches. A policy may have several lines of
// capacity.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		name := defaultName
		if d.NextArg() {
			name = d.Val()
		}
		if err := checkName(name); err != nil {
			return d.WrapErr(err)
		}
		if a.Runners[name] != nil {
			return d.Errf("a second jobrunner block for the runner %q", name)
		}
		if d.NextArg() {
			return d.Errf("jobrunner takes the name of one runner, or none, but here is %q, too", d.Val())
		}
		r := new(Runner)
		if err := r.unmarshal(d); err != nil {
			return err
		}
		if a.Runners == nil {
			a.Runners = make(map[string]*Runner)
		}
		a.Runners[name] = r
	}
	return nil
}

// runnerOptions are the options of a block. A parser starts at the option's name.
var runnerOptions = map[string]func(*Runner, *caddyfile.Dispenser) error{
	"postgres":             func(r *Runner, d *caddyfile.Dispenser) error { return parseString(d, &r.Postgres) },
	"postgres_password":    func(r *Runner, d *caddyfile.Dispenser) error { return parseString(d, &r.PostgresPassword) },
	"databases":            (*Runner).parseDatabases,
	"site":                 (*Runner).parseSite,
	"upstream":             (*Runner).parseUpstreams,
	"channels":             (*Runner).parseChannels,
	"channel":              (*Runner).parseChannel,
	"server":               (*Runner).parseServer,
	"pool":                 (*Runner).parsePool,
	"policy":               (*Runner).parsePolicy,
	"odoo_config":          func(r *Runner, d *caddyfile.Dispenser) error { return parseString(d, &r.OdooConfig) },
	"driver":               (*Runner).parseDriver,
	"connections":          (*Runner).parseConnections,
	"hibernate":            (*Runner).parseHibernate,
	"pooler":               (*Runner).parsePooler,
	"discover_interval":    (*Runner).parseDiscoverInterval,
	"rescue_started_after": (*Runner).parseRescueStartedAfter,
	"quarantine":           (*Runner).parseQuarantine,
	"ready_fails_on":       (*Runner).parseReadyFailsOn,
	"shutdown_timeout":     (*Runner).parseShutdownTimeout,
	"public_runjob":        (*Runner).parsePublicRunjob,
	"release_dependents":   func(r *Runner, d *caddyfile.Dispenser) error { return parseFlag(d, &r.ReleaseDependents) },
	"upgrade_gate":         func(r *Runner, d *caddyfile.Dispenser) error { return parseFlag(d, &r.UpgradeGate) },
	"payloads":             func(r *Runner, d *caddyfile.Dispenser) error { return parseFlag(d, &r.Payloads) },
	"history":              (*Runner).parseHistory,
}

func (r *Runner) unmarshal(d *caddyfile.Dispenser) error {
	seen := make(map[string]bool)
	var policies []caddyfile.Dispenser // where each begins
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if option == "channel" || option == "policy" || option == "pool" {
			delete(seen, option)
		}
		if option == "policy" {
			policies = append(policies, *d)
		}
		if err := checkOption(d, seen, "jobrunner"); err != nil {
			return err
		}
		parse, ok := runnerOptions[option]
		if !ok {
			return d.Errf("unrecognized jobrunner option: %s%s", option, known(runnerOptions))
		}
		if seen["site"] && seen["upstream"] {
			return d.Err("site and upstream exclude each other")
		}
		if err := parse(r, d); err != nil {
			return err
		}
	}
	return r.checkPolicies(policies)
}

// secondOf says of some options of a block how to have a second one.
var secondOf = map[string]string{
	"policy rate": "; where channels are to have a rate of all together and one per database, write two policies",
}

// checkOption refuses options that are given twice, and braces where there is no
// block: the parser of the line before has left them over.
func checkOption(d *caddyfile.Dispenser, seen map[string]bool, block string) error {
	option := d.Val()
	if option == "{" || option == "}" {
		return d.Errf("unexpected %q: this option of %s has no block", option, block)
	}
	if seen[option] {
		return d.Errf("duplicate option of %s: %s%s", block, option, secondOf[block+" "+option])
	}
	seen[option] = true
	return nil
}

func parseString(d *caddyfile.Dispenser, to *string) error {
	option := d.Val()
	if !d.AllArgs(to) {
		return wrongArguments(d, option)
	}
	if *to == "" {
		return d.Errf("%s is empty", option)
	}
	return nil
}

// known lists the options that there are, for an error about another one.
func known[T any](options map[string]T) string {
	return "; the options are " + strings.Join(slices.Sorted(maps.Keys(options)), ", ")
}

// parseFlag reads an option without arguments.
func parseFlag(d *caddyfile.Dispenser, to *bool) error {
	option := d.Val()
	if d.NextArg() {
		return d.Errf("%s takes no argument, but here is %q; without the line, it is off", option, d.Val())
	}
	*to = true
	return nil
}

func (r *Runner) parseReadyFailsOn(d *caddyfile.Dispenser) error {
	if err := parseString(d, &r.ReadyFailsOn); err != nil {
		return err
	}
	if _, err := readyFailsOn(r.ReadyFailsOn); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (r *Runner) parseDatabases(d *caddyfile.Dispenser) error {
	r.Databases = d.RemainingArgs()
	if len(r.Databases) == 0 {
		return wrongArguments(d, "databases")
	}
	if _, err := postgres.Patterns(r.Databases); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (r *Runner) parseSite(d *caddyfile.Dispenser) error {
	if err := parseString(d, &r.Site); err != nil {
		return err
	}
	if hasPlaceholder(r.Site) {
		return nil
	}
	if err := site.CheckAddress(r.Site); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (r *Runner) parseUpstreams(d *caddyfile.Dispenser) error {
	r.Upstreams = d.RemainingArgs()
	if len(r.Upstreams) == 0 {
		return wrongArguments(d, "upstream")
	}
	return checkUpstreams(d, r.Upstreams)
}

// checkUpstreams refuses addresses of servers that cannot be.
func checkUpstreams(d *caddyfile.Dispenser, addresses []string) error {
	for _, address := range addresses {
		if hasPlaceholder(address) {
			continue
		}
		if err := site.CheckUpstream(address); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// hasPlaceholder reports whether only the server knows the value.
func hasPlaceholder(s string) bool { return strings.Contains(s, "{") }

// parseChannels reads the configuration string of OCA's runner into channels. It
// keeps its meaning, except that a leading "root:0" is refused: OCA's runner is
// switched off by it, while the scheduler takes it as "no limit" (docs/contract.md
// 2.2, 4).
func (r *Runner) parseChannels(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return wrongArguments(d, "channels")
	}
	s := withoutNotes(strings.Join(args, " "))
	if s == databaseChannels {
		return r.parseDatabaseChannels(d)
	}
	if strings.HasPrefix(strings.TrimSpace(s), "root:0") {
		return d.Errf("channels %q: root:0 is how Odoo is told to start no runner; it would mean no limit here. Remove the jobrunner block to run no jobs, or pause root with: channel root { paused }", s)
	}
	warnings, err := r.addChannelString(s)
	for _, w := range warnings {
		caddy.Log().Named("jobrunner").Warn(w, zap.String("file", d.File()), zap.Int("line", d.Line()))
	}
	if err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// withoutNotes takes comments out of a configuration string of several lines. OCA's string has none,
// but people write them as in the rest of the Caddyfile, whose own parser does not see those in a
// heredoc. As there, a comment begins at a "#" that begins the line or follows a blank.
func withoutNotes(s string) string {
	if !strings.Contains(s, "\n") {
		return s
	}
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if at := noteStart.FindStringIndex(line); at != nil {
			lines[i] = line[:at[0]]
		}
	}
	return strings.Join(lines, "\n")
}

var noteStart = regexp.MustCompile(`(^|\s)#`)

// databaseChannels takes the place of a configuration string when
// channels are configured in the databases.
const databaseChannels = "database"

// parseDatabaseChannels reads: channels database { <limits> }.
func (r *Runner) parseDatabaseChannels(d *caddyfile.Dispenser) error {
	if len(r.Channels) > 0 {
		return d.Err(exclusiveChannels)
	}
	r.DatabaseChannels = new(DatabaseChannels)
	return parseOptions(d, "channels database", "channels database", databaseChannelsOptions, r.DatabaseChannels)
}

// databaseChannelsOptions are the options of its block. A parser starts at the option's name.
var databaseChannelsOptions = map[string]func(*DatabaseChannels, *caddyfile.Dispenser) error{
	"max_capacity": func(c *DatabaseChannels, d *caddyfile.Dispenser) error {
		n, err := parseInteger(d)
		if err != nil {
			return err
		}
		c.MaxCapacity = &n
		return c.checkAt(d)
	},
	"db_max_capacity": func(c *DatabaseChannels, d *caddyfile.Dispenser) error {
		if c.DBMaxCapacity = strings.Join(d.RemainingArgs(), " "); c.DBMaxCapacity == "" {
			return wrongArguments(d, "db_max_capacity")
		}
		return c.checkAt(d)
	},
}

// checkAt checks the limits and says where the configuration is wrong.
func (c *DatabaseChannels) checkAt(d *caddyfile.Dispenser) error {
	if _, err := c.config(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

const exclusiveChannels = "channels database excludes other channels: they are configured in Odoo then"

// notInString finds capacities that the option channel has, and a configuration string does not.
var notInString = regexp.MustCompile(`:\s*(\d+%|auto\b)`)

// addChannelString enters the channels of a configuration string.
func (r *Runner) addChannelString(s string) (warnings []string, err error) {
	cfgs, warnings, err := channels.ParseConfigs(s)
	switch {
	case err != nil && notInString.MatchString(s):
		return nil, fmt.Errorf("%w; queue_job's string has neither parts nor auto: write lines such as channel root.mail 25%% in its place", err)
	case err != nil:
		return nil, err
	}
	unknown := unknownOptions(s)
	for _, cfg := range cfgs {
		c := ocaChannel(cfg)
		c.OCAIgnored = unknown[channels.Normalize(cfg.Name)]
		if err := c.check(cfg.Name); err != nil {
			return warnings, err
		}
		err := r.addChannel(cfg.Name, c)
		if err != nil {
			return warnings, err
		}
	}
	return warnings, nil
}

// unknownOptions are the options of a configuration string that do nothing, by channel.
func unknownOptions(s string) map[string][]string {
	unknown := make(map[string][]string)
	entries, _ := channels.ParseConfig(s) // it could be read before
	for _, e := range entries {
		name := channels.Normalize(e.Name)
		unknown[name] = append(unknown[name], e.Unknown()...)
	}
	return unknown
}

// ocaChannel is a channel of a configuration string. What a capacity of 0 or less means there has
// options for itself, and a negative throttle delays nothing.
func ocaChannel(cfg channels.Config) *Channel {
	c := &Channel{
		Sequential:        cfg.Sequential,
		Throttle:          caddy.Duration(max(cfg.Throttle, 0)),
		Paused:            cfg.Paused,
		SequentialDefault: cfg.SequentialDefault,
	}
	if cfg.Capacity < 1 {
		c.OCACapacity = &cfg.Capacity
	} else {
		c.Capacity = &cfg.Capacity
	}
	if cfg.CapacityDefault < 0 {
		c.OCACapacityDefault = cfg.CapacityDefault
	} else {
		c.CapacityDefault = cfg.CapacityDefault
	}
	return c
}

// addChannel enters a channel under its full name.
func (r *Runner) addChannel(name string, c *Channel) error {
	name = channels.Normalize(name)
	if r.Channels[name] != nil {
		return fmt.Errorf("channel %s is configured twice", name)
	}
	if r.Channels == nil {
		r.Channels = make(map[string]*Channel)
	}
	r.Channels[name] = c
	return nil
}

// parseChannel reads: channel <name> [<capacity>|<part>%|auto] { <limits> }.
func (r *Runner) parseChannel(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return wrongArguments(d, "channel")
	}
	if r.DatabaseChannels != nil {
		return d.Err(exclusiveChannels)
	}
	name := d.Val()
	if err := checkChannelName(name); err != nil {
		return d.WrapErr(err)
	}
	one := 1
	c := &Channel{Capacity: &one}
	if err := r.addChannel(name, c); err != nil {
		return d.WrapErr(err)
	}
	if d.NextArg() {
		if err := c.parseCapacity(d.Val()); err != nil {
			return d.Errf("channel %s: %w", name, err)
		}
	}
	if d.NextArg() {
		return wrongArguments(d, "channel")
	}
	if err := parseOptions(d, "channel "+name, "a channel", channelOptions, c); err != nil {
		return err
	}
	if err := c.check(name); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// channelOptions are the options of a channel's block. A parser starts at the option's name.
var channelOptions = map[string]func(*Channel, *caddyfile.Dispenser) error{
	"sequential":         func(c *Channel, d *caddyfile.Dispenser) error { return parseFlag(d, &c.Sequential) },
	"paused":             func(c *Channel, d *caddyfile.Dispenser) error { return parseFlag(d, &c.Paused) },
	"sequential_default": func(c *Channel, d *caddyfile.Dispenser) error { return parseFlag(d, &c.SequentialDefault) },
	"capacity_default": func(c *Channel, d *caddyfile.Dispenser) (err error) {
		c.CapacityDefault, err = parseValue(d, parseCapacity)
		return err
	},
	"min": func(c *Channel, d *caddyfile.Dispenser) (err error) {
		c.Min, err = parseNumber(d, 1)
		return err
	},
	"throttle": func(c *Channel, d *caddyfile.Dispenser) (err error) {
		c.Throttle, err = parseValue(d, parseThrottle)
		return err
	},
}

// parseValue reads the one argument of an option.
func parseValue[T any](d *caddyfile.Dispenser, parse func(string) (T, error)) (v T, err error) {
	var text string
	option := d.Val()
	if !d.AllArgs(&text) {
		return v, wrongArguments(d, option)
	}
	if v, err = parse(text); err != nil {
		return v, d.Errf("%s: %w", option, err)
	}
	return v, nil
}

// parseCapacity reads the capacity of an option.
func parseCapacity(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("invalid capacity %q: it must be a whole number", s)
	}
	return n, checkCapacity(n)
}

// parseCapacity reads a capacity, what part of that of the channel above it is (25%), or auto.
func (c *Channel) parseCapacity(s string) error {
	part, percent := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(part)
	switch {
	case s == "auto":
		c.Capacity, c.Auto = nil, true
	case !percent && err != nil:
		return fmt.Errorf("invalid capacity %q: it must be a whole number, a part of that of the channel above, such as 25%%, or auto", s)
	case !percent:
		if err := checkCapacity(n); err != nil {
			return err
		}
		c.Capacity = &n
	case err != nil || n < 1 || n > 100:
		return fmt.Errorf("invalid capacity %q: a part of that of the channel above is 1%% to 100%%", s)
	default:
		c.Capacity, c.Percent = nil, n
	}
	return nil
}

// parseThrottle reads a duration; a bare number counts seconds, as in the
// configuration string of OCA's runner.
func parseThrottle(s string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if seconds, atoi := strconv.Atoi(s); atoi == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil {
		return 0, fmt.Errorf("invalid duration %q: expected seconds or a duration such as 1s", s)
	}
	if d <= 0 {
		return 0, errors.New("the time must be positive")
	}
	return caddy.Duration(d), nil
}

// parseDriver reads: driver <name> { <options of that driver> }.
func (r *Runner) parseDriver(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return wrongArguments(d, "driver")
	}
	name := d.Val()
	id := driverNamespace + "." + name
	if _, err := caddy.GetModule(id); err != nil {
		return d.Errf("unknown driver %q: no module %s is compiled in", name, id)
	}
	unm, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return err
	}
	r.DriverRaw = caddyconfig.JSONModuleObject(unm, "driver", name, nil)
	return nil
}

func (r *Runner) parseConnections(d *caddyfile.Dispenser) (err error) {
	r.Connections, err = parseNumber(d, runner.ConnectionsLeast)
	return err
}

func (r *Runner) parseDiscoverInterval(d *caddyfile.Dispenser) (err error) {
	r.DiscoverInterval, err = parsePositive(d)
	if err != nil {
		return err
	}
	return r.durationsAt(d)
}

func (r *Runner) parseRescueStartedAfter(d *caddyfile.Dispenser) (err error) {
	r.RescueStartedAfter, err = parsePositive(d)
	if err != nil {
		return err
	}
	return r.durationsAt(d)
}

// parseQuarantine reads: quarantine <attempts> in <duration>.
func (r *Runner) parseQuarantine(d *caddyfile.Dispenser) error {
	var attempts, in, within string
	if !d.AllArgs(&attempts, &in, &within) || in != "in" {
		return wrongArguments(d, "quarantine")
	}
	n, err := strconv.Atoi(attempts)
	if err != nil {
		return d.Errf("quarantine: %q is not a whole number", attempts)
	}
	t, err := caddy.ParseDuration(within)
	if err != nil {
		return d.Errf(badDuration, "quarantine", within)
	}
	r.Quarantine = &Quarantine{Attempts: n, Within: caddy.Duration(t)}
	if err := r.Quarantine.config().Validate(); err != nil {
		return d.WrapErr(fmt.Errorf("quarantine: %w", err))
	}
	return nil
}

func (r *Runner) parseShutdownTimeout(d *caddyfile.Dispenser) error {
	v, err := parseDuration(d)
	if err != nil {
		return err
	}
	r.ShutdownTimeout = &v
	return r.durationsAt(d)
}

func (r *Runner) parsePublicRunjob(d *caddyfile.Dispenser) error {
	if err := parseString(d, &r.PublicRunjob); err != nil {
		return err
	}
	if err := r.checkPublicRunjob(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// durationsAt checks the durations and says where the configuration is wrong.
func (r *Runner) durationsAt(d *caddyfile.Dispenser) error {
	if err := r.checkDurations(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// badDuration is said of what is not one.
const badDuration = "%s: invalid duration %q: expected a number with a unit, such as 30s, 15m or 72h"

// parsePositive reads the one argument of an option that may not be 0.
func parsePositive(d *caddyfile.Dispenser) (caddy.Duration, error) {
	option := d.Val()
	v, err := parseDuration(d)
	if err == nil && v <= 0 {
		err = d.Errf("%s must be positive", option)
	}
	return v, err
}

// parseDuration reads the one argument of an option.
func parseDuration(d *caddyfile.Dispenser) (caddy.Duration, error) {
	var s string
	option := d.Val()
	if !d.AllArgs(&s) {
		return 0, wrongArguments(d, option)
	}
	v, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, d.Errf(badDuration, option, s)
	}
	return caddy.Duration(v), nil
}

// Interface guard.
var _ caddyfile.Unmarshaler = (*App)(nil)
