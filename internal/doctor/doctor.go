// Package doctor finds out what keeps jobs from running. It connects to PostgreSQL and to the Odoo
// servers as a runner does, takes no locks and changes nothing.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// Timeouts of one check.
const (
	connectTimeout  = 15 * time.Second
	databaseTimeout = 30 * time.Second
	serverTimeout   = 10 * time.Second
)

// Subject is a runner to be examined.
type Subject struct {
	// Config is what the runner is told. The name in it is the runner's.
	Config runner.Config
	// Odoo is what Odoo's own configuration says, nil if it is not known.
	Odoo *odooconf.Config
	// OpenSites are URLs by which the public can have jobs run.
	OpenSites []string
	// Standby are the databases that, as a process with this runner says, another runner serves.
	Standby []string
	// Ignored are options of channels that do nothing, because they are not known, by channel.
	Ignored map[string][]string
	// Files says whether there are enough files for the connections of all jobs.
	Files Files
	// Settings are the effective settings, for people to compare with what they meant.
	Settings []Setting
}

// Setting is the value of an option, and where it comes from.
type Setting struct {
	Runner string `json:"runner"`
	Name   string `json:"name"`
	// Value is for people. A secret is "(secret)".
	Value string `json:"value"`
	// Source is "configuration" (of Caddy), "default", a variable of the environment,
	// or section and key of Odoo's configuration file.
	Source string `json:"source"`
}

// Settings lists the settings of all subjects.
func Settings(subjects []Subject) (all []Setting) {
	for i := range subjects {
		for _, s := range subjects[i].Settings {
			s.Runner = subjects[i].Config.Name
			all = append(all, s)
		}
	}
	return all
}

// Source is a Caddy app that has runners to be examined.
type Source interface {
	// Subjects returns the runners of the app's configuration, sorted by name.
	Subjects() []Subject
}

// Examine examines runners, one after the other, and returns what it found in the order of the checks.
// The databases of a runner are checked before its servers, which are asked about each of them.
func Examine(ctx context.Context, subjects []Subject) []Finding {
	var found []Finding
	for _, s := range subjects {
		e := &examination{ctx: ctx, subject: s}
		e.run()
		found = append(found, e.found...)
	}
	return found
}

// examination is the examination of one runner.
type examination struct {
	ctx     context.Context
	subject Subject
	found   []Finding
	// served are the databases with jobs.
	served map[string]driver.Examination
	// neutralized is set when there is a copy whose jobs are left alone.
	neutralized bool
	// noWay is set when the pooler is known to be out of reach, or to be none, which is said once.
	noWay bool
	// ill is set when a database cannot be served, of which a finding of its own says why.
	ill bool
}

func (e *examination) add(k kind, format string, args ...any) *Finding {
	e.found = append(e.found, Finding{Severity: k.severity, Code: k.code, Check: k.check, Runner: e.subject.Config.Name, Message: fmt.Sprintf(format, args...)})
	return &e.found[len(e.found)-1]
}

func (e *examination) run() {
	e.odooConfig()
	e.openSites()
	e.cluster()
	e.upstreams()
	e.capacity()
	e.channelOptions()
	e.policies()
	e.files()
}

// odooConfig checks what Odoo itself is told.
func (e *examination) odooConfig() {
	conf := e.subject.Odoo
	if conf != nil && len(e.subject.Config.Databases) == 0 {
		if _, err := conf.FilterGlob(); err != nil {
			e.add(foundFilter, "dbfilter %q does not choose the databases, because %s: all of the role are served, set databases if that is not meant",
				conf.DBFilter, err)
		}
	}
	if conf != nil && !conf.RunnerOff {
		e.add(foundRunnerOn, "Odoo's configuration does not switch its own runner off, so Odoo would start it: "+
			"set ODOO_QUEUE_JOB_CHANNELS=root:0 in Odoo's environment, or channels = root:0 in its file and channels in the jobrunner block")
	}
}

// openSites names the sites that leave the route of jobs open.
func (e *examination) openSites() {
	if open := e.subject.OpenSites; len(open) > 0 {
		e.add(foundOpenRoute, "everyone can have jobs run by asking for %s: add the directive jobrunner_guard to the site, or set public_runjob allow",
			strings.Join(open, ", "))
	}
}

// atAnyTime returns the highest capacity of root, which has one of its own, at certain times of policies.
func atAnyTime(cfg runner.Config, root int) int {
	p := policy.Compile(cfg.Policies).Windows("root", "")
	if p == nil || root <= 0 {
		return root
	}
	for _, w := range p.Capacity {
		root = max(root, w.Capacity)
	}
	return root
}

// root is the configured capacity of the root channel; 0 for none, or for what the servers bear. That it is
// not configured is a finding.
func (e *examination) root() int {
	cfg := &e.subject.Config
	at := slices.IndexFunc(cfg.Channels, func(c channels.Config) bool { return channels.Normalize(c.Name) == "root" })
	switch {
	case at >= 0 && cfg.Channels[at].Auto:
		return 0
	case at >= 0:
		return cfg.Channels[at].Capacity
	case cfg.DatabaseChannels != nil:
	case len(cfg.Channels) == 0:
		e.add(foundOneAtATime, "there are no channels, so one job runs at a time: set channels, for example channels root:4")
	default:
		e.add(foundNoRoot, "the channel root is not configured, so its capacity is 1 and one job runs at a time: add it to the channels, for example root:4")
	}
	return 1
}

// capacity compares the root channel with the workers, where those are known.
func (e *examination) capacity() {
	conf, cfg := e.subject.Odoo, e.subject.Config
	root := atAnyTime(cfg, e.root())
	if d := cfg.DatabaseChannels; d != nil {
		if root = d.Max; root == 0 {
			e.add(foundNoCapacity, "max_capacity is 0, so no job runs: raise it")
			return
		}
	}
	if most := cfg.Server.Most(); conf != nil && conf.Workers > 0 {
		if w := cfg.Server.Workers; w > 0 && w != conf.Workers {
			e.add(foundWorkers, "server says that a server has %d workers, and Odoo's configuration says %d: correct workers of server", w, conf.Workers)
		}
		if most > 0 {
			root = min(cmp.Or(root, most), most)
		}
	} else if most > 0 && root == 0 {
		root = most
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
