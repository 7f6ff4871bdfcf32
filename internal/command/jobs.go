package command

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

func jobsCommand() *cobra.Command {
	cmd := sub("jobs", "Lists jobs, the newest first", cobra.NoArgs, (*call).jobs)
	f := cmd.Flags()
	filterFlags(cmd)
	wideFlag(cmd)
	f.Int("limit", 50, "How many to list")
	f.String("uuid", "", "Only jobs whose uuid begins with these letters, at least four")
	f.String("after", "", "Where to go on: what the page before printed")
	f.String("cursor", "", "The same, by its earlier name")
	_ = f.MarkHidden("cursor") // fails only for a flag that does not exist
	return cmd
}

// filterFlags adds the flags that select jobs.
func filterFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("database", "", "Only jobs of this database")
	f.StringSlice("state", nil, "Only jobs in these states: "+strings.Join(stateNames(), ", "))
	f.String("channel", "", "Only jobs of this channel and those below it")
	f.String("exception", "", "Only jobs that failed with this exception")
	f.String("function", "", "Only jobs that call this model.method, or this model, or this method")
	f.String("name", "", "Only jobs whose description has this in it, in any case of letters")
	f.String("identity", "", "Only jobs with this identity key")
	f.String("older-than", "", "Only jobs that were created longer ago, for example 2h or 3d")
	f.String("newer-than", "", "Only jobs that were created since then, for example 2h or 3d")
	_ = cmd.RegisterFlagCompletionFunc("state", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return stateNames(), cobra.ShellCompDirectiveNoFileComp
	}) // fails only for a flag that does not exist
}

// filter is what the flags say about which jobs.
func (c *call) filter() (api.JobFilter, error) {
	states, err := c.flags.GetStringSlice("state")
	return api.JobFilter{
		Database: c.text("database"), States: states, Channel: c.text("channel"),
		Exception: c.text("exception"), OlderThan: c.text("older-than"), NewerThan: c.text("newer-than"),
		Function: c.text("function"), Name: c.text("name"), Identity: c.text("identity"),
	}, err
}

func (c *call) jobs() (int, error) {
	filter, err := c.filter()
	if err != nil {
		return 1, err
	}
	if err := c.durations("older-than", "newer-than"); err != nil {
		return 1, err
	}
	limit := c.flags.Int("limit")
	if limit < 1 {
		return 1, fmt.Errorf("limit %d is not a number from 1 on", limit)
	}
	page, err := c.api.Jobs(c.ctx, api.JobQuery{Runner: c.runner, JobFilter: filter, UUID: c.text("uuid"), Cursor: cmp.Or(c.text("after"), c.text("cursor")), Limit: limit})
	if err != nil || c.json() {
		return 0, err
	}
	now := c.now()
	t := c.out.table(c.runnerCells(several(page.Jobs, func(v *api.Job) string { return v.Runner }), "RUNNER",
		"UUID", "STATE", "AGE", "DATABASE", "CHANNEL", "METHOD", "EXCEPTION", "RETRY", "CREATED", "NAME")...)
	for i := range page.Jobs {
		v := &page.Jobs[i]
		t.row(c.runnerCells(t.runners, v.Runner, v.UUID, v.State, ago(now, v.Created), v.Database, v.Channel,
			methodName(v.Model, v.Method), v.Exception, attempts(v.Retry, v.MaxRetries, "/"), written(v.Created), v.Name)...)
	}
	switch {
	case len(page.Jobs) > 0:
		t.print()
	case page.Next != "":
		c.out.line("no such job so far")
	case len(page.Problems) == 0:
		c.out.line("no such job")
	}
	c.warn(page.Warning)
	if page.Next != "" {
		c.out.line("more: --after %s", page.Next)
	}
	if page.Partial {
		c.out.line("the time was over before the page was full; still to be searched: %s", databasesLeft(page.Left))
	}
	if len(page.Problems) == 0 {
		return 0, nil
	}
	for _, p := range alike(page.Problems) {
		c.out.line("not read: %s", api.Plain(p))
	}
	return 1, errors.New("the jobs of some databases could not be read")
}

// databasesLeft counts databases that have not been searched to their end.
func databasesLeft(n int) string {
	if n == 1 {
		return "a part of one database"
	}
	return fmt.Sprintf("%d databases", n)
}

// written is a time, "-" for none.
func written(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.UTC().Truncate(time.Second).Format(time.RFC3339)
}

// ago is the age of something that happened at a time.
func ago(now, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return seconds(new(max(0, now.Sub(at).Round(time.Second).Seconds())))
}

// alike puts the problems of several databases together that have the same cause.
func alike(problems []string) []string {
	names := make(map[string][]string)
	var causes []string
	for _, p := range problems {
		name, cause, _ := strings.Cut(p, ": ")
		cause = strings.ReplaceAll(cause, "database="+name+"`", "database=...`")
		cause = strings.ReplaceAll(cause, "connect to "+name+":", "connect:")
		if names[cause] == nil {
			causes = append(causes, cause)
		}
		names[cause] = append(names[cause], name)
	}
	var out []string
	for _, cause := range causes {
		who := strings.Join(names[cause][:min(3, len(names[cause]))], ", ")
		if more := len(names[cause]) - 3; more > 0 {
			who += fmt.Sprintf(" and %d more", more)
		}
		out = append(out, who+": "+cause)
	}
	return out
}

// attempts says how many attempts of how many a job has had. One whose max_retries are 0 has no limit.
func attempts(retry, most int32, of string) string {
	if most == 0 {
		return strconv.Itoa(int(retry))
	}
	return fmt.Sprintf("%d%s%d", retry, of, most)
}

func whyCommand() *cobra.Command {
	cmd := sub("why [<database>] <uuid>", "Says why a job does, or does not, run", cobra.RangeArgs(1, 2), (*call).why)
	cmd.ValidArgsFunction = offerDatabaseFirst
	return cmd
}

func (c *call) why() (int, error) {
	database, uuid := "", c.args[len(c.args)-1]
	if len(c.args) > 1 {
		database = c.args[0]
	}
	v, err := c.asked()
	if err != nil || c.json() {
		return 0, err
	}
	if database != v.Database || uuid != v.UUID {
		c.out.line("job %s in database %s:", v.UUID, v.Database)
	}
	c.out.line("%s", c.aged(api.Plain(v.Text)))
	if what := remedy(&v); what != "" {
		c.out.line("%s", what)
	}
	if v.Job != nil {
		line := fmt.Sprintf("state %s, channel %s, priority %d, attempt %s", v.Job.State, v.Job.Channel, v.Job.Priority,
			attempts(v.Job.Retry, v.Job.MaxRetries, " of "))
		if name := methodName(v.Job.Model, v.Job.Method); name != "" {
			line += ", " + name
		}
		c.out.line("%s", line)
		if !v.Job.Created.IsZero() {
			c.out.line("created %s", c.aged(written(v.Job.Created)))
		}
	}
	if v.Problem != "" {
		c.out.line("the row could not be read: %s", api.Plain(v.Problem))
	}
	return 0, nil
}
