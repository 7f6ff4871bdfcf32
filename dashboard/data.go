package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// dataFresh and failuresFresh are how old an answer may be that visitors
	// share, so that the runners are asked no more often the more people look.
	dataFresh     = time.Second
	failuresFresh = 10 * time.Second
	// dataTimeout bounds the question behind a page, failuresTimeout those
	// to the databases for failed jobs.
	dataTimeout     = 3 * time.Second
	failuresTimeout = 10 * time.Second
	// listLimit bounds the lists of databases, channels and tasks.
	listLimit = 500
	// waitingShown is how many waiting jobs are listed.
	waitingShown = 20
	// visitorsLimit bounds the connections to databases that visitors cause at the same time, in all
	// dashboards: fewer than a runner opens at once, so that some are left for operators.
	visitorsLimit = 2
)

// visitors are those connections, each a token. They are global because the runners' own are.
var visitors = make(chan struct{}, visitorsLimit)

// visit runs f, which asks a database, when it is a visitor's turn.
func visit(ctx context.Context, f func() error) error {
	select {
	case visitors <- struct{}{}:
		defer func() { <-visitors }()
		return f()
	case <-ctx.Done():
		return admin.Error(http.StatusServiceUnavailable, "others are asking the databases, try again")
	}
}

// shared is an answer that visitors share.
type shared struct {
	fresh time.Duration
	mu    sync.Mutex // guards the following, and lets one build
	at    time.Time
	body  []byte
	err   error
}

// serve answers, with what is there if it is fresh enough.
func (s *shared) serve(w http.ResponseWriter, build func() (any, error)) error {
	body, err := s.get(build)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the client has gone
	return nil
}

func (s *shared) get(build func() (any, error)) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) < s.fresh {
		return s.body, s.err
	}
	var v any
	if s.err = guard.Call(func() (err error) { v, err = build(); return err }); s.err == nil {
		var b bytes.Buffer
		s.err = json.NewEncoder(&b).Encode(v)
		s.body = b.Bytes()
	}
	s.at = time.Now()
	return s.body, s.err
}

// expire lets the next visitor get a new answer.
func (s *shared) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = time.Time{}
}

// runnerData is what the page shows of one runner.
type runnerData struct {
	Status    api.Status     `json:"status"`
	Databases []api.Database `json:"databases"`
	Channels  []api.Channel  `json:"channels"`
	Tasks     []api.Task     `json:"tasks"`
	// The numbers of what the lists leave out.
	MoreDatabases int `json:"more_databases,omitempty"`
	MoreChannels  int `json:"more_channels,omitempty"`
	MoreTasks     int `json:"more_tasks,omitempty"`
	// Problem says why there is nothing else.
	Problem string `json:"problem,omitempty"`
}

// data answers with what the runners do now.
func (h *Handler) data(w http.ResponseWriter, r *http.Request) error {
	if _, err := admin.Query(r); err != nil {
		return err
	}
	w.Header().Set("X-Jobrunner-Actions", fmt.Sprint(h.Actions))
	return h.live.serve(w, func() (any, error) {
		// Not the request's context: others wait for the same answer.
		ctx, cancel := context.WithTimeout(context.Background(), dataTimeout)
		defer cancel()
		list := []runnerData{}
		all := supervisor.Runners(ctx)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			list = append(list, describeRunner(ctx, name, all[name]))
		}
		doc := map[string]any{"time": time.Now().UTC(), "runners": list}
		if len(h.Nodes) > 0 {
			doc["nodes"] = h.Nodes
		}
		return doc, nil
	})
}

// describeRunner asks one runner. One that does not answer is shown as such.
func describeRunner(ctx context.Context, name string, k supervisor.Operations) runnerData {
	st, err := k.Status(ctx)
	var tasks []runner.TaskStatus
	if err == nil {
		tasks, err = k.Tasks(ctx)
	}
	if err != nil {
		return runnerData{Status: api.Status{Runner: name, State: runner.NotReady.String()}, Problem: api.Discreet(err.Error())}
	}
	now := time.Now()
	out := runnerData{Status: api.NewStatus(name, &st, now), Tasks: api.NewTasks(name, tasks, now)}
	if k, ok := k.(*supervisor.Runner); ok {
		out.Status.Ready = !k.Fails(st.Health(now))
	}
	out.Status.Problems, out.Status.Warnings = discreet(out.Status.Problems), discreet(out.Status.Warnings)
	out.Status.LeaderDetail = api.Discreet(out.Status.LeaderDetail)
	// Only what is shown is described: others decide how many channels there are.
	st.Databases, out.MoreDatabases = head(st.Databases)
	st.Channels, out.MoreChannels = head(st.Channels)
	out.Databases, out.Channels = api.NewDatabases(name, &st, now), api.NewChannels(name, &st, now)
	for i := range out.Databases {
		db := &out.Databases[i]
		db.Detail, db.Cause = api.Discreet(db.Detail), api.Discreet(db.Cause)
	}
	out.Tasks, out.MoreTasks = head(out.Tasks)
	return out
}

// discreet is what visitors get to read of problems: without the addresses and roles of PostgreSQL.
func discreet(list []string) []string {
	for i := range list {
		list[i] = api.Discreet(list[i])
	}
	return list
}

// failure is the answer to a question that failed.
func failure(err error) error {
	var shown caddy.APIError
	if !errors.As(err, &shown) {
		err = admin.Failure(err)
	}
	if errors.As(err, &shown) {
		shown.Message = api.Discreet(shown.Message)
		return shown
	}
	return err
}

// head returns the first of a list, and how many it leaves out.
func head[T any](list []T) (first []T, more int) {
	n := min(len(list), listLimit)
	return append([]T{}, list[:n]...), len(list) - n
}

// getWaiting lists the newest pending jobs of a channel or database.
func getWaiting(w http.ResponseWriter, r *http.Request) error {
	q, err := admin.Query(r, "runner", "database", "channel")
	if err != nil {
		return err
	}
	name, page, err := listed(r.Context(), q.Get("runner"), runner.JobQuery{
		Database: q.Get("database"), Limit: waitingShown,
		Filter: driver.Filter{States: []channels.State{channels.Pending, channels.WaitDependencies}, Channel: q.Get("channel")},
	})
	if err != nil {
		return err
	}
	views := []api.Job{}
	for i := range page.Jobs {
		views = append(views, api.NewJob(name, &page.Jobs[i]))
	}
	return admin.Answer(w, http.StatusOK, map[string]any{"jobs": views, "more": page.Next != "", "problems": page.Problems})
}
