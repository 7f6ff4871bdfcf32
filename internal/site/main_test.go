package site

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddytest"
)

func init() {
	caddy.RegisterModule(asker{})
}

func TestMain(m *testing.M) {
	os.Exit(caddytest.Main(m))
}

var errFake = errors.New("fake failure")

// asker is an app that asks for the servers of a site when Caddy provisions it, as a runner does.
type asker struct {
	Site string `json:"site"`
	// Servers are the addresses of servers whose open sites are asked for instead.
	Servers []string `json:"servers,omitempty"`
	// Pool are further servers, which belong to a pool.
	Pool []string `json:"pool,omitempty"`
}

// answered and open are what the last asker got.
var (
	answered runner.Targets
	open     []string
)

func (asker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "asker", New: func() caddy.Module { return new(asker) }}
}

func (a *asker) Provision(ctx caddy.Context) (err error) {
	if len(a.Servers) > 0 {
		if answered, err = Explicit(a.Servers); err == nil && len(a.Pool) > 0 {
			answered, err = WithPools(answered, map[string][]string{"heavy": a.Pool})
		}
		if err == nil {
			open = Open(ctx, answered)
		}
		return err
	}
	answered, err = OfProxy(ctx, a.Site, ctx.Logger())
	return err
}

func (*asker) Start() error { return nil }
func (*asker) Stop() error  { return nil }

// ofProxy returns the servers behind the site at an address in a Caddyfile.
func ofProxy(t *testing.T, address, caddyfile string) (runner.Targets, error) {
	t.Helper()
	app, err := json.Marshal(asker{Site: address})
	require.NoError(t, err)
	err = caddy.Validate(caddytest.Config(t, "{\n\tpersist_config off\n}\n"+caddyfile, "asker", string(app)))
	return answered, err
}

// openOf returns the sites of a Caddyfile that leave the route to a server open.
func openOf(t *testing.T, server, caddyfile string, pool ...string) []string {
	t.Helper()
	app, err := json.Marshal(asker{Servers: []string{server}, Pool: pool})
	require.NoError(t, err)
	open = nil
	require.NoError(t, caddy.Validate(caddytest.Config(t, "{\n\tpersist_config off\n}\n"+caddyfile, "asker", string(app))))
	return open
}
