package command

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

func jobCommand() *cobra.Command {
	cmd := sub("job [<database>] <uuid>", "Shows all that is known of one job", cobra.RangeArgs(1, 2), (*call).job)
	wideFlag(cmd)
	cmd.ValidArgsFunction = offerDatabaseFirst
	return cmd
}

// offerDatabaseFirst completes the database of a command that takes one before a uuid.
func offerDatabaseFirst(cmd *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return offer(databaseNames)(cmd, args, text)
}

func (c *call) job() (int, error) {
	v, err := c.asked()
	if err != nil || c.json() {
		return 0, err
	}
	c.out.line("job %s in database %s", v.UUID, v.Database)
	c.out.line("%s", c.aged(api.Plain(v.Text)))
	if what := remedy(&v); what != "" {
		c.out.line("%s", what)
	}
	c.facts(jobFacts(&v))
	if v.Problem != "" {
		c.out.line("the row could not be read: %s", api.Plain(v.Problem))
	}
	if v.Record == nil {
		return 0, nil
	}
	c.timeline(v.Record.Timeline)
	c.relatives(v.Record)
	c.payload(v.Record.Payload)
	return 0, nil
}

// asked is the job that the arguments name.
func (c *call) asked() (api.Why, error) {
	database := ""
	if len(c.args) > 1 {
		database = c.args[0]
	}
	return c.api.Job(c.ctx, c.runner, database, c.args[len(c.args)-1])
}

// jobFacts are names and values.
func jobFacts(v *api.Why) (facts [][2]string) {
	add := func(name, value string) {
		if value != "" && value != "0" {
			facts = append(facts, [2]string{name, value})
		}
	}
	if j := v.Job; j != nil {
		add("state", j.State)
		add("calls", methodName(j.Model, j.Method))
		add("name", j.Name)
		add("channel", j.Channel)
		add("priority", strconv.Itoa(int(j.Priority)))
		add("attempts", attempts(j.Retry, j.MaxRetries, " of "))
		add("identity", j.Identity)
	}
	add("server", v.Upstream)
	if v.Job != nil {
		add("exception", v.Job.Exception)
	}
	if r := v.Record; r != nil {
		add("message", oneLine(r.Message))
		if r.Ran > 0 {
			add("ran", lasted(&r.Ran))
		}
		add("company", strconv.FormatInt(r.Company, 10))
		add("user", strconv.FormatInt(r.User, 10))
		add("worker", strconv.FormatInt(r.Worker, 10))
		add("graph", r.Graph)
		add("in Odoo", r.Page)
	}
	return facts
}

// oneLine is a text with what breaks lines replaced.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// facts prints names and values, one below the other.
func (c *call) facts(list [][2]string) {
	width := 0
	for _, f := range list {
		width = max(width, len(f[0]))
	}
	for _, f := range list {
		c.out.line("%-*s  %s", width, f[0], f[1])
	}
}

// timeline prints what happened when.
func (c *call) timeline(list []api.Moment) {
	facts := make([][2]string, len(list))
	for i, m := range list {
		where := ""
		if m.Upstream != "" {
			where = ", on " + m.Upstream
		}
		if m.Detail != "" {
			where += ": " + api.Plain(m.Detail)
		}
		facts[i] = [2]string{m.What, c.aged(written(m.At)) + where}
	}
	c.facts(facts)
}

// relatives prints the jobs of the same graph.
func (c *call) relatives(r *api.Record) {
	if r.RelativesProblem != "" {
		c.out.line("the jobs that it depends on, and that depend on it: %s", r.RelativesProblem)
	}
	if len(r.Relatives) == 0 {
		return
	}
	t := c.out.table("RELATION", "UUID", "STATE", "METHOD")
	for i := range r.Relatives {
		o := &r.Relatives[i]
		t.row(o.Relation, o.UUID, o.State, methodName(o.Model, o.Method))
	}
	t.print()
	if r.More > 0 {
		c.out.line("and %d more", r.More)
	}
}

// payload prints what the option payloads lets people see.
func (c *call) payload(p *api.Payload) {
	if p == nil {
		return
	}
	for _, e := range []struct {
		name string
		text *api.Excerpt
	}{{"records", p.Records}, {"arguments", p.Arguments}, {"keywords", p.Keywords}, {"result", p.Result}, {"traceback", p.Traceback}} {
		if e.text == nil {
			continue
		}
		c.out.line("%s:", e.name)
		for line := range strings.Lines(e.text.Text) {
			c.out.line("  %s", strings.TrimRight(line, "\r\n"))
		}
		if e.text.Bytes > 0 {
			c.out.line("  %s", fmt.Sprintf("... cut: it has %d bytes", e.text.Bytes))
		}
	}
}
