package odoo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// An action writes what the role may write, and is refused where that leaves nothing of it.
func TestAssignments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		action   driver.Action
		writable []string
		want     string
		args     int
	}{
		"all of it":           {driver.SetDone, []string{"state", "date_done", "exc_name", "exc_info", "result"}, "state = 'done', date_done = ", 1},
		"the state alone":     {driver.Cancel, []string{"state"}, "state = 'cancelled'", 0},
		"all but the state":   {driver.Cancel, []string{"date_cancelled", "result"}, "", 0},
		"nothing":             {driver.Requeue, nil, "", 0},
		"another time":        {driver.Postpone, []string{"eta"}, "eta = $2", 1},
		"no other time":       {driver.Postpone, []string{"state"}, "", 0},
		"a result for people": {driver.Cancel, []string{"state", "result"}, "state = 'cancelled', result = $2", 1},
	} {
		g := generation{writable: c.writable}
		set, args, err := g.assignments(driver.Change{Action: c.action, By: "me"})
		require.Equal(t, c.want == "", err != nil, name)
		require.Contains(t, set, c.want, name)
		require.Equal(t, c.want == "", set == "", name)
		require.Len(t, args, c.args, name)
	}
}

// Jobs depend on each other where both columns can be read.
func TestGraphs(t *testing.T) {
	t.Parallel()
	require.True(t, (&generation{readable: []string{"graph_uuid", "dependencies"}}).graphs())
	require.False(t, (&generation{readable: []string{"graph_uuid"}}).graphs())
	require.False(t, (&generation{readable: []string{"dependencies"}}).graphs())
}
