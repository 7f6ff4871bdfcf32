// Package admin is the admin API of the job runners: the routes below /jobrunner/ of Caddy's admin
// endpoint. The dashboard answers with parts of it.
package admin

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

func init() {
	caddy.RegisterModule(API{})
}

// API adds the routes below /jobrunner/ to Caddy's admin endpoint. It asks for the supervisor with
// every request: after a failed reload the endpoint belongs to the configuration that failed, and
// that one never came into force.
type API struct{}

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.jobrunner",
		New: func() caddy.Module { return new(API) },
	}
}

// Routes implements [caddy.AdminRouter].
func (API) Routes() []caddy.AdminRoute {
	get := func(path string, h caddy.AdminHandlerFunc) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: "/jobrunner/" + path, Handler: method(http.MethodGet, h)}
	}
	post := func(path string, h caddy.AdminHandlerFunc) caddy.AdminRoute {
		return caddy.AdminRoute{Pattern: "/jobrunner/" + path, Handler: method(http.MethodPost, h)}
	}
	return []caddy.AdminRoute{
		get("status", getStatus), get("live", getLive), get("ready", getReady),
		get("databases", getDatabases), get("channels", getChannels), get("upstreams", getUpstreams),
		get("tasks", getTasks), get("jobs", getJobs), get("jobs/{uuid}", getJob),
		get("jobs/{database}/{uuid}", getJob), get("events", getEvents), get("history", GetHistory),
		get("simulate", GetSimulation), get("forecast", GetForecast),
		post("pause", PostPause), post("resume", PostResume), post("drain", PostDrain), post("undrain", PostUndrain),
		post("requeue", ChangeJobs(driver.Requeue, 0)), post("cancel", ChangeJobs(driver.Cancel, 0)),
		post("set-done", ChangeJobs(driver.SetDone, 0)), post("postpone", ChangeJobs(driver.Postpone, 0)),
		post("resync", postResync),
	}
}

// method lets only requests of one method through.
func method(want string, h caddy.AdminHandlerFunc) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := OnlyMethod(w, r, want); err != nil {
			return err
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set(api.ProcessHeader, process)
		return h(w, r)
	}
}

// Interface guard.
var _ caddy.AdminRouter = API{}
