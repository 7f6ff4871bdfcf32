package command

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// showCommands are those that print a table, once or again and again.
func showCommands() []*cobra.Command {
	cmds := []*cobra.Command{
		sub("status", "Shows whether the runners can do their work", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).status) }),
		sub("databases", "Lists the databases", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).databases) }),
		sub("channels", "Lists the channels", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).channels) }),
		sub("upstreams", "Lists the Odoo servers", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).upstreams) }),
		sub("tasks", "Lists the jobs that run", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).tasks) }),
	}
	for _, cmd := range cmds {
		wideFlag(cmd)
		cmd.Flags().BoolP("watch", "w", false, "Show it again and again, until interrupted")
		cmd.Flags().Duration("interval", 2*time.Second, "Time between two answers with --watch")
	}
	return cmds
}

// watch shows something once or, with --watch, until that fails.
func (c *call) watch(show func(*call) (int, error)) (int, error) {
	if !c.flags.Bool("watch") {
		return show(c)
	}
	for {
		c.out.clear()
		if code, err := show(c); err != nil {
			c.out.drop()
			return code, err
		}
		if err := c.out.flush(); err != nil {
			return 1, err
		}
		time.Sleep(max(c.flags.Duration("interval"), 100*time.Millisecond))
	}
}

func (c *call) status() (int, error) {
	runners, err := c.api.Status(c.ctx, c.runner)
	if err != nil {
		return 1, err
	}
	if !c.json() {
		c.statusTable(runners)
	}
	return statusCode(runners), nil
}

// statusCode is the exit status for the worst of the runners.
func statusCode(runners []api.Status) int {
	has := func(state string) bool {
		return slices.ContainsFunc(runners, func(v api.Status) bool { return v.State == state })
	}
	switch {
	case len(runners) == 0 || has(api.NotReady):
		return exitNotReady
	case has(api.Degraded):
		return exitDegraded
	}
	return 0
}

func (c *call) statusTable(runners []api.Status) {
	t := c.out.table("RUNNER", "STATE", "LEADER", "SERVED", "SERVERS", "WAITING", "RUNNING", "FAILED", "OLDEST", "PAUSES")
	for i := range runners {
		v := &runners[i]
		up := 0
		for _, u := range v.Upstreams {
			if u.Up && u.Drain == nil {
				up++
			}
		}
		running := strconv.Itoa(v.Jobs.Enqueued + v.Jobs.Started)
		if v.DatabaseChannels != nil {
			running += fmt.Sprintf(" of %d", v.DatabaseChannels.MaxCapacity)
		}
		served := "-" // only the leader knows
		if v.Leader {
			served = fmt.Sprintf("%d of %d", v.Served, v.Expected)
		}
		t.row(v.Runner, strings.ReplaceAll(v.State, "_", " "), leaderWord(v), served, fmt.Sprintf("%d of %d", up, len(v.Upstreams)),
			strconv.Itoa(v.Jobs.Pending), running, strconv.Itoa(v.Jobs.Failed),
			seconds(v.OldestPending), strconv.Itoa(len(v.Pauses)))
	}
	t.print()
	for i := range runners {
		v := &runners[i]
		for _, p := range slices.Concat(v.Problems, v.Warnings) {
			c.out.line("%s: %s", v.Runner, api.Plain(p))
		}
		for _, p := range v.Pauses {
			order := p.Order()
			c.out.line("%s: %s is %s", v.Runner, pauseSubject(&p), &order)
		}
		for _, d := range v.Drains {
			c.out.line("%s: Odoo server %s is drained by %s", v.Runner, d.Upstream, d.By)
		}
		if v.State == api.NotReady {
			c.out.line("%s: for a thorough check, run: caddy jobrunner doctor", v.Runner)
		}
	}
	if len(runners) == 0 {
		c.out.line("no runner is configured")
	}
}

func pauseSubject(p *api.Pause) string {
	switch p.Scope {
	case "database":
		return "database " + p.Database
	case "channel":
		return "channel " + p.Channel
	}
	return "everything"
}

func leaderWord(v *api.Status) string {
	switch {
	case v.Leader:
		return "this node"
	case v.LeaderKnown:
		return "another: " + v.LeaderDetail
	}
	return "none"
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// seconds writes an age as people do.
func seconds(s *float64) string {
	if s == nil {
		return "-"
	}
	d := time.Duration(*s * float64(time.Second))
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return strings.TrimSuffix(d.Round(time.Second).String(), "0s")
}

func (c *call) databases() (int, error) {
	list, err := c.api.Databases(c.ctx, c.runner)
	if err != nil || c.json() {
		return 0, err
	}
	t := c.out.table(c.runnerCells(several(list, func(v *api.Database) string { return v.Runner }), "RUNNER",
		"DATABASE", "STATE", "WAITING", "RUNNING", "FAILED", "PAUSED", "HEARD", "ADD-ON", "CAUSE")...)
	var causes []string
	for i := range list {
		v := &list[i]
		cause := api.Plain(cmp.Or(v.Cause, v.Detail))
		if cause == "" && v.Health != "healthy" {
			cause = v.Description
		}
		if c.out.width > 0 && cause != "" {
			// A line of its own, because a column would cut it.
			causes, cause = append(causes, v.Database+": "+cause), "see below"
		}
		t.row(c.runnerCells(t.runners, v.Runner, v.Database, v.State, strconv.Itoa(v.Jobs.Pending), strconv.Itoa(v.Jobs.Enqueued+v.Jobs.Started),
			strconv.Itoa(v.Jobs.Failed), yes(v.Pause != nil), seconds(v.HeardAge), v.Generation, cause)...)
	}
	t.print()
	for _, cause := range causes {
		c.out.line("%s", cause)
	}
	return 0, nil
}

// several reports whether a list is about more than one runner.
func several[T any](list []T, runner func(*T) string) bool {
	return slices.ContainsFunc(list, func(v T) bool { return runner(&v) != runner(&list[0]) })
}

// runnerCells puts the runner before other cells, if there are several runners.
func (c *call) runnerCells(several bool, runner string, others ...string) []string {
	if several || c.flags.Bool("wide") {
		return append([]string{runner}, others...)
	}
	return others
}

func (c *call) channels() (int, error) {
	list, err := c.api.Channels(c.ctx, c.runner)
	if err != nil || c.json() {
		return 0, err
	}
	// The column of databases is there if one has its own tree.
	own := slices.ContainsFunc(list, func(v api.Channel) bool { return v.Database != "" })
	cells := func(database string, others ...string) []string {
		if own {
			return append([]string{database}, others...)
		}
		return others
	}
	t := c.out.table(cells("DATABASE", "CHANNEL", "CAPACITY", "RUNNING", "WAITING", "FAILED", "OLDEST", "PAUSED", "OPTIONS")...)
	for i := range list {
		v := &list[i]
		capacity := strconv.Itoa(v.Capacity)
		if v.Capacity == 0 {
			capacity = "∞"
		}
		var options []string
		if v.Sequential {
			options = append(options, "sequential")
		}
		if v.Sequential && v.Failed > 0 {
			options = append(options, "stopped by a failed job")
		}
		if v.Held > 0 {
			options = append(options, fmt.Sprintf("%d wait for their database", v.Held))
		}
		if v.Throttle > 0 {
			options = append(options, "throttle "+seconds(&v.Throttle))
		}
		t.row(cells(v.Database, v.Channel, capacity, strconv.Itoa(v.Running), strconv.Itoa(v.Queued+v.Held), strconv.Itoa(v.Failed),
			seconds(v.OldestPending), yes(v.Paused), strings.Join(options, ", "))...)
	}
	t.print()
	return 0, nil
}

func (c *call) upstreams() (int, error) {
	list, err := c.api.Upstreams(c.ctx, c.runner)
	if err != nil || c.json() {
		return 0, err
	}
	t := c.out.table("SERVER", "UP", "JOBS", "DRAINED", "SAFE TO STOP", "REASON")
	for i := range list {
		v := &list[i]
		t.row(v.Upstream, yes(v.Up), strconv.Itoa(v.InFlight), yes(v.Drain != nil), yes(v.SafeToStop), v.Reason)
	}
	t.print()
	return 0, nil
}

func (c *call) tasks() (int, error) {
	list, err := c.api.Tasks(c.ctx, c.runner)
	if err != nil || c.json() {
		return 0, err
	}
	t := c.out.table(c.runnerCells(several(list, func(v *api.Task) string { return v.Runner }), "RUNNER",
		"UUID", "AGE", "PHASE", "DATABASE", "CHANNEL", "METHOD", "SERVER")...)
	for i := range list {
		v := &list[i]
		t.row(c.runnerCells(t.runners, v.Runner, v.UUID, seconds(v.Age), v.Phase, v.Database, v.Channel, methodName(v.Model, v.Method), v.Upstream)...)
	}
	t.print()
	return 0, nil
}

func methodName(model, method string) string { return strings.Trim(model+"."+method, ".") }
