package doctor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// What puts back started jobs is told of if it does so before those must have ended.
func TestCollector(t *testing.T) {
	hour := policy.Policy{Channels: []string{"root"}, Timeout: &policy.Timeout{After: time.Hour}}
	graced := policy.Policy{Channels: []string{"root"}, Timeout: &policy.Timeout{After: time.Hour, Cancel: true, Grace: time.Minute}}
	elsewhere := hour
	elsewhere.Database = "other"
	after := func(d time.Duration) driver.StartedLimit { return driver.StartedLimit{After: d} }
	ofRequest := driver.StartedLimit{OfRequest: true}
	for name, c := range map[string]struct {
		limits   []driver.StartedLimit
		policies []policy.Policy
		odoo     *odooconf.Config
		want     string
	}{
		"nothing is known":         {[]driver.StartedLimit{after(time.Minute), ofRequest}, nil, nil, ""},
		"no action":                {nil, []policy.Policy{hour}, nil, ""},
		"after the limit":          {[]driver.StartedLimit{after(61 * time.Minute)}, []policy.Policy{hour}, nil, ""},
		"at the limit":             {[]driver.StartedLimit{after(time.Hour)}, []policy.Policy{hour}, nil, "been started for 1h0m0s, whether they run or not, and policy root lets jobs run for 1h0m0s"},
		"within the grace":         {[]driver.StartedLimit{after(61 * time.Minute)}, []policy.Policy{graced}, nil, "policy root lets jobs run for 1h1m0s"},
		"the longest":              {[]driver.StartedLimit{after(61 * time.Minute)}, []policy.Policy{graced, hour}, nil, "policy root lets jobs run for 1h1m0s"},
		"of another database":      {[]driver.StartedLimit{after(time.Minute)}, []policy.Policy{elsewhere}, nil, ""},
		"the first is later":       {[]driver.StartedLimit{after(2 * time.Hour), after(time.Minute)}, []policy.Policy{hour}, nil, "been started for 1m0s"},
		"Odoo's is not known":      {[]driver.StartedLimit{ofRequest}, []policy.Policy{hour}, nil, ""},
		"workers, as it comes":     {[]driver.StartedLimit{ofRequest}, []policy.Policy{hour}, &odooconf.Config{Workers: 4}, ""},
		"workers, earlier":         {[]driver.StartedLimit{after(2 * time.Minute)}, nil, &odooconf.Config{Workers: 4}, "and limit_time_real lets them run for 2m0s"},
		"workers, before a policy": {[]driver.StartedLimit{after(3 * time.Minute)}, []policy.Policy{hour}, &odooconf.Config{Workers: 4}, ""},
		"workers without a limit":  {[]driver.StartedLimit{ofRequest}, nil, &odooconf.Config{Workers: 4, LimitTimeReal: new(0)}, "been started for 1m0s, whether they run or not, and limit_time_real lets them run for as long as they want"},
		"and with a policy":        {[]driver.StartedLimit{after(2 * time.Hour)}, []policy.Policy{hour}, &odooconf.Config{Workers: 4, LimitTimeReal: new(0)}, ""},
		"threads":                  {[]driver.StartedLimit{ofRequest}, nil, &odooconf.Config{}, ""},
		"threads and a policy":     {[]driver.StartedLimit{ofRequest}, []policy.Policy{hour}, &odooconf.Config{LimitTimeReal: new(150)}, "been started for 3m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			e := &examination{subject: Subject{Odoo: c.odoo, Config: runner.Config{Policies: c.policies}}}
			e.collector("prod", &driver.Examination{StartedLimits: c.limits})
			if c.want == "" {
				require.Empty(t, e.found)
				return
			}
			require.Len(t, e.found, 1)
			require.Equal(t, "garbage_collector_early", e.found[0].Code)
			require.Equal(t, "prod", e.found[0].Database)
			require.Contains(t, e.found[0].Message, c.want)
		})
	}
}

// An upgrade is told of where it keeps jobs waiting.
func TestUpgrading(t *testing.T) {
	x := driver.Examination{Upgrade: driver.Upgrade{Active: true, Description: "modules are marked: sale (to upgrade)"}}
	e := &examination{}
	e.upgrading("prod", &x)
	require.Empty(t, e.found, "it does not matter")
	e.subject.Config.UpgradeGate = true
	e.upgrading("prod", &driver.Examination{})
	require.Empty(t, e.found)
	e.upgrading("prod", &x)
	x.Marked = time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)
	e.upgrading("prod", &x)
	require.Equal(t, "upgrade_gate keeps all of its jobs waiting, modules are marked: sale (to upgrade): finish the upgrade, or cancel it in Apps", e.found[0].Message)
	require.Contains(t, e.found[1].Message, "waiting since 2026-11-02T10:00:00Z or earlier, modules")
}
