package dashboard

import (
	"context"
	"net/http"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// jobsShown bounds a page of the list of jobs.
	jobsShown = 100
	// bulkLimit bounds the jobs that one action of a visitor changes.
	bulkLimit = 1000
)

// getJobs lists a page of jobs.
func getJobs(w http.ResponseWriter, r *http.Request) error {
	q, name, err := admin.JobQuery(r)
	if err != nil {
		return err
	}
	if q.Limit == 0 || q.Limit > jobsShown {
		q.Limit = jobsShown
	}
	name, page, err := listed(r.Context(), name, q)
	if err != nil {
		return err
	}
	return admin.Answer(w, http.StatusOK, api.NewJobPage(name, &page))
}

// listed reads a page of the jobs of a runner for a visitor, and says which runner that is.
func listed(ctx context.Context, name string, q runner.JobQuery) (string, runner.JobPage, error) {
	var page runner.JobPage
	name, k, err := admin.OneRunner(name)
	if err != nil {
		return "", page, err
	}
	ctx, cancel := context.WithTimeout(ctx, failuresTimeout)
	defer cancel()
	err = visit(ctx, func() (err error) {
		page, err = k.Jobs(ctx, q)
		return err
	})
	if err != nil {
		return "", page, failure(err)
	}
	page.Problems = discreet(page.Problems)
	return name, page, nil
}

// getWhy says why a job does or does not run, getJob also all that its row says.
func getWhy(w http.ResponseWriter, r *http.Request) error {
	return tell(w, r, (*supervisor.Runner).Why)
}
func getJob(w http.ResponseWriter, r *http.Request) error {
	return tell(w, r, (*supervisor.Runner).Job)
}

// tell is the admin API's answer for one job, with the job in the query.
func tell(w http.ResponseWriter, r *http.Request, ask func(*supervisor.Runner, context.Context, channels.Key) (runner.Why, error)) error {
	q, err := admin.Query(r, "runner", "database", "uuid")
	if err != nil {
		return err
	}
	name, k, err := admin.OneRunner(q.Get("runner"))
	if err != nil {
		return err
	}
	key := channels.Key{DB: q.Get("database"), UUID: q.Get("uuid")}
	if key.UUID == "" {
		return admin.Error(http.StatusBadRequest, "uuid says which job is meant, or its first letters")
	}
	ctx, cancel := context.WithTimeout(r.Context(), failuresTimeout)
	defer cancel()
	var why runner.Why
	err = visit(ctx, func() (err error) {
		if key, err = admin.Find(ctx, k, key.DB, key.UUID); err == nil {
			why, err = ask(k, ctx, key)
		}
		return err
	})
	if err != nil {
		return failure(err)
	}
	why.Text, why.Problem = api.Discreet(why.Text), api.Discreet(why.Problem)
	if !why.Found && (why.Code == runner.WhyUnknownJob || why.Code == runner.WhyNotServed) {
		return admin.Error(http.StatusNotFound, "%s", why.Text)
	}
	return admin.Answer(w, http.StatusOK, admin.TellOfJob(name, &why))
}
