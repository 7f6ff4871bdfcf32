package admin

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
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Limits of the admin API.
const (
	// readTimeout bounds a question, actTimeout an action, which may change many
	// jobs in batches.
	readTimeout = 10 * time.Second
	actTimeout  = api.ActionTimeout
	// bodyLimit bounds what an action's body may hold.
	bodyLimit = 1 << 20
	// nameLimit bounds texts by which people describe themselves and their reasons.
	nameLimit = 200
	// subjectLimit bounds the name of what is paused, in bytes.
	subjectLimit = 256
	// wordLimit bounds a text that selects jobs, in bytes.
	wordLimit = 1024
)

// Error is an error that the client gets to read, with its HTTP status.
func Error(status int, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return caddy.APIError{HTTPStatus: status, Err: err, Message: err.Error()}
}

// Failure turns an error of a runner into one of the API; nil stays nil.
func Failure(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, runner.ErrUnknownDatabase):
		return Error(http.StatusNotFound, "%w", err)
	case errors.Is(err, runner.ErrBadCursor):
		return Error(http.StatusBadRequest, "%w", err)
	case errors.Is(err, runner.ErrNoOperator):
		return Error(http.StatusNotImplemented, "%w", err)
	case errors.Is(err, runner.ErrStopped):
		return Error(http.StatusServiceUnavailable, "%w", err)
	case errors.Is(err, context.DeadlineExceeded):
		return Error(http.StatusGatewayTimeout, "%w", err)
	}
	return Error(http.StatusBadGateway, "%w", err)
}

// Answer sends a document.
func Answer(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return Error(http.StatusInternalServerError, "the answer cannot be written: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client has gone
	return nil
}

// OnlyMethod refuses a request of another method; a HEAD passes for a GET.
func OnlyMethod(w http.ResponseWriter, r *http.Request, want string) error {
	if r.Method == want || want == http.MethodGet && r.Method == http.MethodHead {
		return nil
	}
	w.Header().Set("Allow", want)
	return Error(http.StatusMethodNotAllowed, "method %s is not allowed here, use %s", r.Method, want)
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
		return nil, Error(http.StatusNotFound, "there is no runner %q", name)
	}
	return map[string]*supervisor.Runner{name: k}, nil
}

// OneRunner returns the named runner, or the only one if name is empty, with its name.
func OneRunner(name string) (string, *supervisor.Runner, error) {
	all, err := runners(name)
	if err != nil {
		return "", nil, err
	}
	if len(all) == 0 {
		return "", nil, Error(http.StatusServiceUnavailable, "no runner is configured")
	}
	names := slices.Sorted(maps.Keys(all))
	if len(all) > 1 {
		return "", nil, Error(http.StatusBadRequest, "there are several runners, say which: %s", strings.Join(names, ", "))
	}
	return names[0], all[names[0]], nil
}

// Query returns the parameters of a request, and checks that a request has none but the known parameters, each once.
func Query(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, Error(http.StatusBadRequest, "the query cannot be read: %w", err)
	}
	for name, list := range values {
		if !slices.Contains(known, name) {
			return nil, Error(http.StatusBadRequest, "unknown parameter %q, known are: %s", name, strings.Join(known, ", "))
		}
		if len(list) > 1 && name != "state" && name != "event" && name != "set" {
			return nil, Error(http.StatusBadRequest, "parameter %s is given more than once", name)
		}
	}
	return values, nil
}

// stateNames are the states of jobs.
func stateNames() (names []string) {
	for s := channels.WaitDependencies; s <= channels.Failed; s++ {
		names = append(names, s.String())
	}
	return names
}

// jobFilter checks the part of a request that selects jobs.
func jobFilter(f *api.JobFilter) (driver.Filter, error) {
	out := driver.Filter{
		UUIDs: f.UUIDs, Channel: f.Channel, Exception: f.Exception, Function: f.Function, Name: f.Name, Identity: f.Identity,
	}
	for _, text := range []string{f.Channel, f.Exception, f.Function, f.Name, f.Identity} {
		if len(text) > wordLimit || !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			return out, Error(http.StatusBadRequest, "a text that selects jobs has at most %d bytes, in UTF-8", wordLimit)
		}
	}
	for _, name := range f.States {
		state := channels.ParseState(name)
		if name == "" || state == channels.Unknown {
			return out, Error(http.StatusBadRequest, "unknown state %q, known are %s", name, strings.Join(stateNames(), ", "))
		}
		out.States = append(out.States, state)
	}
	for _, age := range []struct {
		name, text string
		to         *time.Duration
	}{{"older_than", f.OlderThan, &out.OlderThan}, {"newer_than", f.NewerThan, &out.NewerThan}} {
		if age.text == "" {
			continue
		}
		var err error
		if *age.to, err = duration(age.name, age.text); err != nil {
			return out, err
		}
	}
	return out, nil
}

// duration reads a duration as the Caddyfile writes it, days included.
func duration(name, s string) (time.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, Error(http.StatusBadRequest, "%s %q is not a duration above 0, such as 90s, 36h or 2d", name, s)
	}
	return d, nil
}
