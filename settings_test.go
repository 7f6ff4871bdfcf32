package jobrunner

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// What the doctor shows as settings has everything that changes which jobs run.
func TestSettingsOfPolicies(t *testing.T) {
	r := Runner{
		Server: &Server{Workers: 8, MaxJobs: 5, Reserve: 2},
		Pools:  map[string]*Pool{"heavy": {Upstreams: []string{"10.0.0.7:8069"}, MaxJobs: 2}},
	}
	cfg := runner.Config{
		Postgres: &pgx.ConnConfig{},
		Policies: []policy.Policy{
			{Channels: []string{"root"}, Limit: &policy.Limit{Jobs: 4, Per: policy.PerDatabase, Burst: true}, Fair: policy.PerCompany},
			{
				Channels: []string{"root.*"}, Database: "prod_*", Fair: policy.PerDatabase, Serialize: policy.ByIdentityKey,
				Rate: &channels.Rate{Starts: 5, Period: time.Second, PerDatabase: true},
			},
			{
				Channels: []string{"root.night"}, Rate: &channels.Rate{Starts: 100, Period: time.Hour, Burst: 20},
				Capacity: []channels.Window{{Capacity: 1, Days: 1 << time.Saturday, To: 24 * 60, Zone: time.UTC}, {Days: 127, From: 8 * 60, To: 60, Zone: time.UTC}},
			},
			{Channels: []string{"root.export"}, Pool: &policy.Pool{Pool: "heavy", Fallback: true}, Objective: &policy.Objective{Wait: time.Minute}},
		},
		UpgradeGate: true, ReleaseDependents: true, Payloads: true,
	}
	got := map[string]string{}
	for _, s := range r.settings(&cfg, nil) {
		got[s.Name] = s.Value
	}
	for name, value := range map[string]string{
		"server":                        "workers 8, max_jobs 5, reserve 2",
		"pool heavy":                    "10.0.0.7:8069, max_jobs 2",
		"policy root.export":            "pool heavy fallback, objective wait 100% 1m0s",
		"policy root":                   "limit 4 per database burst, fair company",
		"policy root.* database prod_*": "fair database, serialize identity_key, rate 5/s per database",
		"policy root.night":             "capacity 1 sat 00:00-24:00 UTC, capacity 0 daily 08:00-01:00 UTC, rate 100/h burst 20",
		"upgrade_gate":                  "on",
		"release_dependents":            "on",
		"payloads":                      "on",
	} {
		require.Equal(t, value, got[name], name)
	}
}

// Nobody is warned of a channel without limit that has a part of the one above it, or follows the servers.
func TestUnlimitedChannels(t *testing.T) {
	none, two := 0, 2
	r := Runner{Channels: map[string]*Channel{
		"root": {Auto: true}, "root.part": {Percent: 25}, "root.two": {Capacity: &two}, "root.all": {OCACapacity: &none},
	}}
	core, logs := observer.New(zap.WarnLevel)
	_, err := r.channels(zap.New(core))
	require.NoError(t, err)
	require.Equal(t, 1, logs.Len(), "%v", logs.All())
	require.Equal(t, "root.all", logs.All()[0].ContextMap()["channel"])
}

// TestHistoryTells: what a history finds out of objectives goes where all events go.
func TestHistoryTells(t *testing.T) {
	o, err := new(Runner).history(&runner.Config{})
	require.NoError(t, err)
	require.NotNil(t, o.Tell)
}
