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
