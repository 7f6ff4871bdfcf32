package command

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

func historyCommand() *cobra.Command {
	cmd := sub("history", "Shows what became of the jobs, and how long they waited and ran", cobra.NoArgs, (*call).history)
	f := cmd.Flags()
	wideFlag(cmd)
	f.String("database", "", "Only jobs of this database")
	f.String("channel", "", "Only jobs of this channel and those below it")
	f.String("function", "", "Only jobs whose model and method match this glob, for example sale.order.*")
	f.String("from", "24h", "Since when, a time or a duration back from now")
	f.String("to", "", "Until when, a time or a duration back from now; now if empty")
	f.String("step", "", "Length of an interval, for example 5m, 1h or 24h")
	f.String("by", "function", "What to show a line for: function, channel, database, or the exception of what failed")
	f.Bool("intervals", false, "Show a line for each interval instead")
	f.Bool("csv", false, "Print comma-separated values")
	f.Int("limit", 50, "How many lines to show")
	_ = cmd.RegisterFlagCompletionFunc("by", cobra.FixedCompletions([]string{"function", "channel", "database", "exception"}, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that does not exist
	return cmd
}

// exceptionsAsked is more than an answer has.
const exceptionsAsked = 1000

func (c *call) history() (int, error) {
	limit := c.flags.Int("limit")
	if limit < 1 {
		return 1, fmt.Errorf("limit %d is not a number from 1 on", limit)
	}
	q := api.HistoryQuery{
		Runner: c.runner, Database: c.text("database"), Channel: c.text("channel"), Function: c.text("function"),
		From: c.text("from"), To: c.text("to"), Step: c.text("step"), By: c.text("by"), Limit: limit,
	}
	intervals := c.flags.Bool("intervals")
	if intervals && q.By == "exception" {
		q.Limit = max(limit, exceptionsAsked) // the limit is that of the lines, and an exception has many
	}
	if c.flags.Bool("csv") {
		raw, err := c.quiet.HistoryCSV(c.ctx, q, intervals)
		if err == nil {
			c.out.raw(raw)
		}
		return 0, err
	}
	doc, err := c.api.History(c.ctx, q)
	if err != nil || c.json() {
		return 0, err
	}
	switch {
	case doc.By == "exception" && len(doc.Exceptions) == 0:
		c.out.line("no job has failed between %s and %s", written(doc.From), written(doc.To))
	case doc.By == "exception" && intervals:
		c.historyFailures(&doc, limit)
	case doc.By == "exception":
		c.historyExceptions(&doc)
	case intervals:
		c.historyIntervals(&doc, limit)
	default:
		c.historyGroups(&doc)
	}
	c.warn(doc.Warning)
	c.historyRemarks(&doc)
	return 0, nil
}

// historyCells are the columns that all tables of the history have; historyHeader names them.
func historyCells(s *api.HistorySums) []string {
	return []string{
		strconv.FormatUint(s.Attempts, 10), strconv.FormatUint(s.Failed, 10), strconv.FormatUint(s.Retried, 10),
		strconv.FormatUint(s.NotRun+s.Rescued, 10), lasted(s.Wait50), lasted(s.Wait95), lasted(s.Run50), lasted(s.Run95),
		lasted(s.RunMost), lasted(&s.Run),
	}
}

var historyHeader = []string{"ATTEMPTS", "FAILED", "RETRIED", "PUT BACK", "WAIT P50", "WAIT P95", "RUN P50", "RUN P95", "LONGEST", "TIME"}

// named is a name, or what stands for one that the database does not tell.
func named(name string) string { return cmp.Or(name, "(unknown)") }

func (c *call) historyGroups(doc *api.History) {
	column := map[string]string{"channel": "CHANNEL", "database": "DATABASE"}[doc.By]
	if column == "" {
		column = "METHOD"
	}
	t := c.out.table(append([]string{column}, historyHeader...)...)
	for i := range doc.Groups {
		g := &doc.Groups[i]
		t.row(append([]string{named(g.Name)}, historyCells(&g.HistorySums)...)...)
	}
	if len(doc.Groups) == 0 {
		c.out.line("no job has ended between %s and %s", written(doc.From), written(doc.To))
		return
	}
	t.print()
	if doc.More > 0 {
		c.out.line("%d more: --limit %d", doc.More, len(doc.Groups)+doc.More)
	}
}

// historyExceptions shows how many jobs failed with which exception, and in which intervals the first
// and the last.
func (c *call) historyExceptions(doc *api.History) {
	t := c.out.table("EXCEPTION", "FAILED", "FIRST", "LAST")
	for i := range doc.Exceptions {
		e := &doc.Exceptions[i]
		first, last := "", ""
		if n := len(e.Counts); n > 0 {
			first, last = written(e.Counts[0].Begin), written(e.Counts[n-1].Begin)
		}
		t.row(named(e.Name), strconv.FormatUint(e.Failed, 10), first, last)
	}
	t.print()
	if doc.MoreExceptions > 0 {
		c.out.line("%d more: --limit %d", doc.MoreExceptions, len(doc.Exceptions)+doc.MoreExceptions)
	}
}

// historyFailures shows the last intervals in which jobs failed, the newest first.
func (c *call) historyFailures(doc *api.History, limit int) {
	type failures struct {
		begin  time.Time
		failed uint64
		name   string
	}
	var list []failures
	for i := range doc.Exceptions {
		for _, n := range doc.Exceptions[i].Counts {
			list = append(list, failures{n.Begin, n.Failed, named(doc.Exceptions[i].Name)})
		}
	}
	slices.SortStableFunc(list, func(a, b failures) int { return b.begin.Compare(a.begin) })
	t := c.out.table("INTERVAL", "FAILED", "EXCEPTION")
	for _, f := range list[:min(len(list), limit)] {
		t.row(written(f.begin), strconv.FormatUint(f.failed, 10), f.name)
	}
	t.print()
	c.before(len(list), limit)
}

// historyIntervals shows the last intervals, the newest first.
func (c *call) historyIntervals(doc *api.History, limit int) {
	t := c.out.table(append([]string{"INTERVAL"}, historyHeader...)...)
	list := slices.Clone(doc.Intervals)
	slices.Reverse(list)
	for i := range list[:min(len(list), limit)] {
		t.row(append([]string{written(list[i].Begin)}, historyCells(&list[i].HistorySums)...)...)
	}
	t.print()
	c.before(len(list), limit)
}

// before says how many intervals are not shown.
func (c *call) before(intervals, limit int) {
	if more := intervals - limit; more > 0 {
		c.out.line("%d more before: --limit %d, or a longer --step", more, intervals)
	}
}

// historyRemarks says what is not in the table.
func (c *call) historyRemarks(doc *api.History) {
	switch {
	case doc.Known.IsZero():
		c.out.line("%s: there is no history yet", doc.Runner)
	case doc.Known.After(doc.From):
		c.out.line("%s: the history begins %s", doc.Runner, c.aged(written(doc.Known)))
	}
	if !doc.Leader {
		c.out.line("%s: this process stands by, and has the history of the time in which it led; ask the leader: %s", doc.Runner, doc.LeaderDetail)
	}
	for i := range doc.Objectives {
		if o := &doc.Objectives[i]; o.Attempts > 0 {
			kept := 100 * (1 - float64(o.Late)/float64(o.Attempts))
			now := ""
			if o.Burns {
				now = "; it is not kept now"
			}
			c.out.line("%s: %s, since this Caddy started: %.1f%% of %d jobs waited no longer than %s, the objective is %.0f%%%s", doc.Runner, o.Policy, kept,
				o.Attempts, lasted(&o.Wait), 100*o.Target, now)
		}
	}
	if doc.Folded > 0 {
		c.out.line(`%s: %d attempts are under "other", because their databases have too many channels or functions`, doc.Runner, doc.Folded)
	}
	if doc.Lost > 0 {
		c.out.line("%s: %d attempts could not be kept", doc.Runner, doc.Lost)
	}
	if doc.UnreadableIntervals > 0 {
		c.out.line("%s: %d intervals cannot be read", doc.Runner, doc.UnreadableIntervals)
	}
	if doc.Problem != "" {
		c.out.line("%s: the file of the history cannot be used now: %s", doc.Runner, doc.Problem)
	}
	if doc.PutAside != "" {
		c.out.line("%s: a file of the history that could not be used was put aside: %s", doc.Runner, doc.PutAside)
	}
}
