package command

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// showCommands are those that print a table, once or again and again.
func showCommands() []*cobra.Command {
	lists := []*cobra.Command{
		sub("databases", "Lists the databases", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).databases) }),
		sub("channels", "Lists the channels", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).channels) }),
		sub("tasks", "Lists the jobs that run", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).tasks) }),
	}
	lists[0].Flags().StringSlice("state", nil, "Only databases in these states")
	for _, cmd := range lists {
		cmd.Flags().Int("limit", 1000, "How many to list, at most 1000")
		cmd.Flags().Int("offset", 0, "How many to leave out before")
	}
	cmds := append([]*cobra.Command{
		sub("status", "Shows whether the runners can do their work", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).status) }),
		sub("upstreams", "Lists the Odoo servers", cobra.NoArgs, func(c *call) (int, error) { return c.watch((*call).upstreams) }),
	}, lists...)
	for _, cmd := range cmds {
		wideFlag(cmd)
		cmd.Flags().BoolP("watch", "w", false, "Show it again and again, until interrupted")
		cmd.Flags().Duration("interval", 2*time.Second, "Time between two answers with --watch")
	}
	return cmds
}

// page is what the flags say about which part of a list.
func (c *call) page() (api.ListQuery, error) {
	q := api.ListQuery{Runner: c.runner, Limit: c.flags.Int("limit"), Offset: c.flags.Int("offset")}
	if q.Limit < 1 || q.Offset < 0 {
		return q, fmt.Errorf("limit %d or offset %d is not possible: a limit is a number from 1 on, an offset one from 0 on", q.Limit, q.Offset)
	}
	return q, nil
}

// list prints a table, or, where it is empty, why it may be.
func (c *call) list(t *table, empty string) {
	if len(t.rows) > 1 {
		t.print()
		return
	}
	c.out.line("%s", empty)
	c.elsewhere()
}

// elsewhere says of each runner that this process does not lead, who knows of its jobs.
func (c *call) elsewhere() {
	runners, _ := c.quiet.Status(c.ctx, c.runner) // without an answer there is nothing to add
	c.led(runners)
}

// led says of each runner that this process does not lead, who does.
func (c *call) led(runners []api.Status) {
	for i := range runners {
		switch v := &runners[i]; {
		case !v.Leader && v.LeaderKnown:
			c.out.line("%s: this process stands by, ask the leader: %s", v.Runner, v.LeaderDetail)
		case !v.Leader:
			c.out.line("%s: no process leads%s", v.Runner, strings.TrimSuffix(": "+api.Plain(v.LeaderDetail), ": "))
		}
	}
}

// rest says what the page does not show.
func (c *call) rest(r api.Rest) {
	if r.More > 0 {
		c.out.line("%d more: --offset %d", r.More, r.Next)
	}
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
		unknown := v.JobsUnknown > 0
		waiting, running, failed := jobs(v.Jobs, unknown)
		if !v.Leader && v.Jobs == (api.JobCounts{}) {
			waiting, running, failed = "-", "-", "-"
		}
		oldest := age(v.OldestPending, unknown)
		if v.DatabaseChannels != nil {
			running += fmt.Sprintf(" of %d", v.DatabaseChannels.MaxCapacity)
		}
		served := "-" // only the leader knows
		if v.Leader {
			served = fmt.Sprintf("%d of %d", v.Served, v.Expected)
		}
		t.row(v.Runner, strings.ReplaceAll(v.State, "_", " "), leaderWord(v), served, fmt.Sprintf("%d of %d", up, len(v.Upstreams)),
			waiting, running, failed, oldest, strconv.Itoa(len(v.Pauses)))
	}
	if len(runners) > 0 {
		t.upright()
	}
	for i := range runners {
		v := &runners[i]
		ends := make(map[string]string, len(v.Pauses))
		for j := range v.Pauses {
			order := v.Pauses[j].Order()
			ends[pauseSubject(&v.Pauses[j])+" is "+order.String()] = "; to end that: " + resume(v.Runner, &v.Pauses[j])
		}
		for _, p := range slices.Concat(v.Problems, v.Warnings) {
			c.out.line("%s: %s", v.Runner, c.aged(api.Plain(p))+ends[p])
		}
		for j := range v.Burning {
			o := &v.Burning[j]
			c.out.line("%s: %s (since %s)", v.Runner, api.Plain(o.Text), c.aged(written(o.Since)))
		}
		c.orders(v)
		if v.State == api.NotReady {
			c.out.line("%s: for a thorough check, run: caddy jobrunner doctor", v.Runner)
		}
	}
	if len(runners) == 0 {
		c.out.line("no runner is configured")
	}
}

// ordersShown bounds the pauses, and the drains, that status lists: there can be a thousand.
const ordersShown = 20

// orders lists pauses and drains, apart from those that a warning has told of.
func (c *call) orders(v *api.Status) {
	var lines []string
	for _, p := range v.Pauses {
		order := p.Order()
		if text := pauseSubject(&p) + " is " + order.String(); !slices.Contains(v.Warnings, text) {
			lines = append(lines, text+"; to end that: "+resume(v.Runner, &p))
		}
	}
	c.some(v.Runner, lines)
	lines = nil
	for _, d := range v.Drains {
		lines = append(lines, fmt.Sprintf("Odoo server %s is drained by %s since %s; to end that: %s", d.Upstream, d.By, written(d.Since), undrain(v.Runner, d.Upstream)))
	}
	c.some(v.Runner, lines)
}

// some prints the first lines, and how many there are besides.
func (c *call) some(runner string, lines []string) {
	for _, line := range lines[:min(len(lines), ordersShown)] {
		c.out.line("%s: %s", runner, c.aged(line))
	}
	if more := len(lines) - ordersShown; more > 0 {
		c.out.line("%s: %d more like these, --json lists all", runner, more)
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

// stamp is a time as the API writes it.
var stamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// aged puts beside each time in a text how long ago it was, or how soon it is.
func (c *call) aged(text string) string {
	return stamp.ReplaceAllStringFunc(text, func(s string) string {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return s
		}
		if left := at.Sub(c.now()).Round(time.Second).Seconds(); left > 0 {
			return s + " (in " + seconds(&left) + ")"
		}
		return s + " (" + ago(c.now(), at) + " ago)"
	})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// seconds writes an age as people do: 4.2s, 12m10s, 5h3m, 3d4h.
func seconds(s *float64) string {
	if s == nil {
		return "-"
	}
	d := time.Duration(*s * float64(time.Second))
	if d = d.Round(100 * time.Millisecond); d >= 10*time.Second {
		d = d.Round(time.Second)
	}
	switch {
	case d < time.Minute:
		return d.String()
	case d < time.Hour:
		return pair(d, time.Minute, "m", time.Second, "s")
	case d < 48*time.Hour:
		return pair(d, time.Hour, "h", time.Minute, "m")
	}
	return pair(d, 24*time.Hour, "d", time.Hour, "h")
}

// lasted writes how long something took, as seconds does; below a second, in milliseconds.
func lasted(s *float64) string {
	if s == nil || *s <= 0 || *s >= 1 {
		return seconds(s)
	}
	if d := time.Duration(*s * float64(time.Second)).Round(time.Millisecond); d > 0 {
		return d.String()
	}
	return "<1ms"
}

// pair writes a duration in two units, of which the second is left out when it is 0.
func pair(d, large time.Duration, letter string, small time.Duration, other string) string {
	text := strconv.Itoa(int(d/large)) + letter
	if rest := int(d % large / small); rest > 0 {
		text += strconv.Itoa(rest) + other
	}
	return text
}

// jobs writes the counts of jobs. Where some are unknown, 0 is not a number of them.
func jobs(n api.JobCounts, unknown bool) (waiting, running, failed string) {
	return count(n.Pending, unknown), count(n.Enqueued+n.Started, unknown), count(n.Failed, unknown)
}

// count writes a number to which an unknown one may have to be added.
func count(n int, unknown bool) string {
	switch {
	case !unknown:
		return strconv.Itoa(n)
	case n == 0:
		return "unknown"
	}
	return fmt.Sprintf("%d or more", n)
}

// age writes the age of the oldest job that waits, of those that are known.
func age(oldest *float64, unknown bool) string {
	if oldest == nil && unknown {
		return "unknown"
	}
	return seconds(oldest)
}

func (c *call) databases() (int, error) {
	q, err := c.page()
	if err != nil {
		return 1, err
	}
	if q.States, err = c.flags.GetStringSlice("state"); err != nil {
		return 1, err
	}
	doc, err := c.api.Databases(c.ctx, q)
	if err != nil || c.json() {
		return 0, err
	}
	list := doc.Databases
	t := c.out.table(c.runnerCells(several(list, func(v *api.Database) string { return v.Runner }), "RUNNER",
		"DATABASE", "STATE", "WAITING", "RUNNING", "FAILED", "PAUSED", "HEARD", "ADD-ON", "CAUSE")...)
	for i := range list {
		v := &list[i]
		cause := api.Plain(cmp.Or(v.Cause, v.Detail))
		if cause == "" && v.Health != "healthy" {
			cause = v.Description
		}
		waiting, running, failed := jobs(v.Jobs, v.JobsUnknown)
		t.row(c.runnerCells(t.runners, v.Runner, v.Database, v.State, waiting, running, failed, yes(v.Pause != nil), seconds(v.HeardAge), v.Generation, c.aged(cause))...)
	}
	c.list(t, "no database")
	c.rest(doc.Rest)
	return 0, nil
}

// several reports whether a list is about more than one runner.
func several[T any](list []T, runner func(*T) string) bool {
	return slices.ContainsFunc(list, func(v T) bool { return runner(&v) != runner(&list[0]) })
}

// runnerCells puts the runner before other cells, if there are several runners.
func (c *call) runnerCells(several bool, runner string, others ...string) []string {
	if several || c.wide() {
		return append([]string{runner}, others...)
	}
	return others
}

func (c *call) channels() (int, error) {
	q, err := c.page()
	if err != nil {
		return 1, err
	}
	doc, err := c.api.Channels(c.ctx, q)
	if err != nil || c.json() {
		return 0, err
	}
	list := doc.Channels
	c.list(c.channelTable(list), "no channel")
	for i := range list {
		c.usedUp(&list[i])
	}
	// A process that does not lead knows its configured channels, and of no job: its zeros mean nothing.
	if len(list) > 0 && !slices.ContainsFunc(list, func(v api.Channel) bool { return v.Running+v.Queued+v.Held+v.Failed > 0 }) {
		c.elsewhere()
	}
	c.rest(doc.Rest)
	return 0, nil
}

func (c *call) channelTable(list []api.Channel) *table {
	// The column of databases is there if one has its own tree.
	own := slices.ContainsFunc(list, func(v api.Channel) bool { return v.Database != "" })
	runners := several(list, func(v *api.Channel) string { return v.Runner })
	cells := func(runner, database string, others ...string) []string {
		if own {
			others = append([]string{database}, others...)
		}
		return c.runnerCells(runners, runner, others...)
	}
	t := c.out.table(cells("RUNNER", "DATABASE", "CHANNEL", "CAPACITY", "RUNNING", "WAITING", "FAILED", "OLDEST", "PAUSED", "OPTIONS")...)
	for i := range list {
		v := &list[i]
		capacity, options := limitsOf(v)
		t.row(cells(v.Runner, v.Database, v.Channel, capacity, strconv.Itoa(v.Running),
			count(v.Queued+v.Held, v.JobsUnknown), strconv.Itoa(v.Failed), age(v.OldestPending, v.JobsUnknown), yes(v.Paused), strings.Join(options, ", "))...)
	}
	return t
}

// usedUp says when a rate that keeps jobs of a channel waiting lets the next one start. It is a line below
// the table, because a column would cut it.
func (c *call) usedUp(v *api.Channel) {
	name := strings.TrimPrefix(v.Database+", ", ", ") + v.Channel
	if v.Rate != nil && v.Rate.Available == 0 && v.Queued > 0 && !v.Rate.Next.IsZero() {
		c.out.line("%s: rate %s is used up, and the next job starts not before %s", name, v.Rate.Line, c.aged(written(v.Rate.Next)))
	}
	if v.RateWaits > 0 && !v.RateNext.IsZero() {
		c.out.line("%s: the rates of databases are used up, and the next job starts not before %s", name, c.aged(written(v.RateNext)))
	}
}

// limitsOf writes how many jobs of a channel may run at once, and what else decides when they do.
func limitsOf(v *api.Channel) (capacity string, options []string) {
	capacity = strconv.Itoa(v.Capacity)
	if v.Capacity == 0 {
		capacity = "∞"
	}
	if v.Auto {
		options = append(options, "auto")
	}
	if v.Percent > 0 {
		options = append(options, fmt.Sprintf("%d%%", v.Percent))
	}
	if v.Min > 0 {
		options = append(options, fmt.Sprintf("min %d", v.Min))
	}
	if v.Window != nil {
		capacity = strconv.Itoa(v.Window.Capacity)
		options = append(options, "window "+v.Window.Line)
	}
	if v.Rate != nil {
		options = append(options, "rate "+v.Rate.Line)
	}
	if v.RateWaits > 0 {
		options = append(options, fmt.Sprintf("databases that wait for a rate: %d", v.RateWaits))
	}
	if v.Sequential {
		options = append(options, "sequential")
	}
	if v.Sequential && v.Failed > 0 {
		options = append(options, "stopped by a failed job")
	}
	if v.Held > 0 {
		options = append(options, fmt.Sprintf("%d wait for their database", v.Held))
	}
	if v.PassedBy > 0 {
		options = append(options, fmt.Sprintf("%d passed by others", v.PassedBy))
	}
	if v.Throttle > 0 {
		options = append(options, "throttle "+seconds(&v.Throttle))
	}
	return capacity, options
}

func (c *call) upstreams() (int, error) {
	list, err := c.api.Upstreams(c.ctx, c.runner)
	if err != nil || c.json() {
		return 0, err
	}
	limited := slices.ContainsFunc(list, func(v api.Upstream) bool { return v.Workers+v.MaxJobs > 0 })
	pooled := slices.ContainsFunc(list, func(v api.Upstream) bool { return v.Pool != "" })
	columns := []string{"SERVER", "UP", "JOBS"}
	if pooled {
		columns = slices.Insert(columns, 1, "POOL")
	}
	if limited {
		columns = append(columns, "MAX JOBS", "VISITORS", "WORKERS", "RESERVE")
	}
	columns = append(columns, "DRAINED", "SAFE TO STOP", "REASON")
	t := c.out.table(c.runnerCells(several(list, func(v *api.Upstream) string { return v.Runner }), "RUNNER",
		columns...)...)
	for i := range list {
		v := &list[i]
		cells := []string{v.Upstream, yes(v.Up), strconv.Itoa(v.InFlight)}
		if pooled {
			cells = slices.Insert(cells, 1, v.Pool)
		}
		if limited {
			cells = append(cells, number(v.MaxJobs), visitors(v), number(v.Workers), number(v.Reserve))
		}
		cells = append(cells, yes(v.Drain != nil), yes(v.SafeToStop), api.Plain(cmp.Or(v.Reason, v.Full)))
		t.row(c.runnerCells(t.runners, v.Runner, cells...)...)
	}
	c.list(t, "no Odoo server is known")
	return 0, nil
}

// number is a limit in a table; there is none if it is 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// visitors is how many requests of others a server has, if that is known.
func visitors(v *api.Upstream) string {
	if v.Visitors == nil {
		return "?"
	}
	return strconv.Itoa(*v.Visitors)
}

func (c *call) tasks() (int, error) {
	q, err := c.page()
	if err != nil {
		return 1, err
	}
	doc, err := c.api.Tasks(c.ctx, q)
	if err != nil || c.json() {
		return 0, err
	}
	c.list(c.taskTable(doc.Tasks), "no job runs")
	c.rest(doc.Rest)
	return 0, nil
}

func (c *call) taskTable(list []api.Task) *table {
	header := []string{"UUID", "AGE", "PHASE", "DATABASE", "CHANNEL", "METHOD", "SERVER"}
	limited := slices.ContainsFunc(list, func(v api.Task) bool { return v.Timeout != nil })
	if limited {
		header = slices.Insert(header, 2, "LIMIT")
	}
	t := c.out.table(c.runnerCells(several(list, func(v *api.Task) string { return v.Runner }), "RUNNER", header...)...)
	for i := range list {
		v := &list[i]
		cells := []string{v.UUID, seconds(v.Age), v.Phase, v.Database, v.Channel, methodName(v.Model, v.Method), v.Upstream}
		if limited {
			cells = slices.Insert(cells, 2, limitStage(v.Timeout))
		}
		t.row(c.runnerCells(t.runners, v.Runner, cells...)...)
	}
	return t
}

// limitStage is how far a job is with its time limit: the limit itself as long as nothing is wrong.
func limitStage(t *api.Timeout) string {
	switch {
	case t == nil:
		return ""
	case t.Stage != "":
		return t.Stage
	}
	return seconds(&t.After)
}

func methodName(model, method string) string { return strings.Trim(model+"."+method, ".") }
