package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// upstreams checks the servers.
func (e *examination) upstreams() {
	ctx, cancel := context.WithTimeout(e.ctx, serverTimeout)
	defer cancel()
	ups, err := e.subject.Config.Targets.Upstreams(ctx)
	if err != nil || len(ups) == 0 {
		e.add(foundNoUpstream, "no Odoo server is known, check the upstreams of the reverse_proxy or name them with upstream: %v", err)
		return
	}
	for _, up := range ups {
		e.upstream(up)
	}
}

// upstream checks one server: whether it answers, and whether it answers for
// each database as the add-on does for a job that does not exist.
func (e *examination) upstream(up driver.Upstream) {
	drv := e.subject.Config.Driver
	add := func(k kind, format string, args ...any) *Finding {
		f := e.add(k, format, args...)
		f.Upstream = up.Name
		return f
	}
	err := e.within(func(ctx context.Context) error { return drv.Check(ctx, up) })
	switch {
	case errors.Is(err, driver.ErrNoAnswer):
		add(foundBusy, "it accepts connections and does not answer within %s: all workers may be busy, add some", serverTimeout)
		return
	case err != nil:
		add(foundDown, "it takes no jobs, start Odoo or correct its address: %s", err)
		return
	}
	add(foundUp, "it answers")
	for _, name := range slices.Sorted(maps.Keys(e.served)) {
		x := e.served[name]
		var res driver.Result
		_ = e.within(func(ctx context.Context) error {
			res = drv.Run(ctx, up, driver.Task{Key: channels.Key{DB: name, UUID: uuid.NewString()}, DriverState: x.DriverState})
			return nil
		})
		switch {
		case res.Outcome == driver.Answered && res.Status < 300:
			add(foundRoute, "it would run jobs of this database").Database = name
		case res.Outcome == driver.Answered || res.Outcome == driver.Refused || res.Outcome == driver.Unavailable:
			add(foundRouteRefused, "it would not run jobs of this database (%s): load %s with server_wide_modules, let the Host header pass dbfilter (driver odoo { host ... }), and look for a login or maintenance page that answers in place of Odoo",
				said(res), x.Module).Database = name
		default:
			add(foundRouteBroken, "it did not answer for a job of this database: %v", res.Err).Database = name
		}
	}
}

func said(res driver.Result) string {
	if res.Err != nil {
		return res.Err.Error()
	}
	return fmt.Sprintf("status %d", res.Status)
}

func (e *examination) within(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(e.ctx, serverTimeout)
	defer cancel()
	return f(ctx)
}
