package jobrunner

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
)

// quietly makes a configuration around the JSON of the app that logs nothing.
func quietly(app []byte) []byte {
	return []byte(`{"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"writer": {"output": "discard"}}}}, "apps": {"jobrunner": ` + string(app) + `}}`)
}

// tryConfig provisions and validates an app as the admin API does. Fake engines
// keep it off the network.
func tryConfig(t *testing.T, app []byte) error {
	t.Helper()
	rec := record(t)
	var cfg *caddy.Config
	require.NoError(t, json.Unmarshal(quietly(app), &cfg))
	err := caddy.Validate(cfg)
	require.Zero(t, supervisor.References(), "validating leaves nothing behind")
	require.Empty(t, rec.Take(), "validating starts nothing")
	return err
}

// FuzzConfig: JSON that comes in over the admin API is accepted or refused with
// an error, and the error shows no secret.
func FuzzConfig(f *testing.F) {
	const good = `"postgres": "host=db password=Hunter2", "upstreams": ["http://a", "unix//x"]`
	for _, s := range []string{
		`null`, `{}`, `[]`, `{"runners": null}`, `{"runners": {"default": null}}`, `{"runners": {"": {` + good + `}}}`,
		`{"runners": {"default": {` + good + `, "channels": {"root": null, "mail": {"capacity": -1, "throttle": 9223372036854775807}}}}}`,
		`{"runners": {"default": {` + good + `, "channels": {"a..b": {"sequential": true}, "": {"paused": true}}}, "b": {` + good + `}}}`,
		`{"runners": {"default": {` + good + `, "driver": {"driver": "odoo", "host": "{database}.x", "basic_auth": {"username": "u", "password": "Hunter2"}}}}}`,
		`{"runners": {"default": {` + good + `, "databases": ["a*", "!b", "["], "rescue_started_after": "2h", "quarantine": {"attempts": 3, "within": "72h"}, "discover_interval": "-1s"}}}`,
		`{"runners": {"default": {"postgres": "postgres://u:Hunter2/@[::1]:99999/x?sslmode=no", "upstreams": ["https://u:Hunter2@a", "ftp://x", ":0"]}}}`,
		`{"runners": {"default": {` + good + `, "policies": [{}, null, {"channels": ["root.*", "x", "["], "database": "{env.X}", "timeout": {"after": 1, "warn": "2m", "cancel": true, "grace": -1}}]}}}`,
		`{"runners": {"default": {` + good + `, "pooler": {"url": "postgres://u:Hunter2@[::1]:99999/x", "poll": -1}}}}`,
		`{"runners": {"default": {` + good + `, "pooler": {"url": "host=a port=6432 password=Hunter2 x=y", "poll": "2s"}}, "b": {` + good + `, "pooler": {}}}}`,
		`{"runners": {"default": {"postgres": "{env.NONE}", "upstreams": ["{http.x}"], "site": "x", "shutdown_timeout": "99999999h"}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, app []byte) {
		if !json.Valid(app) || touchesFiles(app) {
			return
		}
		if err := tryConfig(t, app); err != nil {
			require.NotEmpty(t, err.Error())
			if bytes.Contains(app, []byte(":Hunter2@")) || bytes.Contains(app, []byte("password=Hunter2")) {
				require.NotContains(t, err.Error(), "Hunter2")
			}
		}
	})
}

// touchesFiles keeps mutations from reading the machine's files, which may block.
func touchesFiles(config []byte) bool {
	lower := bytes.ToLower(config)
	for _, word := range []string{"import", "file", "odoo_config", "ssl", "service", "\\u"} {
		if bytes.Contains(lower, []byte(word)) {
			return true
		}
	}
	return false
}

// FuzzCaddyfile: the lines of a jobrunner block, and the arguments of the
// dashboard's directive, adapt to a configuration or to an error that names the
// place, and what is adapted is read again without one.
func FuzzCaddyfile(f *testing.F) {
	for _, s := range []string{
		"postgres host=db\nupstream http://a:1 b", "postgres host=db\nupstream a\nchannels root:4,mail:2:throttle=3,off:-1",
		"channel invoices {\nsequential\nthrottle 1500ms\n}\nchannel x 4 {\npaused\ncapacity_default 1\nsequential_default\n}",
		"policy root.* root {\ndatabase a*\nfunction a.b\ntimeout 15m {\nwarn 12m\ncancel\ngrace 30s\nretry\n}\n}\npolicy * {\ntimeout 1s\n}",
		"policy", "policy a", "policy * {\ntimeout\n}", "policy * {\ntimeout 1m {\nretry\n}\n}",
		"upgrade_gate\nrelease_dependents\npayloads", "upgrade_gate yes",
		"driver odoo {\nhost {database}.example.com\nbasic_auth u {env.X}\n}", "databases a* !b\ndiscover_interval 1m\nrescue_started_after 2h\nquarantine 3 in 72h\nshutdown_timeout 0",
		"}", "{", "channel", "channel a {\nthrottle -1\n}", "channels \"a:b\nc\"", "site odoo.example.com\npostgres_password x", "upstream \"\"",
	} {
		f.Add(s, "/ops {\nactions\n}")
	}
	f.Add("postgres host=db", "a*b")
	f.Fuzz(func(t *testing.T, lines, dashboard string) {
		text := "{\n\tjobrunner {\n" + lines + "\n\t}\n}\n:1 {\n\treverse_proxy a:1\n\tjobrunner_dashboard " + dashboard + "\n}\n"
		if touchesFiles([]byte(text)) || strings.Contains(text, "{$") {
			return
		}
		raw, err := adapt(t, text)
		if err != nil {
			return
		}
		var cfg struct {
			Apps struct {
				Runner json.RawMessage `json:"jobrunner"`
			} `json:"apps"`
		}
		require.NoError(t, json.Unmarshal(raw, &cfg))
		var app App
		if cfg.Apps.Runner != nil {
			require.NoError(t, caddy.StrictUnmarshalJSON(cfg.Apps.Runner, &app))
			_ = tryConfig(t, cfg.Apps.Runner)
		}
	})
}
