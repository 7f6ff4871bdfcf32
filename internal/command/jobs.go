package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

func jobsCommand() *cobra.Command {
	cmd := sub("jobs", "Lists jobs, the newest first", cobra.NoArgs, (*call).jobs)
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

// filter is what the flags say about which jobs.
func (c *call) filter() (api.JobFilter, error) {
	states, err := c.flags.GetStringSlice("state")
	return api.JobFilter{
		Database: c.text("database"), States: states, Channel: c.text("channel"),
		Exception: c.text("exception"), OlderThan: c.text("older-than"),
	}, err
}

func (c *call) jobs() (int, error) {
	filter, err := c.filter()
	if err != nil {
		return 1, err
	}
	limit := c.flags.Int("limit")
	if limit < 1 {
		return 1, fmt.Errorf("limit %d is not a number from 1 on", limit)
	}
	page, err := c.api.Jobs(c.ctx, api.JobQuery{Runner: c.runner, JobFilter: filter, Cursor: c.text("cursor"), Limit: limit})
	if err != nil || c.json() {
		return 0, err
	}
	t := c.out.table("DATABASE", "UUID", "STATE", "CHANNEL", "CREATED", "RETRY", "METHOD", "EXCEPTION")
	for i := range page.Jobs {
		v := &page.Jobs[i]
		t.row(v.Database, v.UUID, v.State, v.Channel, v.Created.Format(time.RFC3339), fmt.Sprintf("%d/%d", v.Retry, v.MaxRetries),
			methodName(v.Model, v.Method), v.Exception)
	}
	t.print()
	for _, p := range page.Problems {
		c.out.line("%s", p)
	}
	if page.Next != "" {
		c.out.line("more: --cursor %s", page.Next)
	}
	return 0, nil
}

func whyCommand() *cobra.Command {
	return sub("why <database> <uuid>", "Says why a job does, or does not, run", cobra.ExactArgs(2), func(c *call) (int, error) {
		v, err := c.api.Job(c.ctx, c.runner, c.args[0], c.args[1])
		if err != nil || c.json() {
			return 0, err
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
		return 0, nil
	})
}
