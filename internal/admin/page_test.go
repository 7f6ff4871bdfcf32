package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// crowd is a runner with many of everything, and with jobs in two databases, a page each.
type crowd struct {
	fakerunner.Engine
	unread bool
}

var crowdJobs = map[string][]string{
	"a": {"3f2a9b54-6c1e-4d0c-9a7e-5b8f0f6f2a11", "3f2b0000-6c1e-4d0c-9a7e-5b8f0f6f2a11"},
	"b": {"77770000-6c1e-4d0c-9a7e-5b8f0f6f2a11", "3f2b0000-6c1e-4d0c-9a7e-5b8f0f6f2a11"},
}

func (*crowd) Tasks(context.Context) (tasks []runner.TaskStatus, err error) {
	for i := range 2500 {
		tasks = append(tasks, runner.TaskStatus{Key: channels.Key{DB: "a", UUID: fmt.Sprintf("%04d", i)}, Since: time.Unix(int64(i), 0)})
	}
	return tasks, nil
}

func (e *crowd) Jobs(_ context.Context, q runner.JobQuery) (p runner.JobPage, err error) {
	db := "a"
	if q.Database == "b" || q.Cursor == "b" {
		db = "b"
	} else if q.Database == "" {
		p.Next = "b"
	}
	if e.unread && db == "b" {
		return runner.JobPage{Problems: []string{"b: refused"}}, nil
	}
	for _, uuid := range crowdJobs[db] {
		if strings.HasPrefix(uuid, q.Prefix) && (len(q.UUIDs) == 0 || q.UUIDs[0] == uuid) {
			p.Jobs = append(p.Jobs, driver.Detail{Row: driver.Row{Job: channels.Job{Key: channels.Key{DB: db, UUID: uuid}}}})
		}
	}
	return p, nil
}

// Job says the same as Why.
func (e *crowd) Job(ctx context.Context, key channels.Key) (runner.Why, error) {
	return e.Why(ctx, key)
}

func (*crowd) Why(_ context.Context, key channels.Key) (runner.Why, error) {
	return runner.Why{Key: key, Found: true, Code: "behind", Text: "it waits its turn"}, nil
}

func (*crowd) Change(_ context.Context, c runner.JobChange) (r runner.ChangeResult, err error) {
	for _, uuid := range c.UUIDs {
		r.Jobs = append(r.Jobs, channels.Key{DB: c.Database, UUID: uuid})
	}
	r.Changed = len(r.Jobs)
	return r, nil
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	e := &crowd{Engine: fakerunner.Engine{Says: runner.Status{Leader: true, LeaderKnown: true}}}
	for i := range 2500 {
		e.Says.Databases = append(e.Says.Databases, runner.DatabaseStatus{Name: fmt.Sprintf("db%04d", i)})
		e.Says.Channels = append(e.Says.Channels, runner.ChannelStatus{Status: channels.Status{FullName: fmt.Sprintf("root.c%04d", i)}})
	}
	fakerunner.Run(t, "default", e, zap.NewNop())
	return e
}

// TestPages: lists are bounded, and can be continued to their end.
func TestPages(t *testing.T) {
	newCrowd(t)
	for _, list := range []string{"databases", "channels", "tasks"} {
		seen, offset := 0, 0
		for _, want := range []int{1000, 1000, 500} {
			_, w := fakerunner.Ask(t, adminMux(list), http.MethodGet, fmt.Sprintf("/jobrunner/%s?offset=%d", list, offset), nil, nil)
			var doc map[string]any
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
			require.Len(t, doc[list], want)
			seen += want
			if seen == 2500 {
				require.NotContains(t, doc, "more")
				require.NotContains(t, doc, "next_offset")
				break
			}
			require.InDelta(t, 2500-seen, doc["more"], 0)
			offset = int(doc["next_offset"].(float64))
		}
		for query, want := range map[string]int{"limit=7": 200, "limit=5000": 200, "limit=0": 400, "offset=-1": 400, "offset=9999999": 200, "limit=x": 400, "cursor=1": 400} {
			_, w := fakerunner.Ask(t, adminMux(list), http.MethodGet, "/jobrunner/"+list+"?"+query, nil, nil)
			require.Equal(t, want, w.Code, query)
			require.Less(t, w.Body.Len(), 1<<20)
		}
	}
}

// TestDatabasesByState: a list of databases can be one of those in some states.
func TestDatabasesByState(t *testing.T) {
	e := newCrowd(t)
	e.Says.Databases[7].State, e.Says.Databases[9].State = runner.DatabaseWaiting, runner.DatabaseAsleep
	for query, want := range map[string]int{"waiting": 1, "waiting,asleep": 2, "waiting&state=asleep": 2, "connecting": 1000, "ready": 0} {
		_, w := fakerunner.Ask(t, adminMux("databases"), http.MethodGet, "/jobrunner/databases?state="+query, nil, nil)
		require.Equal(t, 200, w.Code)
		var doc api.Databases
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		require.Len(t, doc.Databases, want, query)
	}
	_, w := fakerunner.Ask(t, adminMux("databases"), http.MethodGet, "/jobrunner/databases?state=lost", nil, nil)
	require.Equal(t, 400, w.Code)
}

// TestFirstLetters: a job is found by the first letters of its uuid where no other begins with them.
func TestFirstLetters(t *testing.T) {
	e := newCrowd(t)
	one := crowdJobs["a"][0]
	for path, want := range map[string]struct {
		status int
		says   string
	}{
		"a/" + one:           {200, one},
		one:                  {200, one},
		strings.ToUpper(one): {200, one},
		"3f2a":               {200, one},
		"3F2A9b54-6c":        {200, one},
		"a/3f2a":             {200, one},
		"b/3f2b":             {200, crowdJobs["b"][1]},
		"7777":               {200, crowdJobs["b"][0]},
		"3f2b":               {409, "several jobs begin with 3f2b: a 3f2b0000-6c1e-4d0c-9a7e-5b8f0f6f2a11, b 3f2b0000-6c1e-4d0c-9a7e-5b8f0f6f2a11"},
		"a/3f2":              {200, "3f2"}, // too short for anything but a whole name
		"b/3f2a":             {404, "there is no job that begins with 3f2a in database b"},
		"ffff":               {404, "there is no job that begins with ffff"},
		"a/%25%25%25%25":     {200, "%%%%"},
	} {
		_, w := fakerunner.Ask(t, adminMux(path), http.MethodGet, "/jobrunner/jobs/"+path, nil, nil)
		require.Equal(t, want.status, w.Code, path)
		require.Contains(t, w.Body.String(), want.says, path)
	}
	e.unread = true
	_, w := fakerunner.Ask(t, adminMux(""), http.MethodGet, "/jobrunner/jobs/7777", nil, nil)
	require.Equal(t, 502, w.Code)
	require.Contains(t, w.Body.String(), "not every database could be read: b: refused")

	for uuid, want := range map[string]int{"3f2a": 200, one: 200, "3f2": 200, "ffff": 404} {
		body := fmt.Sprintf(`{"database":"a","uuids":[%q]}`, uuid)
		_, w := fakerunner.Ask(t, adminMux(""), http.MethodPost, "/jobrunner/requeue", map[string]string{"Content-Type": "application/json"}, []byte(body))
		require.Equal(t, want, w.Code, uuid)
		var doc api.ChangeAnswer
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		if uuid == "3f2a" {
			require.Equal(t, []api.JobKey{{Database: "a", UUID: one}}, doc.Jobs)
		}
	}
}
