package jobrunner

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
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
		sub("status", "Shows whether the runners can do their work", cobra.NoArgs, func(c *client) (int, error) { return c.watch((*client).status) }),
		sub("databases", "Lists the databases", cobra.NoArgs, func(c *client) (int, error) { return c.watch((*client).databases) }),
		sub("channels", "Lists the channels", cobra.NoArgs, func(c *client) (int, error) { return c.watch((*client).channels) }),
		sub("upstreams", "Lists the Odoo servers", cobra.NoArgs, func(c *client) (int, error) { return c.watch((*client).upstreams) }),
		sub("tasks", "Lists the jobs that run", cobra.NoArgs, func(c *client) (int, error) { return c.watch((*client).tasks) }),
	}
	for _, cmd := range cmds {
		cmd.Flags().BoolP("watch", "w", false, "Show it again and again, until interrupted")
		cmd.Flags().Duration("interval", 2*time.Second, "Time between two looks with --watch")
	}
	return cmds
}

// watch shows something once or, with --watch, until that fails.
func (c *client) watch(show func(*client) (int, error)) (int, error) {
	if !c.flags.Bool("watch") {
		return show(c)
	}
	for {
		c.out.clear()
		if code, err := show(c); err != nil {
			return code, err
		}
		if err := c.out.flush(); err != nil {
			return 1, err
		}
		time.Sleep(max(c.flags.Duration("interval"), 100*time.Millisecond))
	}
}

func (c *client) status() (int, error) {
	var doc api.Statuses
	printed, err := c.call(http.MethodGet, "status", c.query(), nil, &doc)
	if err != nil {
		return exit(err)
	}
	code := 0
	if len(doc.Runners) == 0 {
		code = exitNotReady
	}
	t := c.out.table("RUNNER", "READY", "LEADER", "DATABASES", "UPSTREAMS", "PENDING", "RUNNING", "FAILED", "OLDEST", "PAUSES")
	for i := range doc.Runners {
		v := &doc.Runners[i]
		if !v.Ready {
			code = exitNotReady
		}
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
		t.row(v.Runner, yes(v.Ready), leaderWord(v), countWords(v.Databases), fmt.Sprintf("%d of %d", up, len(v.Upstreams)),
			strconv.Itoa(v.Jobs.Pending), running, strconv.Itoa(v.Jobs.Failed),
			seconds(v.OldestPending), strconv.Itoa(len(v.Pauses)))
	}
	if printed {
		return code, c.out.flush()
	}
	t.print()
	for i := range doc.Runners {
		v := &doc.Runners[i]
		for _, p := range slices.Concat(v.Problems, v.Warnings) {
			c.out.line("%s: %s", v.Runner, p)
		}
		for _, p := range v.Pauses {
			order := p.Order()
			c.out.line("%s: %s is %s", v.Runner, pauseSubject(&p), &order)
		}
		for _, d := range v.Drains {
			c.out.line("%s: upstream %s is drained by %s", v.Runner, d.Upstream, d.By)
		}
	}
	if len(doc.Runners) == 0 {
		c.out.line("no runner is configured")
	}
	return code, c.out.flush()
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
		return v.LeaderDetail
	}
	return "unknown"
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// countWords writes "2 ready, 1 held".
func countWords(counts map[string]int) string {
	var words []string
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d %s", counts[word], word))
	}
	return strings.Join(words, ", ")
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

func (c *client) databases() (int, error) {
	var doc api.Databases
	printed, err := c.call(http.MethodGet, "databases", c.query(), nil, &doc)
	if err != nil || printed {
		return exit(errOr(err, c.out.flush))
	}
	t := c.out.table("DATABASE", "STATE", "GENERATION", "PENDING", "RUNNING", "FAILED", "HEARD", "PAUSED", "DETAIL")
	for i := range doc.Databases {
		v := &doc.Databases[i]
		detail := v.Detail
		if detail == "" && v.Health != "healthy" {
			detail = v.Description
		}
		t.row(v.Database, v.State, v.Generation, strconv.Itoa(v.Jobs.Pending), strconv.Itoa(v.Jobs.Enqueued+v.Jobs.Started),
			strconv.Itoa(v.Jobs.Failed), seconds(v.HeardAge), yes(v.Pause != nil), detail)
	}
	t.print()
	return exit(c.out.flush())
}

// errOr returns err, or what f returns.
func errOr(err error, f func() error) error {
	if err != nil {
		return err
	}
	return f()
}

func (c *client) channels() (int, error) {
	var doc api.Channels
	printed, err := c.call(http.MethodGet, "channels", c.query(), nil, &doc)
	if err != nil || printed {
		return exit(errOr(err, c.out.flush))
	}
	// The column of databases is there if one has a tree of its own.
	own := slices.ContainsFunc(doc.Channels, func(v api.Channel) bool { return v.Database != "" })
	cells := func(database string, others ...string) []string {
		if own {
			return append([]string{database}, others...)
		}
		return others
	}
	t := c.out.table(cells("DATABASE", "CHANNEL", "CAPACITY", "RUNNING", "QUEUED", "FAILED", "OLDEST", "PAUSED", "OPTIONS")...)
	for i := range doc.Channels {
		v := &doc.Channels[i]
		capacity := strconv.Itoa(v.Capacity)
		if v.Capacity == 0 {
			capacity = "∞"
		}
		var options []string
		if v.Sequential {
			options = append(options, "sequential")
		}
		if v.Throttle > 0 {
			options = append(options, "throttle "+seconds(&v.Throttle))
		}
		t.row(cells(v.Database, v.Channel, capacity, strconv.Itoa(v.Running), strconv.Itoa(v.Queued), strconv.Itoa(v.Failed),
			seconds(v.OldestPending), yes(v.Paused), strings.Join(options, ", "))...)
	}
	t.print()
	return exit(c.out.flush())
}

func (c *client) upstreams() (int, error) {
	var doc api.Upstreams
	printed, err := c.call(http.MethodGet, "upstreams", c.query(), nil, &doc)
	if err != nil || printed {
		return exit(errOr(err, c.out.flush))
	}
	c.upstreamTable(doc.Upstreams)
	return exit(c.out.flush())
}

func (c *client) upstreamTable(views []api.Upstream) {
	t := c.out.table("UPSTREAM", "UP", "JOBS", "DRAINED", "SAFE TO STOP", "REASON")
	for i := range views {
		v := &views[i]
		t.row(v.Upstream, yes(v.Up), strconv.Itoa(v.InFlight), yes(v.Drain != nil), yes(v.SafeToStop), v.Reason)
	}
	t.print()
}

func (c *client) tasks() (int, error) {
	var doc api.Tasks
	printed, err := c.call(http.MethodGet, "tasks", c.query(), nil, &doc)
	if err != nil || printed {
		return exit(errOr(err, c.out.flush))
	}
	t := c.out.table("AGE", "PHASE", "DATABASE", "UUID", "CHANNEL", "UPSTREAM", "METHOD")
	for i := range doc.Tasks {
		v := &doc.Tasks[i]
		t.row(seconds(v.Age), v.Phase, v.Database, v.UUID, v.Channel, v.Upstream, methodName(v.Model, v.Method))
	}
	t.print()
	return exit(c.out.flush())
}

func methodName(model, method string) string { return strings.Trim(model+"."+method, ".") }

func jobsCommand() *cobra.Command {
	cmd := sub("jobs", "Lists jobs, the newest first", cobra.NoArgs, (*client).jobs)
	f := cmd.Flags()
	filterFlags(cmd)
	f.Int("limit", 50, "How many to list")
	f.String("cursor", "", "Where to go on: what the page before printed")
	return cmd
}

// filterFlags adds the flags that select jobs.
func filterFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("database", "", "Only jobs of this database")
	f.StringSlice("state", nil, "Only jobs in these states")
	f.String("channel", "", "Only jobs of this channel and those below it")
	f.String("exception", "", "Only jobs that failed with this exception")
	f.String("older-than", "", "Only jobs that were created longer ago, for example 2h or 3d")
	_ = cmd.RegisterFlagCompletionFunc("state", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return stateNames(), cobra.ShellCompDirectiveNoFileComp
	}) // fails only for a flag that does not exist
}

func (c *client) jobs() (int, error) {
	q := c.query()
	for flag, name := range map[string]string{
		"database": "database", "channel": "channel", "exception": "exception", "older-than": "older_than", "cursor": "cursor", "limit": "limit",
	} {
		if v := c.flags.Lookup(flag).Value.String(); v != "" {
			q.Set(name, v)
		}
	}
	states, err := c.flags.GetStringSlice("state")
	if err != nil {
		return 1, err
	}
	for _, s := range states {
		q.Add("state", s)
	}
	var doc api.JobPage
	printed, err := c.call(http.MethodGet, "jobs", q, nil, &doc)
	if err != nil || printed {
		return exit(errOr(err, c.out.flush))
	}
	t := c.out.table("DATABASE", "UUID", "STATE", "CHANNEL", "CREATED", "RETRY", "METHOD", "EXCEPTION")
	for i := range doc.Jobs {
		v := &doc.Jobs[i]
		t.row(v.Database, v.UUID, v.State, v.Channel, v.Created.Format(time.RFC3339), fmt.Sprintf("%d/%d", v.Retry, v.MaxRetries),
			methodName(v.Model, v.Method), v.Exception)
	}
	t.print()
	for _, p := range doc.Problems {
		c.out.line("%s", p)
	}
	if doc.Next != "" {
		c.out.line("more: --cursor %s", doc.Next)
	}
	return exit(c.out.flush())
}

func whyCommand() *cobra.Command {
	return sub("why <database> <uuid>", "Says why a job does, or does not, run", cobra.ExactArgs(2), func(c *client) (int, error) {
		var v api.Why
		path := "jobs/" + url.PathEscape(c.args[0]) + "/" + url.PathEscape(c.args[1])
		printed, err := c.call(http.MethodGet, path, c.query(), nil, &v)
		if err != nil || printed {
			return exit(errOr(err, c.out.flush))
		}
		c.out.line("%s", v.Text)
		if v.Job != nil {
			line := fmt.Sprintf("state %s, channel %s, priority %d, attempt %d of %d", v.Job.State, v.Job.Channel, v.Job.Priority,
				v.Job.Retry, v.Job.MaxRetries)
			if name := methodName(v.Job.Model, v.Job.Method); name != "" {
				line += ", " + name
			}
			c.out.line("%s", line)
		}
		if v.Problem != "" {
			c.out.line("the row could not be read: %s", v.Problem)
		}
		return exit(c.out.flush())
	})
}

func eventsCommand() *cobra.Command {
	cmd := sub("events", "Prints what happens, until interrupted", cobra.NoArgs, (*client).events)
	cmd.Flags().String("database", "", "Only events of this database")
	cmd.Flags().StringSlice("event", nil, "Only events of these kinds")
	return cmd
}

func (c *client) events() (int, error) {
	q := c.query()
	if db := c.flags.String("database"); db != "" {
		q.Set("database", db)
	}
	kinds, err := c.flags.GetStringSlice("event")
	if err != nil {
		return 1, err
	}
	for _, k := range kinds {
		q.Add("event", k)
	}
	for {
		if err := c.eventStream(q); err != nil {
			return exit(err)
		}
		// The configuration was reloaded.
		time.Sleep(time.Second)
	}
}

// eventStream prints events until the stream ends.
func (c *client) eventStream(q url.Values) error {
	res, err := c.open(http.MethodGet, "events", q, nil)
	if err != nil {
		return err
	}
	defer res.Close()
	lines := bufio.NewScanner(res)
	lines.Buffer(nil, bodyLimit)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var ev api.Event
		if err := json.Unmarshal([]byte(data), &ev); err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		if c.json() {
			c.out.raw([]byte(data))
		} else if ev.Event != "end" {
			c.out.line("%s", eventLine(&ev))
		}
		if err := c.out.flush(); err != nil {
			return err
		}
	}
	return nil
}

// eventLine writes an event for people.
func eventLine(ev *api.Event) string {
	words := []string{ev.Time.Local().Format(time.TimeOnly), ev.Event}
	add := func(name, value string) {
		if value != "" && value != "0" {
			words = append(words, name+value)
		}
	}
	add("", ev.Database)
	add("", ev.UUID)
	add("channel=", ev.Channel)
	add("", methodName(ev.Model, ev.Method))
	add("upstream=", ev.Upstream)
	add("outcome=", ev.Outcome)
	add("status=", strconv.Itoa(ev.Status))
	if ev.Wait > 0 {
		add("waited=", seconds(&ev.Wait))
	}
	if ev.Run > 0 {
		add("ran=", seconds(&ev.Run))
	}
	add("count=", strconv.Itoa(ev.Count))
	add("", ev.Detail)
	return strings.Join(words, " ")
}
