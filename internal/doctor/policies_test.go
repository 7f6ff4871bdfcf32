package doctor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// A time limit lies below what kills workers, and what takes jobs for dead lies above it.
func TestTimeouts(t *testing.T) {
	for name, c := range map[string]struct {
		timeout policy.Timeout
		odoo    *odooconf.Config
		rescue  time.Duration
		want    []string
	}{
		"nothing is known":         {policy.Timeout{After: time.Hour}, nil, 0, nil},
		"threads":                  {policy.Timeout{After: time.Hour}, &odooconf.Config{}, 0, nil},
		"the default, below":       {policy.Timeout{After: time.Minute}, &odooconf.Config{Workers: 4}, 0, nil},
		"the default":              {policy.Timeout{After: 2 * time.Minute}, &odooconf.Config{Workers: 4}, 0, []string{"timeout_above_limit_time_real"}},
		"the default, with grace":  {policy.Timeout{After: 90 * time.Second, Cancel: true}, &odooconf.Config{Workers: 4}, 0, []string{"timeout_above_limit_time_real"}},
		"no limit":                 {policy.Timeout{After: time.Hour}, &odooconf.Config{Workers: 4, LimitTimeReal: new(0)}, 0, nil},
		"a higher one":             {policy.Timeout{After: time.Hour}, &odooconf.Config{Workers: 4, LimitTimeReal: new(7200)}, 0, nil},
		"a lower one":              {policy.Timeout{After: time.Hour}, &odooconf.Config{Workers: 4, LimitTimeReal: new(3600)}, 0, []string{"timeout_above_limit_time_real"}},
		"rescued later":            {policy.Timeout{After: time.Hour}, nil, 2 * time.Hour, nil},
		"rescued before":           {policy.Timeout{After: time.Hour}, nil, time.Hour, []string{"rescue_before_timeout"}},
		"rescued during the grace": {policy.Timeout{After: time.Hour, Cancel: true, Grace: time.Minute}, nil, time.Hour + time.Second, []string{"rescue_before_timeout"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &examination{subject: Subject{Odoo: c.odoo, Config: runner.Config{
				RescueStartedAfter: c.rescue, Policies: []policy.Policy{{Channels: []string{"root"}, Timeout: &c.timeout}},
			}}}
			e.policies()
			var codes []string
			for _, f := range e.found {
				codes = append(codes, f.Code)
				require.Contains(t, f.Message, "policy root: ")
			}
			require.Equal(t, c.want, codes)
		})
	}
}

// The first policy counts that matches a job, so that one after a more general one never does.
func TestPolicyThatNeverCounts(t *testing.T) {
	limited := func(channels ...string) policy.Policy {
		return policy.Policy{Channels: channels, Timeout: &policy.Timeout{After: time.Minute}}
	}
	for name, c := range map[string]struct {
		policies []policy.Policy
		want     []string
	}{
		"specific first": {[]policy.Policy{limited("root.export*"), limited("root*")}, nil},
		"general first": {
			[]policy.Policy{limited("root*"), limited("root.export*")},
			[]string{"policy root.export*: its timeout limits no job, because policy root* comes before it and matches all of its jobs: put what is specific before what is general"},
		},
		"capacity and rate": {
			[]policy.Policy{
				{Channels: []string{"root*"}, Capacity: make([]channels.Window, 1)}, {Channels: []string{"root"}, Rate: new(channels.Rate)},
				{Channels: []string{"root"}, Capacity: make([]channels.Window, 1), Rate: new(channels.Rate)},
			},
			[]string{
				"policy root: its capacity limits no channel, because policy root* comes before it and matches all of its jobs: put what is specific before what is general",
				"policy root: its rate limits no channel, because policy root comes before it and matches all of its jobs: put what is specific before what is general",
			},
		},
		"rates of two kinds": {
			[]policy.Policy{
				{Channels: []string{"root"}, Rate: new(channels.Rate)}, {Channels: []string{"root"}, Rate: &channels.Rate{PerDatabase: true}},
				{Channels: []string{"root"}, Database: "prod", Rate: &channels.Rate{PerDatabase: true}},
			},
			[]string{"policy root database prod: its rate per database limits no job, because policy root comes before it and matches all of its jobs: put what is specific before what is general"},
		},
		"without the option": {[]policy.Policy{{Channels: []string{"root*"}}, limited("root.export*")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := &examination{subject: Subject{Config: runner.Config{Policies: c.policies}}}
			e.policies()
			var found []string
			for _, f := range e.found {
				require.Equal(t, "policy_never_counts", f.Code)
				found = append(found, f.Message)
			}
			require.Equal(t, c.want, found)
		})
	}
}

// What counts against the workers is the highest capacity of root at any time.
func TestCapacityAtAnyTime(t *testing.T) {
	for name, c := range map[string]struct {
		windows []channels.Window
		own     int
		want    []string
	}{
		"own":           {nil, 3, nil},
		"lower":         {[]channels.Window{{Capacity: 1}}, 3, nil},
		"at night":      {[]channels.Window{{Capacity: 1}, {Capacity: 8}}, 3, []string{"capacity_above_workers"}},
		"own is enough": {[]channels.Window{{Capacity: 1}}, 8, []string{"capacity_above_workers"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := runner.Config{Channels: []channels.Config{{Name: "root", Capacity: c.own}}}
			if c.windows != nil {
				cfg.Policies = []policy.Policy{{Channels: []string{"root*"}, Capacity: c.windows}}
			}
			e := &examination{subject: Subject{Config: cfg, Odoo: &odooconf.Config{Workers: 8}}}
			e.capacity()
			var codes []string
			for _, f := range e.found {
				codes = append(codes, f.Code)
			}
			require.Equal(t, c.want, codes)
		})
	}
}

// Whether jobs can be ended matters only where a policy ends some.
func TestCancels(t *testing.T) {
	limits := func(database string, cancel bool) policy.Policy {
		return policy.Policy{Channels: []string{"root"}, Database: database, Timeout: &policy.Timeout{After: time.Hour, Cancel: cancel}}
	}
	e := &examination{subject: Subject{Config: runner.Config{Policies: []policy.Policy{
		limits("told", false), limits("prod_*", true), {Channels: []string{"root"}, Fair: policy.PerDatabase},
	}}}}
	require.True(t, e.cancels("prod_a"))
	require.False(t, e.cancels("told"))
	require.False(t, e.cancels("other"))
}

// What was ended without a trace, and is to be tried again, is only let go of after rescue_started_after.
func TestTimeoutWithoutRescue(t *testing.T) {
	for name, c := range map[string]struct {
		cancel, retry bool
		rescue        time.Duration
		served        driver.Examination
		found         bool
	}{
		"nothing sets them free": {true, true, 0, driver.Examination{}, true},
		"rescued":                {true, true, 2 * time.Hour, driver.Examination{}, false},
		"not tried again":        {true, false, 0, driver.Examination{}, false},
		"not ended":              {false, true, 0, driver.Examination{}, false},
		"cannot be ended":        {true, true, 0, driver.Examination{Unstoppable: "no lock table"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy.Policy{Channels: []string{"root"}, Timeout: &policy.Timeout{After: time.Hour, Cancel: c.cancel, Retry: c.retry}}
			e := &examination{
				subject: Subject{Config: runner.Config{RescueStartedAfter: c.rescue, Policies: []policy.Policy{p}}},
				served:  map[string]driver.Examination{"prod": c.served},
			}
			e.policies()
			if !c.found {
				require.Empty(t, e.found)
				return
			}
			require.Len(t, e.found, 1)
			require.Equal(t, "timeout_without_rescue", e.found[0].Code)
		})
	}
}

// A channel that lets all jobs pass at once has nothing to share.
func TestFairWithoutScarcity(t *testing.T) {
	for name, c := range map[string]struct {
		policy string
		cfg    runner.Config
		idle   bool
	}{
		"root":             {"root", runner.Config{}, false},
		"unlimited":        {"root.mail", runner.Config{Channels: []channels.Config{{Name: "root.mail"}}}, true},
		"unknown":          {"root.mail", runner.Config{}, true},
		"another":          {"root.mail", runner.Config{Channels: []channels.Config{{Name: "stock", Capacity: 2}}}, true},
		"a capacity":       {"root.mail", runner.Config{Channels: []channels.Config{{Name: "mail", Capacity: 2}}}, false},
		"a throttle":       {"root.m*", runner.Config{Channels: []channels.Config{{Name: "root.mail", Throttle: time.Second}}}, false},
		"of children":      {"root.mail.*", runner.Config{Channels: []channels.Config{{Name: "root.mail", CapacityDefault: 2}}}, false},
		"in each database": {"root.mail", runner.Config{DatabaseChannels: &channels.Capacities{}}, false},
		"every channel":    {"root*", runner.Config{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.Policies = []policy.Policy{{Channels: []string{c.policy}, Fair: policy.PerDatabase}}
			e := &examination{subject: Subject{Config: c.cfg}}
			e.policies()
			if !c.idle {
				require.Empty(t, e.found)
				return
			}
			require.Len(t, e.found, 1)
			require.Equal(t, "policy_never_counts", e.found[0].Code)
			require.Contains(t, e.found[0].Message, "policy "+c.policy+": its fair counts for no job")
		})
	}
}
