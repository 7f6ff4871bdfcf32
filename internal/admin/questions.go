package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// each asks the runners that a request concerns for their status.
func each(r *http.Request, show func(name string, k *supervisor.Runner, st *runner.Status, now time.Time)) error {
	q, err := Query(r, "runner")
	if err != nil {
		return err
	}
	return eachOf(r, q.Get("runner"), show)
}

// eachOf asks the named runner, or all.
func eachOf(r *http.Request, only string, show func(name string, k *supervisor.Runner, st *runner.Status, now time.Time)) error {
	all, err := runners(only)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		st, err := all[name].Status(ctx)
		if err != nil {
			return Failure(fmt.Errorf("runner %s: %w", name, err))
		}
		show(name, all[name], &st, time.Now())
	}
	return nil
}

func getStatus(w http.ResponseWriter, r *http.Request) error {
	views := []api.Status{}
	err := each(r, func(name string, k *supervisor.Runner, st *runner.Status, now time.Time) {
		v := api.NewStatus(name, st, now)
		v.Ready = !k.Fails(st.Health(now))
		v.Burning = burning(k)
		views = append(views, v)
	})
	if err != nil {
		return err
	}
	return Answer(w, http.StatusOK, api.Statuses{Runners: views})
}

// getLive tells that the process answers.
func getLive(w http.ResponseWriter, r *http.Request) error {
	if _, err := Query(r); err != nil {
		return err
	}
	return Answer(w, http.StatusOK, api.Liveness{Live: true})
}

// getReady answers 503, with the reasons, unless every runner does its work as far as its
// configuration wants it.
func getReady(w http.ResponseWriter, r *http.Request) error {
	problems := []string{}
	worst, n, fails := runner.Ready, 0, false
	err := each(r, func(name string, k *supervisor.Runner, st *runner.Status, now time.Time) {
		n++
		health := st.Health(now)
		worst = max(worst, health)
		fails = fails || k.Fails(health)
		for _, p := range slices.Concat(st.Problems(now), st.Warnings(now)) {
			problems = append(problems, "runner "+name+": "+api.Plain(p))
		}
	})
	var failed caddy.APIError
	switch {
	case errors.As(err, &failed) && failed.HTTPStatus >= http.StatusInternalServerError:
		problems, worst, fails = append(problems, failed.Message), runner.NotReady, true
	case err != nil:
		return err
	case n == 0:
		problems, worst, fails = append(problems, "no runner is configured"), runner.NotReady, true
	}
	status := http.StatusOK
	if fails {
		status = http.StatusServiceUnavailable
	}
	return Answer(w, status, api.Readiness{Ready: !fails, State: worst.String(), Problems: problems})
}

// getDatabases lists a page of the databases, or of those in some states.
func getDatabases(w http.ResponseWriter, r *http.Request) error {
	q, err := Query(r, "runner", "limit", "offset", "state")
	if err != nil {
		return err
	}
	page, err := pageIn(q)
	if err != nil {
		return err
	}
	states, err := databaseStates(q)
	if err != nil {
		return err
	}
	list := []api.Database{}
	err = eachOf(r, q.Get("runner"), func(name string, _ *supervisor.Runner, st *runner.Status, now time.Time) {
		for _, v := range api.NewDatabases(name, st, now) {
			if len(states) == 0 || slices.Contains(states, v.State) {
				list = append(list, v)
			}
		}
	})
	if err != nil {
		return err
	}
	list, rest := cut(page, list)
	return Answer(w, http.StatusOK, api.Databases{Databases: list, Rest: rest})
}

// databaseStates are those that a request restricts databases to.
func databaseStates(q url.Values) (states []string, err error) {
	for _, list := range q["state"] {
		for name := range strings.SplitSeq(list, ",") {
			if _, ok := runner.ParseDatabaseState(name); !ok {
				return nil, Error(http.StatusBadRequest, "unknown state %q of a database", name)
			}
			states = append(states, name)
		}
	}
	return states, nil
}

// getChannels lists a page of the channels.
func getChannels(w http.ResponseWriter, r *http.Request) error {
	page, name, err := pageOf(r)
	if err != nil {
		return err
	}
	list := []api.Channel{}
	err = eachOf(r, name, func(name string, _ *supervisor.Runner, st *runner.Status, now time.Time) {
		list = append(list, api.NewChannels(name, st, now)...)
	})
	if err != nil {
		return err
	}
	list, rest := cut(page, list)
	return Answer(w, http.StatusOK, api.Channels{Channels: list, Rest: rest})
}

func getUpstreams(w http.ResponseWriter, r *http.Request) error {
	doc := api.Upstreams{Upstreams: []api.Upstream{}}
	err := each(r, func(name string, _ *supervisor.Runner, st *runner.Status, _ time.Time) {
		doc.Upstreams = append(doc.Upstreams, api.NewUpstreams(name, st)...)
	})
	if err != nil {
		return err
	}
	return Answer(w, http.StatusOK, doc)
}

// getTasks lists a page of the jobs that hold slots.
func getTasks(w http.ResponseWriter, r *http.Request) error {
	page, only, err := pageOf(r)
	if err != nil {
		return err
	}
	all, err := runners(only)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
	defer cancel()
	views := []api.Task{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		tasks, err := all[name].Tasks(ctx)
		if err != nil {
			return Failure(fmt.Errorf("runner %s: %w", name, err))
		}
		views = append(views, api.NewTasks(name, tasks, time.Now())...)
	}
	views, rest := cut(page, views)
	return Answer(w, http.StatusOK, api.Tasks{Tasks: views, Rest: rest})
}

// jobsPatience is how long a page of jobs is looked for, unless the request says otherwise: who types a
// command would rather wait than ask again.
const jobsPatience = 3 * time.Second

// getJobs reads one page of one runner's jobs.
func getJobs(w http.ResponseWriter, r *http.Request) error {
	jq, name, err := JobQuery(r)
	if err != nil {
		return err
	}
	name, k, err := OneRunner(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), api.QuestionTimeout)
	defer cancel()
	jq.Patience = cmp.Or(jq.Patience, jobsPatience)
	page, err := k.Jobs(ctx, jq)
	if err != nil {
		return Failure(err)
	}
	doc := api.NewJobPage(name, &page)
	if len(doc.Jobs) == 0 && doc.Next == "" && jq.Cursor == "" {
		doc.Warning = foundNone(ctx, k, jq.Filter.Channel)
	}
	return Answer(w, http.StatusOK, doc)
}

// JobQuery reads which page of which jobs a request asks for, and of which runner.
func JobQuery(r *http.Request) (jq runner.JobQuery, name string, err error) {
	q, err := Query(r, "runner", "database", "channel", "state", "exception", "function", "name", "identity", "older_than", "newer_than",
		"uuid", "cursor", "limit", "within")
	if err != nil {
		return jq, "", err
	}
	f := api.JobFilter{
		Channel: q.Get("channel"), Exception: q.Get("exception"), Function: q.Get("function"), Name: q.Get("name"),
		Identity: q.Get("identity"), OlderThan: q.Get("older_than"), NewerThan: q.Get("newer_than"),
	}
	for _, list := range q["state"] {
		f.States = append(f.States, strings.Split(list, ",")...)
	}
	jq.Database, jq.Cursor = q.Get("database"), q.Get("cursor")
	if jq.Filter, err = jobFilter(&f); err != nil {
		return jq, "", err
	}
	if uuid := q.Get("uuid"); uuid != "" {
		byUUID(&jq.Filter, uuid)
	}
	if s := q.Get("within"); s != "" {
		if jq.Patience, err = duration("within", s); err != nil {
			return jq, "", err
		}
	}
	jq.Limit, err = number(q, "limit", 1, 0)
	return jq, q.Get("runner"), err
}

// getJob tells of one job, and why it does or does not run.
func getJob(w http.ResponseWriter, r *http.Request) error {
	q, err := Query(r, "runner")
	if err != nil {
		return err
	}
	all, err := runners(q.Get("runner"))
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return Error(http.StatusServiceUnavailable, "no runner is configured")
	}
	ctx, cancel := context.WithTimeout(r.Context(), api.QuestionTimeout)
	defer cancel()
	key, err := findIn(ctx, all, r.PathValue("database"), r.PathValue("uuid"))
	if err != nil {
		return err
	}
	text := ""
	for _, name := range slices.Sorted(maps.Keys(all)) {
		why, err := all[name].Job(ctx, key)
		if err != nil {
			return Failure(fmt.Errorf("runner %s: %w", name, err))
		}
		served := why.Code != runner.WhyUnknownJob && why.Code != runner.WhyNotServed
		if why.Found || served && len(all) == 1 {
			return Answer(w, http.StatusOK, TellOfJob(name, &why))
		}
		if why.Problem != "" {
			return Error(http.StatusBadGateway, "%s; reading the row failed: %s", why.Text, why.Problem)
		}
		if text == "" || why.Code == runner.WhyUnknownJob {
			text = why.Text
		}
	}
	return Error(http.StatusNotFound, "%s", text)
}
