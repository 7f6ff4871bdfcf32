package odoo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// What a job waits for is told of those that are asked for by name, and that do wait.
func TestListedParents(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "late", State: "pending"})
	h.family("done", "waiting")
	h.depend("waiting", "done", "late")
	h.Insert(drivertest.Job{UUID: "forced", State: "pending", DependsOn: []string{"late"}})
	o := h.openOperations()
	for name, c := range map[string]struct {
		filter driver.Filter
		want   map[string]int
	}{
		"by name":  {driver.Filter{UUIDs: []string{"waiting", "forced"}}, map[string]int{"waiting": 1, "forced": 0}},
		"by state": {driver.Filter{States: []channels.State{channels.WaitDependencies}}, map[string]int{"waiting": 0}},
	} {
		out, err := o.List(h.deadline(), c.filter, 0, 10)
		require.NoError(t, err)
		found := map[string]int{}
		for _, job := range out.Jobs {
			found[job.UUID] = job.WaitsFor
			require.Equal(t, job.WaitsFor > 0, job.FirstParent == "late")
		}
		require.Equal(t, c.want, found, name)
	}
	for uuid, want := range map[string]int{"waiting": 1, "forced": 0} {
		r, err := o.Record(h.deadline(), uuid, false)
		require.NoError(t, err)
		require.NotEmpty(t, r.Relatives)
		require.Equal(t, want, r.WaitsFor, uuid)
	}
}

// Where a page is full, the search goes on below it, unless it is known that there is nothing.
func TestListedPages(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	for _, uuid := range []string{"a", "b", "c"} {
		h.exec("INSERT INTO queue_job (uuid, state) VALUES ($1, 'pending')", uuid) // as at no time
	}
	o := h.openOperations()
	for name, c := range map[string]struct {
		filter driver.Filter
		limit  int
		pages  [][]string
	}{
		"all, one too many":     {driver.Filter{}, 2, [][]string{{"c", "b"}, {"a"}}},
		"all, exactly":          {driver.Filter{}, 3, [][]string{{"c", "b", "a"}}},
		"all, one page":         {driver.Filter{}, 4, [][]string{{"c", "b", "a"}}},
		"indexed, one too many": {driver.Filter{States: []channels.State{channels.Pending}}, 2, [][]string{{"c", "b"}, {"a"}}},
		"indexed, exactly":      {driver.Filter{States: []channels.State{channels.Pending}}, 3, [][]string{{"c", "b", "a"}, nil}},
		"indexed, one page":     {driver.Filter{States: []channels.State{channels.Pending}}, 4, [][]string{{"c", "b", "a"}}},
		"none":                  {driver.Filter{Name: "x"}, 2, [][]string{nil}},
	} {
		var before int64
		for i, want := range c.pages {
			out, err := o.List(h.deadline(), c.filter, before, c.limit)
			require.NoError(t, err)
			var got []string
			for _, job := range out.Jobs {
				got = append(got, job.UUID)
				require.True(t, job.Started.IsZero())
			}
			require.Equal(t, want, got, name)
			require.Equal(t, i == len(c.pages)-1, out.Next == 0, "%s, page %d", name, i)
			before = out.Next
		}
	}
}
