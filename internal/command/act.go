package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// controlCommands are the actions on channels, databases, servers and sessions.
func controlCommands() []*cobra.Command {
	pause := sub("pause", "Pauses a channel, a database or everything", cobra.NoArgs, (*call).pause)
	pause.Flags().String("for", "", "End the pause after this time, for example 30m or 2d")
	pause.Flags().String("until", "", "End the pause at this time, for example \"2026-11-30 08:00\"")
	resume := sub("resume", "Ends a pause", cobra.NoArgs, (*call).resume)
	for _, cmd := range []*cobra.Command{pause, resume} {
		cmd.Flags().String("channel", "", "The channel, with those below it")
		cmd.Flags().String("database", "", "The database")
		cmd.Flags().Bool("all", false, "Everything")
	}
	drain := sub("drain <server>", "Sends no new jobs to an Odoo server, so that it can be stopped", cobra.ExactArgs(1), (*call).drain)
	drain.Flags().Bool("wait", false, "Return when the server can be stopped")
	drain.ValidArgsFunction = offer(serverNames)
	undrain := sub("undrain <server>", "Sends jobs to an Odoo server again", cobra.ExactArgs(1), (*call).undrain)
	undrain.ValidArgsFunction = offer(serverNames)
	resync := sub("resync", "Reads all jobs anew", cobra.NoArgs, (*call).resync)
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

// until is the time in the flag of that name, zero without it.
func (c *call) until() (time.Time, error) {
	s := c.text("until")
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--until: %q is not a time such as \"2026-11-30 08:00\" (here) or 2026-11-30T08:00:00Z", s)
}

// durations checks flags for durations, which may be empty.
func (c *call) durations(flags ...string) error {
	for _, flag := range flags {
		if s := c.text(flag); s != "" {
			if d, err := caddy.ParseDuration(s); err != nil || d <= 0 {
				return fmt.Errorf("--%s: %q is not a duration above 0 such as 30m, 36h or 2d", flag, s)
			}
		}
	}
	return nil
}

func (c *call) pauseRequest() (api.PauseRequest, error) {
	until, err := c.until()
	if err == nil {
		err = c.durations("for")
	}
	named := 0
	for _, given := range []bool{c.text("database") != "", c.text("channel") != "", c.flags.Bool("all")} {
		if given {
			named++
		}
	}
	if err == nil && named != 1 {
		err = errors.New("name exactly one of --channel, --database and --all")
	}
	return api.PauseRequest{
		Actor: c.actor(), Database: c.text("database"), Channel: c.text("channel"), All: c.flags.Bool("all"),
		For: c.text("for"), Until: until,
	}, err
}

func (c *call) pause() (int, error) {
	r, err := c.pauseRequest()
	if err != nil {
		return 1, err
	}
	return c.ordered(c.api.Pause(c.ctx, r))
}

func (c *call) resume() (int, error) {
	r, err := c.pauseRequest()
	if err != nil {
		return 1, err
	}
	return c.ordered(c.api.Resume(c.ctx, r))
}

func (c *call) undrain() (int, error) {
	return c.ordered(c.api.Undrain(c.ctx, api.DrainRequest{Actor: c.actor(), Upstream: c.args[0]}))
}

// ordered prints the answer to an action that changes what is ordered.
func (c *call) ordered(doc api.OrderAnswer, err error) (int, error) {
	if err != nil {
		return 1, err
	}
	code := 0
	if doc.Changed == 0 {
		code = exitNothing
	}
	if c.json() {
		return code, nil
	}
	switch {
	case doc.Changed == 0:
		c.out.line("nothing was changed")
	case doc.Warning != "":
		c.out.line("done, but %s", doc.Warning)
	default:
		c.out.line("done")
	}
	for _, p := range doc.Pauses {
		order := p.Order()
		c.out.line("%s is %s", pauseSubject(&p), c.aged(order.String()))
	}
	return code, nil
}

// drainInterval is the time between two checks of a server that is drained.
const drainInterval = 500 * time.Millisecond

func (c *call) drain() (int, error) {
	upstream := c.args[0]
	code, err := c.ordered(c.api.Drain(c.ctx, api.DrainRequest{Actor: c.actor(), Upstream: upstream}))
	if err != nil || !c.flags.Bool("wait") {
		return code, err
	}
	if err := c.out.flush(); err != nil {
		return 1, err
	}
	for {
		if stopped, err := c.safeToStop(upstream); err != nil || stopped {
			return 0, err
		}
		time.Sleep(drainInterval)
	}
}

// safeToStop reports whether a server runs no job any more.
func (c *call) safeToStop(upstream string) (bool, error) {
	upstreams, err := c.quiet.Upstreams(c.ctx, c.runner)
	if err != nil {
		return false, err
	}
	for _, u := range upstreams {
		if _, address, _ := strings.Cut(u.Upstream, "://"); u.Upstream != upstream && address != upstream {
			continue
		}
		switch {
		case u.Drain == nil:
			return false, fmt.Errorf("server %s is not drained any more", upstream)
		case !u.SafeToStop:
			return false, nil
		case !c.json():
			c.out.line("%s runs no job any more and can be stopped", upstream)
		}
		return true, nil
	}
	return true, nil
}

func (c *call) resync() (int, error) {
	doc, err := c.api.Resync(c.ctx, api.ResyncRequest{Actor: c.actor(), Database: c.text("database")})
	if err == nil && !c.json() {
		c.out.line("databases that are read anew: %d", doc.Databases)
	}
	return 0, err
}

// changeCommands are the actions on jobs.
func changeCommands() []*cobra.Command {
	type send = func(*api.Client, context.Context, api.ChangeRequest) (api.ChangeAnswer, error)
	var cmds []*cobra.Command
	for _, a := range []struct {
		name, short string
		send        send
	}{
		{"requeue", "Makes failed, cancelled or done jobs pending again", (*api.Client).Requeue},
		{"cancel", "Cancels jobs that wait or failed", (*api.Client).Cancel},
		{"set-done", "Marks jobs done that wait or failed", (*api.Client).SetDone},
		{"postpone", "Gives pending jobs another eta", (*api.Client).Postpone},
	} {
		cmd := sub(a.name+" [<uuid>...]", a.short, cobra.ArbitraryArgs, func(c *call) (int, error) {
			r, err := c.changeRequest()
			if err != nil {
				return 1, err
			}
			return c.changed(a.send(c.api, c.ctx, r))
		})
		filterFlags(cmd)
		signFlags(cmd)
		cmd.Flags().Bool("all", false, "All jobs that this is possible for")
		cmd.Flags().Int("limit", 0, "At most so many jobs; 0 means all that match")
		cmd.Flags().BoolP("dry-run", "n", false, "Change nothing, only count")
		if a.name == "postpone" {
			cmd.Flags().String("for", "", "Run them after this time, for example 30m or 2d")
			cmd.Flags().String("until", "", "Run them at this time, for example \"2026-11-30 08:00\"")
		}
		cmds = append(cmds, cmd)
	}
	return cmds
}

func (c *call) changeRequest() (api.ChangeRequest, error) {
	r := api.ChangeRequest{
		Actor: c.actor(), All: c.flags.Bool("all"), DryRun: c.flags.Bool("dry-run"), Limit: c.flags.Int("limit"), For: c.text("for"),
	}
	var err error
	if r.Until, err = c.until(); err != nil {
		return r, err
	}
	if err = c.durations("for", "older-than", "newer-than"); err != nil {
		return r, err
	}
	r.JobFilter, err = c.filter()
	r.UUIDs = c.args
	narrow := len(r.UUIDs) > 0 || len(r.States) > 0 || r.Channel != "" || r.Exception != "" || r.OlderThan != "" ||
		r.NewerThan != "" || r.Function != "" || r.Name != "" || r.Identity != ""
	switch {
	case err != nil:
	case !narrow && !r.All:
		err = errors.New("select jobs by uuid, --state, --channel, --exception, --function, --name, --identity, --older-than or --newer-than, or say --all")
	case len(r.UUIDs) > 0 && r.Database == "":
		err = errors.New("uuids need a database, name it with --database: a copy of a database has the same ones")
	case c.flags.Lookup("until") != nil && r.Until.IsZero() == (r.For == ""):
		err = errors.New("postpone needs either --until or --for")
	}
	return r, err
}

// changed prints the answer to an action on jobs.
func (c *call) changed(doc api.ChangeAnswer, err error) (int, error) {
	if err != nil {
		return 1, err
	}
	code := 0
	switch {
	case len(doc.Problems) > 0:
		err = errors.New("it failed in some databases")
	case doc.Changed == 0 && !doc.Partial:
		code = exitNothing
	}
	if c.json() {
		return code, err
	}
	text := fmt.Sprintf("jobs changed: %d", doc.Changed)
	if doc.DryRun {
		text = fmt.Sprintf("jobs that would be changed: %d", doc.Changed)
		if doc.Partial {
			text = fmt.Sprintf("jobs that would be changed: at least %d", doc.Changed)
		}
	}
	if doc.Followed > 0 {
		text += fmt.Sprintf(", and %d that depend on them", doc.Followed)
	}
	c.out.line("%s", text)
	c.warn(doc.Warning)
	for _, p := range alike(doc.Problems) {
		c.out.line("not done: %s", api.Plain(p))
	}
	if doc.Partial {
		c.out.line("these are those found so far, looking for more took too long: --database, or a narrower filter, makes it faster")
	}
	if doc.More {
		c.out.line("the limit was reached, there may be more")
	}
	return code, err
}
