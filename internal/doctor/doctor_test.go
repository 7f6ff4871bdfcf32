package doctor

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// servers is a fixed set of servers; without any, it cannot tell.
type servers []driver.Upstream

func (s servers) Upstreams(context.Context) ([]driver.Upstream, error) {
	if len(s) == 0 {
		return nil, errors.New("no such host")
	}
	return s, nil
}

// TestExamine: a driver that tells no more than it has to is examined, too, and runners one by one.
func TestExamine(t *testing.T) {
	w := mock.NewWorld()
	defer w.Close()
	w.AddDatabase("prod")
	base := runner.Config{Postgres: &pgx.ConnConfig{}, Driver: w.Driver()}
	first, second := base, base
	first.Name, first.Targets = "first", servers{{Name: "http://a:1"}}
	first.Channels = []channels.Config{{Name: "root", Capacity: 4}}
	second.Name, second.Targets = "second", servers{}
	second.Databases = []string{"test_*"}

	codes := map[string][]string{}
	for _, f := range Examine(t.Context(), []Subject{
		{Config: first, Odoo: &odooconf.Config{Workers: 4}}, {Config: second},
	}) {
		codes[f.Runner] = append(codes[f.Runner], f.Code)
		require.Contains(t, Codes(), f.Code)
		require.NotEmpty(t, f.Message)
	}
	require.Equal(t, map[string][]string{
		"first":  {"odoo_runner_on", "postgres", "database", "lock_free", "upstream", "route", "capacity_above_workers"},
		"second": {"postgres", "no_database", "no_upstream", "no_channels"},
	}, codes)
}

// TestMissing: a database is missed that is to be served by its own name, not one that a pattern may
// still find or that is excluded.
func TestMissing(t *testing.T) {
	w := mock.NewWorld()
	defer w.Close()
	w.AddDatabase("demo_shop")
	for _, c := range []struct {
		databases []string
		missing   []string
	}{
		{databases: []string{"prod", "demo_shop"}, missing: []string{"prod"}},
		{databases: []string{"prod"}, missing: []string{"prod"}},
		{databases: []string{"prod*", "pro?", "[p]rod", "demo_shop"}},
		{databases: []string{"demo_shop", "prod", "!prod"}},
		{databases: []string{"!prod"}},
		{},
	} {
		cfg := runner.Config{Postgres: &pgx.ConnConfig{}, Driver: w.Driver(), Targets: servers{}, Databases: c.databases}
		var missing []string
		for _, f := range Examine(t.Context(), []Subject{{Config: cfg}}) {
			if f.Code == "database_missing" {
				require.Equal(t, Warning, f.Severity)
				missing = append(missing, f.Database)
			}
		}
		require.Equal(t, c.missing, missing, "%q", c.databases)
	}
}
