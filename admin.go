package jobrunner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// Limits of the admin API.
const (
	// readTimeout bounds a question, actTimeout an action, which may change many
	// jobs in batches.
	readTimeout = 10 * time.Second
	actTimeout  = 5 * time.Minute
	// bodyLimit bounds what an action's body may hold.
	bodyLimit = 1 << 20
	// nameLimit bounds texts by which people describe themselves and their reasons.
	nameLimit = 200
)

// adminAPI adds the routes below /jobrunner/ to Caddy's admin endpoint. It asks
// for the supervisor with every request: after a failed reload the endpoint
// belongs to a configuration that never came into force (caddy.md 4.1).
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.jobrunner",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes implements [caddy.AdminRouter].
func (adminAPI) Routes() []caddy.AdminRoute {
	get := func(path string, h caddy.AdminHandlerFunc) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: "/jobrunner/" + path, Handler: method(http.MethodGet, h)}
	}
	post := func(path string, h caddy.AdminHandlerFunc) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: "/jobrunner/" + path, Handler: method(http.MethodPost, h)}
	}
	return []caddy.AdminRoute{
		get("status", getStatus), get("live", getLive), get("ready", getReady),
		get("databases", getDatabases), get("channels", getChannels), get("upstreams", getUpstreams),
		get("tasks", getTasks), get("jobs", getJobs), get("jobs/{database}/{uuid}", getJob), get("events", getEvents),
		post("pause", postPause), post("resume", postResume), post("drain", postDrain), post("undrain", postUndrain),
		post("requeue", changeJobs(driver.Requeue)), post("cancel", changeJobs(driver.Cancel)),
		post("set-done", changeJobs(driver.SetDone)), post("postpone", changeJobs(driver.Postpone)),
		post("resync", postResync),
	}
}

// method lets only requests of one method through.
func method(want string, h caddy.AdminHandlerFunc) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method != want && (want != http.MethodGet || r.Method != http.MethodHead) {
			w.Header().Set("Allow", want)
			return apiError(http.StatusMethodNotAllowed, "method %s is not allowed here, use %s", r.Method, want)
		}
		w.Header().Set("Cache-Control", "no-store")
		return h(w, r)
	}
}

func apiError(status int, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return caddy.APIError{HTTPStatus: status, Err: err, Message: err.Error()}
}

// failure turns an error of the engine into one of the API.
func failure(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, runner.ErrUnknownDatabase):
		return apiError(http.StatusNotFound, "%w", err)
	case errors.Is(err, runner.ErrBadCursor):
		return apiError(http.StatusBadRequest, "%w", err)
	case errors.Is(err, runner.ErrNoOperator):
		return apiError(http.StatusNotImplemented, "%w", err)
	case errors.Is(err, runner.ErrStopped):
		return apiError(http.StatusServiceUnavailable, "%w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return apiError(http.StatusGatewayTimeout, "%w", err)
	}
	return apiError(http.StatusBadGateway, "%w", err)
}

func answer(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return apiError(http.StatusInternalServerError, "the answer cannot be written: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client has gone
	return nil
}

// runners returns the runners that a request concerns, by name: the named one, or
// all of them.
func runners(name string) (map[string]*supervisor.Runner, error) {
	all := map[string]*supervisor.Runner{}
	if sup := supervisor.Active(); sup != nil {
		all = sup.Runners()
	}
	if name == "" {
		return all, nil
	}
	k, ok := all[name]
	if !ok {
		return nil, apiError(http.StatusNotFound, "there is no runner %q", name)
	}
	return map[string]*supervisor.Runner{name: k}, nil
}

// oneRunner returns the named runner, or the only one.
func oneRunner(name string) (string, *supervisor.Runner, error) {
	all, err := runners(name)
	if err != nil {
		return "", nil, err
	}
	if len(all) == 0 {
		return "", nil, apiError(http.StatusServiceUnavailable, "no runner is configured")
	}
	names := slices.Sorted(maps.Keys(all))
	if len(all) > 1 {
		return "", nil, apiError(http.StatusBadRequest, "there are several runners, say which: %s", strings.Join(names, ", "))
	}
	return names[0], all[names[0]], nil
}

// query checks that a request has none but the known parameters, each once.
func query(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "the query cannot be read: %w", err)
	}
	for name, list := range values {
		if !slices.Contains(known, name) {
			return nil, apiError(http.StatusBadRequest, "unknown parameter %q, known are: %s", name, strings.Join(known, ", "))
		}
		if len(list) > 1 && name != "state" && name != "event" {
			return nil, apiError(http.StatusBadRequest, "parameter %s is given more than once", name)
		}
	}
	return values, nil
}

// each asks the runners that a request concerns for their status.
func each(r *http.Request, show func(name string, st *runner.Status, now time.Time)) error {
	q, err := query(r, "runner")
	if err != nil {
		return err
	}
	all, err := runners(q.Get("runner"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		st, err := all[name].Status(ctx)
		if err != nil {
			return failure(fmt.Errorf("runner %s: %w", name, err))
		}
		show(name, &st, time.Now())
	}
	return nil
}

func getStatus(w http.ResponseWriter, r *http.Request) error {
	views := []api.Status{}
	err := each(r, func(name string, st *runner.Status, now time.Time) {
		views = append(views, api.NewStatus(name, st, now))
	})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, api.Statuses{Runners: views})
}

// getLive tells that the process answers.
func getLive(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return answer(w, http.StatusOK, api.Liveness{Live: true})
}

// getReady answers 503, with the reasons, unless every runner can do its work.
func getReady(w http.ResponseWriter, r *http.Request) error {
	problems := []string{}
	n := 0
	err := each(r, func(name string, st *runner.Status, now time.Time) {
		n++
		for _, p := range st.Problems(now) {
			problems = append(problems, "runner "+name+": "+p)
		}
	})
	var failed caddy.APIError
	switch {
	case errors.As(err, &failed) && failed.HTTPStatus >= http.StatusInternalServerError:
		problems = append(problems, failed.Message)
	case err != nil:
		return err
	case n == 0:
		problems = append(problems, "no runner is configured")
	}
	if len(problems) > 0 {
		return answer(w, http.StatusServiceUnavailable, api.Readiness{Problems: problems})
	}
	return answer(w, http.StatusOK, api.Readiness{Ready: true})
}

func getDatabases(w http.ResponseWriter, r *http.Request) error {
	doc := api.Databases{Databases: []api.Database{}}
	err := each(r, func(name string, st *runner.Status, now time.Time) {
		doc.Databases = append(doc.Databases, api.NewDatabases(name, st, now)...)
	})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, doc)
}

func getChannels(w http.ResponseWriter, r *http.Request) error {
	doc := api.Channels{Channels: []api.Channel{}}
	err := each(r, func(name string, st *runner.Status, now time.Time) {
		doc.Channels = append(doc.Channels, api.NewChannels(name, st, now)...)
	})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, doc)
}

func getUpstreams(w http.ResponseWriter, r *http.Request) error {
	doc := api.Upstreams{Upstreams: []api.Upstream{}}
	err := each(r, func(name string, st *runner.Status, _ time.Time) {
		doc.Upstreams = append(doc.Upstreams, api.NewUpstreams(name, st)...)
	})
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, doc)
}

func getTasks(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "runner")
	if err != nil {
		return err
	}
	all, err := runners(q.Get("runner"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	views := []api.Task{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		tasks, err := all[name].Tasks(ctx)
		if err != nil {
			return failure(fmt.Errorf("runner %s: %w", name, err))
		}
		views = append(views, api.NewTasks(name, tasks, time.Now())...)
	}
	return answer(w, http.StatusOK, api.Tasks{Tasks: views})
}

// getJobs reads one page of one runner's jobs.
func getJobs(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "runner", "database", "channel", "state", "exception", "older_than", "cursor", "limit")
	if err != nil {
		return err
	}
	f := api.JobFilter{
		Channel: q.Get("channel"), Exception: q.Get("exception"), OlderThan: q.Get("older_than"),
	}
	for _, list := range q["state"] {
		f.States = append(f.States, strings.Split(list, ",")...)
	}
	jq := runner.JobQuery{Database: q.Get("database"), Cursor: q.Get("cursor")}
	if jq.Filter, err = jobFilter(&f); err != nil {
		return err
	}
	if limit := q.Get("limit"); limit != "" {
		if jq.Limit, err = strconv.Atoi(limit); err != nil || jq.Limit < 1 {
			return apiError(http.StatusBadRequest, "limit %q is not a number from 1 on", limit)
		}
	}
	name, k, err := oneRunner(q.Get("runner"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*readTimeout)
	defer cancel()
	page, err := k.Jobs(ctx, jq)
	if err != nil {
		return failure(err)
	}
	views := []api.Job{}
	for i := range page.Jobs {
		views = append(views, api.NewJob(name, &page.Jobs[i]))
	}
	return answer(w, http.StatusOK, api.JobPage{Jobs: views, Next: page.Next, Problems: page.Problems})
}

// getJob tells of one job, and why it does or does not run.
func getJob(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "runner")
	if err != nil {
		return err
	}
	key := channels.Key{DB: r.PathValue("database"), UUID: r.PathValue("uuid")}
	all, err := runners(q.Get("runner"))
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return apiError(http.StatusServiceUnavailable, "no runner is configured")
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*readTimeout)
	defer cancel()
	text := ""
	for _, name := range slices.Sorted(maps.Keys(all)) {
		why, err := all[name].Why(ctx, key)
		if err != nil {
			return failure(fmt.Errorf("runner %s: %w", name, err))
		}
		served := why.Code != runner.WhyUnknownJob && why.Code != runner.WhyNotServed
		if why.Found || served && len(all) == 1 {
			return answer(w, http.StatusOK, api.NewWhy(name, &why))
		}
		if why.Problem != "" {
			return apiError(http.StatusBadGateway, "%s; reading the row failed: %s", why.Text, why.Problem)
		}
		if text == "" || why.Code == runner.WhyUnknownJob {
			text = why.Text
		}
	}
	return apiError(http.StatusNotFound, "%s", text)
}

// jobFilter checks the part of a request that selects jobs.
func jobFilter(f *api.JobFilter) (driver.Filter, error) {
	out := driver.Filter{UUIDs: f.UUIDs, Channel: f.Channel, Exception: f.Exception}
	for _, name := range f.States {
		state := channels.ParseState(name)
		if name == "" || state == channels.Unknown {
			return out, apiError(http.StatusBadRequest, "unknown state %q", name)
		}
		out.States = append(out.States, state)
	}
	if f.OlderThan != "" {
		var err error
		if out.OlderThan, err = duration("older_than", f.OlderThan); err != nil {
			return out, err
		}
	}
	return out, nil
}

// duration reads a duration as the Caddyfile writes it, days included.
func duration(name, s string) (time.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, apiError(http.StatusBadRequest, "%s %q is not a duration above 0, such as 90s, 36h or 2d", name, s)
	}
	return d, nil
}

// Interface guard.
var _ caddy.AdminRouter = adminAPI{}
