package odoo_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// relative is a job that another one names as its parent.
type relative struct {
	// state is that of its row; empty if it was deleted, or has none (vague).
	state          string
	vague, distant bool
}

func (r relative) there() bool { return r.state != "" || r.vague }

// releasedTo18 is the add-on's rule to 18.0: of the parents in the same graph, there is one, and all are done.
func releasedTo18(parents []relative) bool {
	parents = slices.DeleteFunc(slices.Clone(parents), func(r relative) bool { return !r.there() || r.distant })
	return len(parents) > 0 && !slices.ContainsFunc(parents, func(r relative) bool { return r.state != "done" })
}

// releasedBy19 is the rule of the newest 19.0: one in the same graph is done, and none is not done,
// wherever it is.
func releasedBy19(parents []relative) bool {
	return slices.ContainsFunc(parents, func(r relative) bool { return r.state == "done" && !r.distant }) &&
		!slices.ContainsFunc(parents, func(r relative) bool { return r.there() && r.state != "done" })
}

// What is released is what the add-on would have released, for every pair of parents, in each series that
// has graphs. The rules of the series differ only for a parent of another graph, which the add-on refuses
// to make.
func TestReleaseByTheRule(t *testing.T) {
	var kinds []relative
	for _, state := range []string{"done", "pending", "enqueued", "started", "failed", "cancelled", "wait_dependencies"} {
		kinds = append(kinds, relative{state: state})
	}
	kinds = append(kinds, relative{}, relative{vague: true}, relative{state: "done", distant: true}, relative{state: "pending", distant: true})
	for _, gen := range []odoostub.Generation{odoostub.QueueJob12, odoostub.QueueJobLock, odoostub.Channels} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			var want []string
			for i, first := range kinds {
				for j, second := range kinds {
					child := fmt.Sprintf("child %d %d", i, j)
					parents := []relative{first, second}
					h.generations(child, parents)
					if releasedTo18(parents) {
						want = append(want, child)
					}
					if !first.distant && !second.distant {
						require.Equal(t, releasedTo18(parents), releasedBy19(parents), child)
					}
				}
			}
			require.ElementsMatch(t, want, h.release(h.session()))
			require.Len(t, want, 7, "done, and done, deleted, or in another graph")
		})
	}
}

// generations inserts a job that waits, and its parents.
func (h *harness) generations(child string, parents []relative) {
	h.t.Helper()
	var names []string
	for i, r := range parents {
		names = append(names, fmt.Sprintf("%s parent %d", child, i))
		if !r.there() {
			continue
		}
		h.Insert(drivertest.Job{UUID: names[i], State: r.state})
		graph := child
		if r.distant {
			graph = "another"
		}
		h.exec("UPDATE queue_job SET graph_uuid = $2, dependencies = $3 WHERE uuid = $1", names[i], graph, `{"depends_on": [], "reverse_depends_on": []}`)
		if r.vague {
			h.exec("ALTER TABLE queue_job ALTER state DROP NOT NULL")
			h.exec("UPDATE queue_job SET state = NULL WHERE uuid = $1", names[i])
		}
	}
	h.Insert(drivertest.Job{UUID: child, State: "wait_dependencies"})
	h.exec("UPDATE queue_job SET graph_uuid = $1 WHERE uuid = $1", child)
	h.depend(child, names...)
}
