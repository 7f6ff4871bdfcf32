package command

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

func eventsCommand() *cobra.Command {
	cmd := sub("events", "Prints what happens, until interrupted", cobra.NoArgs, (*call).events)
	cmd.Flags().String("database", "", "Only events of this database")
	cmd.Flags().StringSlice("event", nil, "Only events of these kinds")
	return cmd
}

// restartPause is the time before the events of a reloaded configuration are asked for.
const restartPause = time.Second

func (c *call) events() (int, error) {
	kinds, err := c.flags.GetStringSlice("event")
	if err != nil {
		return 1, err
	}
	q := api.EventQuery{Runner: c.runner, Database: c.text("database"), Kinds: kinds}
	for {
		if err := c.api.Events(c.ctx, q, c.event); err != nil {
			return 1, err
		}
		time.Sleep(restartPause)
	}
}

// event prints an event.
func (c *call) event(ev api.Event) error {
	if !c.json() && ev.Event != api.EventEnd {
		c.out.line("%s", eventLine(&ev))
	}
	return c.out.flush()
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
	add("exception=", ev.Exception)
	if ev.Wait > 0 {
		add("waited=", lasted(&ev.Wait))
	}
	if ev.Run > 0 {
		add("ran=", lasted(&ev.Run))
	}
	add("count=", strconv.Itoa(ev.Count))
	if ev.Runner != "default" {
		add("runner=", ev.Runner)
	}
	add("", oneLine(api.Plain(ev.Detail)))
	return strings.Join(words, " ")
}
