package dashboard

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// archive is a runner with failed jobs in many databases. It remembers which were asked.
type archive struct {
	fakerunner.Engine
	asked map[string]int
	down  string
}

func newArchive(databases int) *archive {
	a := &archive{asked: make(map[string]int)}
	for i := range databases {
		a.Says.Databases = append(a.Says.Databases, runner.DatabaseStatus{Name: fmt.Sprintf("db%03d", i), Failed: 1000 - i})
	}
	return a
}

func (a *archive) Jobs(_ context.Context, q runner.JobQuery) (p runner.JobPage, err error) {
	a.asked[q.Database]++
	if q.Database == a.down {
		return p, errors.New("refused")
	}
	for i := range q.Limit {
		p.Jobs = append(p.Jobs, driver.Detail{
			Row:       driver.Row{Job: channels.Job{Key: channels.Key{DB: q.Database, UUID: fmt.Sprint(i)}, Created: int64(1e15)}},
			Exception: fmt.Sprint("Error", i),
		})
	}
	return p, nil
}

// TestFailuresOfEveryDatabase: every database is read, a few at a time, and the one first in which a
// job has failed just now, however few have failed there.
func TestFailuresOfEveryDatabase(t *testing.T) {
	a := newArchive(45)
	a.down = "db007"
	last := fmt.Sprintf("db%03d", 44)
	Observe(runner.Event{Kind: runner.EventJobFailed, Runner: "archive", Database: last, Time: time.Now()})
	all := make(readings)
	for _, want := range []int{25, 5, 0, 0} {
		groups, problems, unread := all.update(t.Context(), "archive", a)
		require.Equal(t, want, unread)
		require.Len(t, groups, failuresShown)
		require.Equal(t, []string{"db007: refused"}, problems)
		require.Equal(t, 1, a.asked[last], "it was the first")
	}
	require.Len(t, a.asked, 45)
	for name, n := range a.asked {
		require.Equal(t, 1, n, "%s was read again although nothing has changed", name)
	}
	for _, r := range all {
		require.LessOrEqual(t, len(r.groups), failuresShown)
	}

	// What changes is read again, and what has no failed jobs any more is forgotten.
	a.Says.Databases[0].Failed++
	a.Says.Databases[1].Failed = 0
	Observe(runner.Event{Kind: runner.EventJobFailed, Runner: "archive", Database: "db002", Time: time.Now()})
	Observe(runner.Event{Kind: runner.EventJobDone, Runner: "archive", Database: "db003", Time: time.Now()})
	all.update(t.Context(), "archive", a)
	require.Equal(t, []int{2, 1, 2, 1}, []int{a.asked["db000"], a.asked["db001"], a.asked["db002"], a.asked["db003"]})
	require.NotContains(t, all, place{"archive", "db001"})
	for key := range all {
		all[key].at = time.Now().Add(-2 * failuresKept)
	}
	all.update(t.Context(), "archive", a)
	total := 0
	for _, n := range a.asked {
		total += n
	}
	require.Equal(t, 45+2+failuresDatabases, total, "old ones are read again, as many at a time")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	none := make(readings)
	_, _, unread := none.update(ended, "archive", a)
	require.Equal(t, 44, unread)
	require.Empty(t, none, "that the time was over is no fault of a database")
}
