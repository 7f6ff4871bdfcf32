package jobrunner

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// Where the value of a setting can come from, besides Odoo's configuration.
const (
	fromConfig  = "configuration"
	fromDefault = "default"
)

// settings are the effective settings of a runner, each with where it comes from: the configuration of
// Caddy, Odoo's own, the environment, or nowhere. There is no secret among them.
func (r *Runner) settings(cfg *runner.Config, odoo *odooconf.Config) []doctor.Setting {
	var list []doctor.Setting
	add := func(name, value, source string) {
		list = append(list, doctor.Setting{Name: name, Value: value, Source: source})
	}
	// from says where a setting comes from that Odoo's configuration calls one of these names.
	from := func(set bool, names ...string) string {
		if set {
			return fromConfig
		}
		for _, name := range names {
			if odoo == nil {
				break
			}
			if source := odoo.Source(name); source != "" {
				return source
			}
		}
		return fromDefault
	}
	pg := cfg.Postgres
	source := from(r.Postgres != "", "db_host", "db_port", "db_user")
	if source == fromDefault {
		for _, name := range locatingVariables {
			if os.Getenv(name) != "" {
				source = "environment: " + name
				break
			}
		}
	}
	add("postgres", pg.User+"@"+net.JoinHostPort(pg.Host, strconv.Itoa(int(pg.Port)))+"/"+pg.Database, source)
	if pg.Password != "" {
		add("postgres_password", "(secret)", from(r.PostgresPassword != "" || literalPassword(r.Postgres), "db_password"))
	}
	add("databases", cmp.Or(strings.Join(cfg.Databases, " "), "all of the role"), from(len(r.Databases) > 0, databaseSources(cfg)...))
	switch {
	case r.Site != "":
		add("site", r.Site, fromConfig)
	case len(r.Upstreams) > 0:
		add("upstream", strings.Join(r.Upstreams, " "), fromConfig)
	case odoo != nil:
		add("upstream", odoo.URL, from(false, "host", "port", "scheme"))
	default:
		add("site", "the only reverse_proxy", fromDefault)
	}
	name, value := "channels", channelString(cfg.Channels)
	if d := cfg.DatabaseChannels; d != nil {
		name, value = "channels database", fmt.Sprintf("max_capacity %d", d.Max)
	}
	source = from(len(r.Channels) > 0 || r.DatabaseChannels != nil, channelSources(cfg)...)
	add(name, cmp.Or(value, "root:1"), source)
	addConnections(cfg, func(name, value string) { add(name, value, fromConfig) })
	add("discover_interval", cmp.Or(cfg.DiscoverInterval, runner.DiscoverIntervalDefault).String(), from(r.DiscoverInterval != 0))
	if cfg.RescueStartedAfter > 0 {
		add("rescue_started_after", cfg.RescueStartedAfter.String(), fromConfig)
	}
	r.addRules(cfg, func(name, value string) { add(name, value, fromConfig) })
	add("shutdown_timeout", max(0, cfg.ShutdownTimeout).String(), from(r.ShutdownTimeout != nil))
	add("ready_fails_on", cmp.Or(r.ReadyFailsOn, runner.NotReady.String()), from(r.ReadyFailsOn != ""))
	return list
}

// addConnections adds how the databases are reached.
func addConnections(cfg *runner.Config, add func(name, value string)) {
	if cfg.Connections > 0 {
		add("connections", strconv.Itoa(cfg.Connections))
	}
	if cfg.Hibernate != nil {
		add("hibernate", cfg.Hibernate.String())
	}
	if cfg.Pooler != nil {
		add("pooler", fmt.Sprintf("%s, poll %s", poolerAddress(cfg.Pooler), cmp.Or(cfg.Poll, runner.PollDefault)))
	}
}

// addRules adds what decides, beside the channels, which jobs run, and what is remembered of them.
func (r *Runner) addRules(cfg *runner.Config, add func(name, value string)) {
	if r.Server != nil {
		add("server", r.Server.String())
	}
	for _, name := range slices.Sorted(maps.Keys(r.Pools)) {
		add("pool "+name, r.Pools[name].String())
	}
	for i := range cfg.Policies {
		add(cfg.Policies[i].String(), policyString(&cfg.Policies[i]))
	}
	if cfg.Quarantine != nil {
		add("quarantine", cfg.Quarantine.String())
	}
	if cfg.UpgradeGate {
		add("upgrade_gate", "on")
	}
	if cfg.ReleaseDependents {
		add("release_dependents", "on")
	}
	if cfg.Payloads {
		add("payloads", "on")
	}
	if r.History != "" {
		add("history", r.History)
	}
}

// policyString writes what a policy has as a Caddyfile does.
func policyString(p *policy.Policy) string {
	var options []string
	if p.Timeout != nil {
		options = append(options, "timeout "+p.Timeout.After.String())
	}
	if l := p.Limit; l != nil {
		limit := fmt.Sprintf("limit %d per %s", l.Jobs, l.Per)
		if l.Burst {
			limit += " burst"
		}
		options = append(options, limit)
	}
	if p.Fair != "" {
		options = append(options, "fair "+string(p.Fair))
	}
	if p.Serialize != "" {
		options = append(options, "serialize "+string(p.Serialize))
	}
	if p.Pool != nil {
		options = append(options, upstream.Class(*p.Pool).String())
	}
	if o := p.Objective; o != nil {
		options = append(options, fmt.Sprintf("objective wait %d%% %s", cmp.Or(o.Percent, 100), o.Wait))
	}
	for _, w := range p.Capacity {
		options = append(options, "capacity "+w.String())
	}
	if p.Rate != nil {
		options = append(options, "rate "+p.Rate.String())
	}
	return strings.Join(options, ", ")
}

// databaseSources and channelSources are the names by which Odoo's configuration calls what was taken.
func databaseSources(cfg *runner.Config) []string {
	if len(cfg.Databases) == 0 {
		return nil
	}
	return []string{"db_name", "dbfilter"}
}

func channelSources(cfg *runner.Config) []string {
	switch {
	case cfg.DatabaseChannels != nil:
		return []string{"max_capacity", "db_max_capacity"}
	case len(cfg.Channels) > 0:
		return []string{"channels"}
	}
	return nil
}

// channelString writes channels as OCA's runner does.
func channelString(cfgs []channels.Config) string {
	words := make([]string, 0, len(cfgs))
	for _, c := range cfgs {
		word := fmt.Sprintf("%s:%d", c.Name, c.Capacity)
		switch {
		case c.Auto:
			word = c.Name + ":auto"
		case c.Percent != 0:
			word = fmt.Sprintf("%s:%d%%", c.Name, c.Percent)
		}
		if c.Sequential {
			word += ":sequential"
		}
		if c.Min > 0 {
			word += fmt.Sprintf(":min=%d", c.Min)
		}
		if c.Throttle > 0 {
			word += fmt.Sprintf(":throttle=%g", c.Throttle.Seconds())
		}
		words = append(words, word)
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}
