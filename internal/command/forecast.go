package command

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

func forecastCommand() *cobra.Command {
	cmd := sub("forecast", "Says when the jobs that wait will have been started", cobra.NoArgs, (*call).forecast)
	wideFlag(cmd)
	return cmd
}

func (c *call) forecast() (int, error) {
	doc, err := c.api.Forecast(c.ctx, c.runner)
	if err != nil || c.json() {
		return 0, err
	}
	own := false
	for i := range doc.Channels {
		own = own || doc.Channels[i].Database != ""
	}
	header := []string{"CHANNEL", "WAITING", "SCHEDULED", "PER HOUR", "EMPTY IN"}
	if own {
		header = append([]string{"DATABASE"}, header...)
	}
	t := c.out.table(header...)
	for i := range doc.Channels {
		v := &doc.Channels[i]
		cells := []string{v.Channel, strconv.Itoa(v.Waiting), strconv.Itoa(v.Scheduled), fmt.Sprintf("%.0f", v.PerHour), emptyIn(v)}
		if own {
			cells = append([]string{v.Database}, cells...)
		}
		t.row(cells...)
	}
	if len(doc.Channels) == 0 {
		c.out.line("no job waits")
		return 0, nil
	}
	t.print()
	for _, text := range doc.Assumes {
		c.out.line("assumed: %s", text)
	}
	return 0, nil
}

// emptyIn says when no job of a channel waits.
func emptyIn(v *api.ChannelForecast) string {
	switch v.Verdict {
	case "drains":
		return fmt.Sprintf("%s (%s to %s)", lasted(v.In), lasted(v.Least), lasted(v.Most))
	case "later":
		return "not within " + lasted(v.Least)
	case "never":
		return "never at this rate"
	case "unknown":
		return "unknown, because no job has ended lately"
	}
	return "no job waits"
}
