package command

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

func simulateCommand() *cobra.Command {
	cmd := sub("simulate", "Shows what other capacities would have made of recorded jobs", cobra.NoArgs, (*call).simulate)
	f := cmd.Flags()
	wideFlag(cmd)
	f.StringSlice("set", nil, "Capacities to try, for example root.mail=4; max_capacity=8 where databases have their own channels")
	f.String("from", "1h", "Since when, a time or a duration back from now, a day at most")
	f.String("to", "", "Until when, a time or a duration back from now; now if empty")
	return cmd
}

func (c *call) simulate() (int, error) {
	set, err := c.flags.GetStringSlice("set")
	if err != nil {
		return 1, err
	}
	if len(set) == 0 {
		return 1, hint(errors.New("nothing is to be another one"), "say what, as in: --set root.mail=4")
	}
	doc, err := c.api.Simulate(c.ctx, api.SimulationQuery{Runner: c.runner, Set: set, From: c.text("from"), To: c.text("to")})
	if err != nil || c.json() {
		return 0, err
	}
	own := false
	for i := range doc.Channels {
		own = own || doc.Channels[i].Database != ""
	}
	header := []string{"CHANNEL", "CAPACITY", "JOBS", "WAIT P50", "WAIT P95", "BUSY", "LEFT"}
	if own {
		header = append([]string{"DATABASE"}, header...)
	}
	t := c.out.table(header...)
	for i := range doc.Channels {
		v := &doc.Channels[i]
		cells := []string{
			v.Channel, pairOf(slotsOf(v.Was.Capacity), slotsOf(v.Would.Capacity)), pairOf(strconv.Itoa(v.Was.Sent), strconv.Itoa(v.Would.Sent)),
			pairOf(lasted(&v.Was.Wait50), lasted(&v.Would.Wait50)), pairOf(lasted(&v.Was.Wait95), lasted(&v.Would.Wait95)),
			pairOf(utilisation(&v.Was), utilisation(&v.Would)), pairOf(strconv.Itoa(v.Was.Left), strconv.Itoa(v.Would.Left)),
		}
		if own {
			cells = append([]string{v.Database}, cells...)
		}
		t.row(cells...)
	}
	t.print()
	c.out.line("%d jobs between %s and %s; what was, and what would have been", doc.Jobs, written(doc.From), written(doc.To))
	for _, text := range doc.Assumes {
		c.out.line("assumed: %s", text)
	}
	return 0, nil
}

// pairOf is what was and what would have been, once if they are the same.
func pairOf(was, would string) string {
	if was == would {
		return was
	}
	return was + " > " + would
}

func slotsOf(n int) string {
	if n == 0 {
		return "∞"
	}
	return strconv.Itoa(n)
}

// utilisation is which part of the slots was taken, or how many where they have no limit.
func utilisation(u *api.Use) string {
	if u.Utilisation == nil {
		return fmt.Sprintf("%.1f", u.Busy)
	}
	return fmt.Sprintf("%.0f%%", 100**u.Utilisation)
}
