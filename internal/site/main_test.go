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
}

// answered is what the last asker got.
var answered runner.Targets

func (asker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "asker", New: func() caddy.Module { return new(asker) }}
}

func (a *asker) Provision(ctx caddy.Context) (err error) {
	answered, err = OfProxy(ctx, a.Site, ctx.Logger())
	return err
}

func (*asker) Start() error { return nil }
func (*asker) Stop() error  { return nil }

// ofProxy returns the servers behind the site at an address in a Caddyfile.
func ofProxy(t *testing.T, address, caddyfile string) (runner.Targets, error) {
	t.Helper()
	app, err := json.Marshal(asker{address})
	require.NoError(t, err)
	err = caddy.Validate(caddytest.Config(t, "{\n\tpersist_config off\n}\n"+caddyfile, "asker", string(app)))
	return answered, err
}
