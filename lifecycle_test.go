package jobrunner

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

func init() {
	caddy.RegisterModule(failingApp{})
}

// failingApp is another app of a configuration, whose start fails.
type failingApp struct {
	InProvision bool `json:"in_provision,omitempty"`
}

func (failingApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "failing", New: func() caddy.Module { return new(failingApp) }}
}

func (f *failingApp) Provision(caddy.Context) error {
	if f.InProvision {
		return errFake
	}
	return nil
}

func (*failingApp) Start() error { return errFake }
func (*failingApp) Stop() error  { return nil }

// config makes Caddy's JSON around the runners.
func config(runners, more string) []byte {
	apps := ""
	if runners != "" {
		apps = `"jobrunner": {"runners": {` + runners + `}}`
	}
	if more != "" && apps != "" {
		apps += ", "
	}
	return []byte(`{"admin": {"disabled": true, "config": {"persist": false}}, "apps": {` + apps + more + `}}`)
}

// one makes the JSON of a runner.
func one(name, dsn string, capacity int) string {
	return fmt.Sprintf(`%q: {"postgres": %q, "upstreams": ["http://127.0.0.1:1"], "channels": {"root": {"capacity": %d}}}`, name, dsn, capacity)
}

const (
	dsnA = "host=127.0.0.1 port=1 user=odoo dbname=postgres"
	dsnB = "host=127.0.0.1 port=2 user=odoo dbname=postgres"
)

// TestLifecycle goes through everything that can happen to a configuration, in one
// process and in the order in which an operator could meet its rows.
func TestLifecycle(t *testing.T) {
	rec := record(t)
	load := func(cfg []byte) error { return caddy.Load(cfg, true) }
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })

	t.Run("first load", func(t *testing.T) {
		require.NoError(t, load(config(one("default", dsnA, 1), "")))
		require.Equal(t, []string{"start 1: default root:1"}, rec.Take())
		require.NotNil(t, supervisor.Active())
	})
	t.Run("reload with another capacity", func(t *testing.T) {
		require.NoError(t, load(config(one("default", dsnA, 2), "")))
		require.Equal(t, []string{"reconfigure 1: default root:2"}, rec.Take())
		require.Equal(t, 1, supervisor.References())
	})
	t.Run("provisioning fails", func(t *testing.T) {
		require.ErrorContains(t, load(config(one("default", "port=x", 3), "")), "postgres: ")
		require.Empty(t, rec.Take())
		require.Equal(t, 1, supervisor.References())
	})
	t.Run("validation fails", func(t *testing.T) {
		negative := strings.Replace(one("default", dsnA, 3), "{", `{"rescue_started_after": -1, `, 1)
		require.ErrorContains(t, load(config(negative, "")), "runner default: rescue_started_after must not be negative")
		require.Empty(t, rec.Take())
		require.Equal(t, 1, supervisor.References())
	})
	t.Run("another app does not provision", func(t *testing.T) {
		for range 10 { // the order of apps is random
			require.ErrorContains(t, load(config(one("default", dsnA, 3), `"failing": {"in_provision": true}`)), errFake.Error())
		}
		require.Empty(t, rec.Take())
		require.Equal(t, 1, supervisor.References())
	})
	t.Run("another app does not start", func(t *testing.T) {
		for range 20 { // before or after this one, at random
			require.ErrorContains(t, load(config(one("default", dsnA, 3), `"failing": {}`)), errFake.Error())
		}
		require.Empty(t, rec.Take())
		require.Equal(t, 1, supervisor.References())
	})
	t.Run("setting up fails after everything started", func(t *testing.T) {
		cfg := bytes.Replace(config(one("default", dsnB, 3), ""), []byte(`"persist": false`),
			[]byte(`"persist": false, "load": {"module": "http", "url": "http://127.0.0.1:1/"}`), 1)
		require.ErrorContains(t, load(cfg), "loading dynamic config")
		require.Empty(t, rec.Take())
		require.Equal(t, 1, supervisor.References())
	})
	t.Run("reload after all that", func(t *testing.T) {
		require.NoError(t, load(config(one("default", dsnA, 4), "")))
		require.Equal(t, []string{"reconfigure 1: default root:4"}, rec.Take())
	})
	t.Run("another password", func(t *testing.T) {
		require.NoError(t, load(config(one("default", dsnA+" password=other", 4), "")))
		require.Equal(t, []string{"reconfigure 1: default root:4"}, rec.Take())
		require.Equal(t, "other", rec.Config("default").Postgres.Password)
	})
	t.Run("another PostgreSQL", func(t *testing.T) {
		require.NoError(t, load(config(one("default", dsnB, 4), "")))
		rec.Wait(1)
		require.ElementsMatch(t, []string{"stop 1 at once", "start 2: default root:4"}, rec.Take())
	})
	t.Run("a second runner", func(t *testing.T) {
		require.NoError(t, load(config(one("default", dsnB, 4)+","+one("mail", dsnA, 1), "")))
		require.Equal(t, []string{"reconfigure 2: default root:4", "start 3: mail root:1"}, rec.Take())
	})
	t.Run("the first runner is removed", func(t *testing.T) {
		require.NoError(t, load(config(one("mail", dsnA, 1), "")))
		rec.Wait(1)
		require.Equal(t, []string{"reconfigure 3: mail root:1", "stop 2 at once"}, rec.Take())
	})
	t.Run("the app is removed", func(t *testing.T) {
		require.NoError(t, load(config("", "")))
		rec.Wait(1)
		require.Equal(t, []string{"stop 3 at once"}, rec.Take())
		require.Nil(t, supervisor.Active())
	})
	t.Run("the app comes back", func(t *testing.T) {
		require.NoError(t, load(config(one("default", dsnA, 5), "")))
		require.Equal(t, []string{"start 4: default root:5"}, rec.Take())
	})
	t.Run("an app without runners", func(t *testing.T) {
		require.NoError(t, load(config("", `"jobrunner": {}`)))
		rec.Wait(1)
		require.Equal(t, []string{"stop 4 at once"}, rec.Take())
		require.NotNil(t, supervisor.Active())
	})
	t.Run("Caddy stops without exiting", func(t *testing.T) {
		require.NoError(t, load(config(one("default", dsnA, 6), "")))
		require.NoError(t, caddy.Stop())
		rec.Wait(1)
		require.Equal(t, []string{"start 5: default root:6", "stop 5 at once"}, rec.Take())
		require.Zero(t, supervisor.References())
	})
}

// TestEngineFailures shows that an engine that fails costs neither the others
// nor the web server, and that an old configuration is kept when the new one
// cannot be put into force.
func TestEngineFailures(t *testing.T) {
	rec := record(t)
	load := func(cfg []byte) error { return caddy.Load(cfg, true) }
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	require.NoError(t, load(config(one("a", dsnA, 1)+","+one("b", dsnA, 1), "")))
	require.Len(t, rec.Take(), 2)

	fail := func(err error, panicIn string) {
		rec.Set(func(r *fakerunner.Recorder) { r.FailReconfigure, r.PanicIn = err, panicIn })
	}
	fail(errFake, "")
	require.NoError(t, load(config(one("a", dsnA, 2)+","+one("b", dsnA, 2), "")))
	fail(nil, "reconfigure")
	require.NoError(t, load(config(one("a", dsnA, 2)+","+one("b", dsnA, 2), "")))
	fail(nil, "")
	require.Empty(t, rec.Take(), "both go on as they were")

	require.NoError(t, load(config(one("a", dsnA, 3)+","+one("b", dsnA, 3), "")))
	require.Equal(t, []string{"reconfigure 1: a root:3", "reconfigure 2: b root:3"}, rec.Take())

	fail(nil, "start")
	require.NoError(t, load(config(one("a", dsnB, 3)+","+one("b", dsnA, 4), "")))
	fail(nil, "stop")
	rec.Wait(1)
	require.ElementsMatch(t, []string{"stop 1 at once", "start 3: a root:3", "reconfigure 2: b root:4"}, rec.Take())

	require.NoError(t, load(config("", "")))
	rec.Wait(2)
	require.ElementsMatch(t, []string{"stop 3 at once", "stop 2 at once"}, rec.Take())
}

// TestReloads reloads a hundred times, every fourth in vain.
func TestReloads(t *testing.T) {
	rec := record(t)
	require.NoError(t, caddy.Load(config(one("default", dsnA, 1), ""), true))
	require.Equal(t, []string{"start 1: default root:1"}, rec.Take())
	before := runtime.NumGoroutine()
	ignore := goleak.IgnoreCurrent()
	for i := range 100 {
		if i%4 == 3 {
			require.Error(t, caddy.Load(config(one("default", dsnA, i+1), `"failing": {}`), true))
			require.Empty(t, rec.Take())
			continue
		}
		require.NoError(t, caddy.Load(config(one("default", dsnA, i+1), ""), true))
		require.Equal(t, []string{fmt.Sprintf("reconfigure 1: default root:%d", i+1)}, rec.Take())
	}
	require.Equal(t, 1, supervisor.References())
	goleak.VerifyNone(t, ignore)
	require.LessOrEqual(t, runtime.NumGoroutine(), before)
	require.NoError(t, caddy.Stop())
	rec.Wait(1)
	require.Equal(t, []string{"stop 1 at once"}, rec.Take())
}

// TestPatchCapacity changes one number through the admin API.
func TestPatchCapacity(t *testing.T) {
	rec := record(t)
	socket := filepath.Join(t.TempDir(), "admin.sock")
	cfg, err := adapt(t, `{
	admin unix/`+socket+`
	persist_config off
	jobrunner {
		postgres `+strings.ReplaceAll("postgres://odoo@127.0.0.1:1/postgres", " ", "")+`
		upstream http://127.0.0.1:1
		channel root
		channel mail 3
	}
}`)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(cfg, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	require.Equal(t, []string{"start 1: default root:1 root.mail:3"}, rec.Take())

	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	patch := func(path, value string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, "http://localhost/config/apps/jobrunner/runners/default/"+path, strings.NewReader(value))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	require.Equal(t, http.StatusOK, patch("channels/root/capacity", "7"))
	require.Equal(t, []string{"reconfigure 1: default root:7 root.mail:3"}, rec.Take())
	require.NotEqual(t, http.StatusOK, patch("channels/root/capacity", `"many"`))
	require.NotEqual(t, http.StatusOK, patch("channels/root/nonsense", `1`))
	require.Empty(t, rec.Take())
}

// TestMetricsOfConfigurations: every configuration's registry has them, including that of one which
// fails.
func TestMetricsOfConfigurations(t *testing.T) {
	record(t)
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	for i := range 20 {
		require.NoError(t, caddy.Load(config(one("default", dsnA, i+1), ""), true))
		require.Error(t, caddy.Load(config(one("default", dsnA, 99), `"failing": {}`), true))
	}
	ctx := caddy.ActiveContext()
	n, err := testutil.GatherAndCount(ctx.GetMetricsRegistry(), "caddy_jobrunner_open_exchanges")
	require.NoError(t, err)
	require.Equal(t, 1, n)
}
