package jobrunner

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// controlCommands are the actions on channels, databases, servers and sessions.
func controlCommands() []*cobra.Command {
	pause := sub("pause", "Pauses a channel, a database or everything", cobra.NoArgs, func(c *client) (int, error) { return c.pause("pause") })
	pause.Flags().String("for", "", "End the pause after this time, for example 30m or 2d")
	pause.Flags().String("until", "", "End the pause at this time (RFC 3339)")
	resume := sub("resume", "Ends a pause", cobra.NoArgs, func(c *client) (int, error) { return c.pause("resume") })
	for _, cmd := range []*cobra.Command{pause, resume} {
		cmd.Flags().String("channel", "", "The channel, with those below it")
		cmd.Flags().String("database", "", "The database")
		cmd.Flags().Bool("all", false, "Everything")
	}
	drain := sub("drain <upstream>", "Sends no new jobs to an Odoo server, so that it can be stopped", cobra.ExactArgs(1), (*client).drain)
	drain.Flags().Bool("wait", false, "Return when the server can be stopped")
	undrain := sub("undrain <upstream>", "Sends jobs to an Odoo server again", cobra.ExactArgs(1), func(c *client) (int, error) {
		return c.order("undrain", map[string]any{"upstream": c.args[0]})
	})
	resync := sub("resync", "Reads all jobs anew", cobra.NoArgs, (*client).resync)
	resync.Flags().String("database", "", "Only those of this database")
	cmds := []*cobra.Command{pause, resume, drain, undrain, resync}
	for _, cmd := range cmds {
		signFlags(cmd)
	}
	return cmds
}

// signFlags adds the flags by which people sign an action.
func signFlags(cmd *cobra.Command) {
	cmd.Flags().String("note", "", "Why, for others to read")
	cmd.Flags().String("by", "", "Who you are. Default: user and host")
}

// send sends an action.
func (c *client) send(path string, body map[string]any, into any) (printed bool, err error) {
	all := c.action()
	maps.Copy(all, body)
	return c.call(http.MethodPost, path, nil, all, into)
}

// order sends an action that changes what is ordered.
func (c *client) order(path string, body map[string]any) (int, error) {
	var doc api.OrderAnswer
	printed, err := c.send(path, body, &doc)
	if err != nil {
		return exit(err)
	}
	code := 0
	if doc.Changed == 0 {
		code = exitNothing
	}
	if printed {
		return code, c.out.flush()
	}
	switch {
	case doc.Changed == 0:
		c.out.line("nothing was changed")
	case doc.Warning != "":
		c.out.line("%s", doc.Warning)
	default:
		c.out.line("done")
	}
	for _, p := range doc.Pauses {
		pause := p.Order()
		c.out.line("%s is %s", pauseSubject(&p), &pause)
	}
	return code, c.out.flush()
}

func (c *client) pause(path string) (int, error) {
	body := map[string]any{}
	for _, name := range []string{"channel", "database", "for", "until"} {
		if fl := c.flags.Lookup(name); fl != nil && fl.Value.String() != "" {
			body[name] = fl.Value.String()
		}
	}
	if c.flags.Bool("all") {
		body["all"] = true
	}
	return c.order(path, body)
}

// drainInterval is the time between two looks at a server that is drained.
const drainInterval = 500 * time.Millisecond

func (c *client) drain() (int, error) {
	code, err := c.order("drain", map[string]any{"upstream": c.args[0]})
	if err != nil || !c.flags.Bool("wait") {
		return code, err
	}
	for {
		res, err := c.safeToStop(c.args[0])
		if err != nil || res {
			return exit(err)
		}
		time.Sleep(drainInterval)
	}
}

// safeToStop reports whether a server runs no job any more.
func (c *client) safeToStop(upstream string) (bool, error) {
	var doc api.Upstreams
	quiet := *c
	quiet.out = newPrinter(nil)
	if _, err := quiet.call(http.MethodGet, "upstreams", c.query(), nil, &doc); err != nil {
		return false, err
	}
	for _, u := range doc.Upstreams {
		if u.Upstream != upstream {
			continue
		}
		switch {
		case u.Drain == nil:
			return false, fmt.Errorf("upstream %s is not drained any more", upstream)
		case u.SafeToStop:
			if !c.json() {
				c.out.line("%s runs no job any more and can be stopped", upstream)
			}
			return true, c.out.flush()
		}
		return false, nil
	}
	return true, nil
}

func (c *client) resync() (int, error) {
	body := map[string]any{}
	if db := c.flags.String("database"); db != "" {
		body["database"] = db
	}
	var doc api.ResyncAnswer
	printed, err := c.send("resync", body, &doc)
	if err != nil || printed {
		return exit(errOr(err, c.out.flush))
	}
	c.out.line("databases that are read anew: %d", doc.Databases)
	return exit(c.out.flush())
}

// changeCommands are the actions on jobs.
func changeCommands() []*cobra.Command {
	var cmds []*cobra.Command
	for path, short := range map[string]string{
		"requeue":  "Makes failed, cancelled or done jobs pending again",
		"cancel":   "Cancels jobs that wait or failed",
		"set-done": "Marks jobs done that wait or failed",
		"postpone": "Gives pending jobs another eta",
	} {
		cmd := sub(path+" [<uuid>...]", short, cobra.ArbitraryArgs, func(c *client) (int, error) { return c.change(path) })
		filterFlags(cmd)
		signFlags(cmd)
		cmd.Flags().Bool("all", false, "All jobs that this is possible for")
		cmd.Flags().Int("limit", 0, "At most so many jobs; 0 means all that match")
		cmd.Flags().BoolP("dry-run", "n", false, "Change nothing, only count")
		if path == "postpone" {
			cmd.Flags().String("for", "", "Run them after this time, for example 30m or 2d")
			cmd.Flags().String("until", "", "Run them at this time (RFC 3339)")
		}
		cmds = append(cmds, cmd)
	}
	return cmds
}

func (c *client) change(path string) (int, error) {
	body := map[string]any{}
	for flag, name := range map[string]string{
		"database": "database", "channel": "channel", "exception": "exception", "older-than": "older_than", "for": "for", "until": "until",
	} {
		if fl := c.flags.Lookup(flag); fl != nil && fl.Value.String() != "" {
			body[name] = fl.Value.String()
		}
	}
	states, err := c.flags.GetStringSlice("state")
	if err != nil {
		return 1, err
	}
	if len(states) > 0 {
		body["states"] = states
	}
	if len(c.args) > 0 {
		body["uuids"] = c.args
	}
	body["all"], body["dry_run"], body["limit"] = c.flags.Bool("all"), c.flags.Bool("dry-run"), c.flags.Int("limit")
	var doc api.ChangeAnswer
	printed, err := c.send(path, body, &doc)
	if err != nil {
		return exit(err)
	}
	code := 0
	switch {
	case len(doc.Problems) > 0:
		code, err = 1, errors.New("it failed in some databases")
	case doc.Changed == 0:
		code = exitNothing
	}
	if !printed {
		verb := "changed"
		if doc.DryRun {
			verb = "that would be changed"
		}
		c.out.line("jobs %s: %d, and %d that depend on them", verb, doc.Changed, doc.Followed)
		for _, p := range doc.Problems {
			c.out.line("%s", p)
		}
		if doc.More {
			c.out.line("the limit was reached, there may be more")
		}
	}
	return code, errors.Join(err, c.out.flush())
}
