package runner

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// Rows are read anew by those who can: not in a database that is not served any more, or not at the
// moment. The next session reads all of them anyway.
func TestRereadByThoseWhoCan(t *testing.T) {
	t.Parallel()
	e := still(map[string]stage{"served": stageServed, "without a session": stageServed, "connecting": stageConnecting})
	for _, name := range []string{"served", "connecting"} {
		e.databases.get(name).session = session.New(name, nil, nil)
	}
	for _, name := range []string{"served", "without a session", "connecting", "dropped"} {
		for i := range channels.NamesPerDatabase + 1 {
			e.tree.Set(channels.Job{Key: channels.Key{DB: name, UUID: fmt.Sprint(i)}, Channel: fmt.Sprint("c", i)}, channels.Failed)
		}
	}
	require.NoError(t, e.tree.Configure([]channels.Config{{Name: "c1", Capacity: 1}}))
	require.Len(t, e.tree.Displaced(), 4)
	require.NotPanics(t, e.databases.reread)
}
