package dashboard

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// failuresDatabases is how many databases are asked for failed jobs at a time, and failuresEach
	// for how many, the newest. What was read is kept for failuresKept, unless jobs fail meanwhile.
	failuresDatabases = 20
	failuresEach      = 100
	failuresKept      = time.Minute
	// failuresShown is how many groups are shown, with failuresJobs of each.
	failuresShown = 50
	failuresJobs  = 3
	// failuresTold bounds the databases of which it is known when a job failed last.
	failuresTold = 5000
)

// place is a database of a runner.
type place struct{ runner, database string }

// lastFailed tells when a job failed last. It is global as hour is.
var lastFailed = failed{at: make(map[place]time.Time)}

type failed struct {
	mu sync.Mutex // guards the following
	at map[place]time.Time
}

func (f *failed) note(ev *runner.Event) {
	if ev.Kind != runner.EventJobFailed {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := place{ev.Runner, ev.Database}
	if _, known := f.at[key]; known || len(f.at) < failuresTold {
		f.at[key] = ev.Time
	}
}

func (f *failed) when(key place) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at[key]
}

// failureGroup is failed jobs that have database, model, method and exception in
// common.
type failureGroup struct {
	Runner    string    `json:"runner"`
	Database  string    `json:"database"`
	Exception string    `json:"exception"`
	Model     string    `json:"model"`
	Method    string    `json:"method"`
	Channel   string    `json:"channel"`
	Count     int       `json:"count"`
	Last      time.Time `json:"last,omitzero"`
	// Jobs are the newest of them.
	Jobs []string `json:"jobs"`
}

// newest puts the newest failures first.
func (g failureGroup) newest(other failureGroup) int {
	return cmp.Or(other.Last.Compare(g.Last), cmp.Compare(other.Count, g.Count))
}

// reading is what was read of the failed jobs of a database.
type reading struct {
	// at is when, and failed how many there were.
	at     time.Time
	failed int
	groups []failureGroup
	// problems are why it is not complete.
	problems []string
}

// readings are those of all databases with failed jobs. Its user lets one build at a time.
type readings map[place]*reading

// failures answers with the last failed jobs of all databases, grouped.
func (h *Handler) failures(w http.ResponseWriter, r *http.Request) error {
	if _, err := admin.Query(r); err != nil {
		return err
	}
	return h.failed.serve(w, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), failuresTimeout)
		defer cancel()
		groups, problems, unread := []failureGroup{}, []string{}, 0
		all := supervisor.Runners(ctx)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			g, p, n := h.read.update(ctx, name, all[name])
			groups, problems, unread = append(groups, g...), append(problems, p...), unread+n
		}
		maps.DeleteFunc(h.read, func(key place, _ *reading) bool { return all[key.runner] == nil })
		return map[string]any{"groups": groups, "problems": problems, "per_database": failuresEach, "unread": unread}, nil
	})
}

// update reads the failed jobs of those databases of a runner where that is due, and returns the newest
// of all, with the number of databases that were never read.
func (all readings) update(ctx context.Context, name string, engine supervisor.Operations) (groups []failureGroup, problems []string, unread int) {
	st, err := engine.Status(ctx)
	if err != nil {
		return nil, []string{api.Discreet(err.Error())}, 0
	}
	counts := make(map[place]int)
	for i := range st.Databases {
		if db := &st.Databases[i]; db.Failed > 0 {
			counts[place{name, db.Name}] = db.Failed
		}
	}
	maps.DeleteFunc(all, func(key place, _ *reading) bool { return key.runner == name && counts[key] == 0 })
	for _, key := range all.due(counts, time.Now()) {
		r := read(ctx, key, counts[key], engine)
		if ctx.Err() != nil {
			break // it is no fault of this database that the time is over
		}
		all[key] = r
	}
	for _, key := range slices.SortedFunc(maps.Keys(counts), place.compare) {
		if r := all[key]; r != nil {
			groups, problems = append(groups, r.groups...), append(problems, r.problems...)
		} else {
			unread++
		}
	}
	slices.SortStableFunc(groups, failureGroup.newest)
	return groups[:min(len(groups), failuresShown)], problems, unread
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.runner, q.runner), cmp.Compare(p.database, q.database))
}

// due are the databases to read now: first those where a job failed last, then those with the most.
func (all readings) due(counts map[place]int, now time.Time) []place {
	var keys []place
	last := make(map[place]time.Time)
	for key, failed := range counts {
		last[key] = lastFailed.when(key)
		r := all[key]
		if r == nil || r.failed != failed || r.at.Before(last[key]) || now.Sub(r.at) > failuresKept {
			keys = append(keys, key)
		}
	}
	never := func(key place) int {
		if all[key] == nil {
			return 0
		}
		return 1
	}
	slices.SortFunc(keys, func(a, b place) int {
		return cmp.Or(last[b].Compare(last[a]), cmp.Compare(never(a), never(b)), cmp.Compare(counts[b], counts[a]), a.compare(b))
	})
	return keys[:min(len(keys), failuresDatabases)]
}

// read asks a database for its newest failed jobs.
func read(ctx context.Context, key place, failed int, engine supervisor.Operations) *reading {
	r := &reading{at: time.Now(), failed: failed}
	var page runner.JobPage
	err := visit(ctx, func() (err error) {
		page, err = engine.Jobs(ctx, runner.JobQuery{
			Database: key.database, Filter: driver.Filter{States: []channels.State{channels.Failed}}, Limit: failuresEach,
		})
		return err
	})
	if err != nil {
		r.problems = []string{key.database + ": " + api.Discreet(err.Error())}
		return r
	}
	r.problems = discreet(page.Problems)
	at := make(map[[5]string]int)
	for j := range page.Jobs {
		r.groups = addFailure(r.groups, at, api.NewJob(key.runner, &page.Jobs[j]))
	}
	slices.SortStableFunc(r.groups, failureGroup.newest)
	r.groups = r.groups[:min(len(r.groups), failuresShown)]
	return r
}

func addFailure(groups []failureGroup, at map[[5]string]int, job api.Job) []failureGroup {
	key := [5]string{job.Database, job.Exception, job.Model, job.Method, job.Channel}
	i, ok := at[key]
	if !ok {
		i = len(groups)
		at[key] = i
		groups = append(groups, failureGroup{
			Runner: job.Runner, Database: job.Database, Exception: job.Exception, Model: job.Model, Method: job.Method, Channel: job.Channel,
		})
	}
	g := &groups[i]
	g.Count++
	// A failed job has a time of its end only where the add-on writes one.
	for _, t := range []time.Time{job.Done, job.Started, job.Created} {
		if !t.IsZero() {
			if t.After(g.Last) {
				g.Last = t
			}
			break
		}
	}
	if len(g.Jobs) < failuresJobs {
		g.Jobs = append(g.Jobs, job.UUID)
	}
	return groups
}
