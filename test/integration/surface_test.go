package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// endpoint is one path of the admin API. Its body is one that would be accepted.
type endpoint struct{ method, path, body string }

// endpoints are all of them, by pattern.
func (tb *testBed) endpoints(failed string) map[string]endpoint {
	db, upstream := tb.dbs[0], "http://"+tb.Odoo[0].Addr()
	one := fmt.Sprintf(`"database":%q,"uuids":[%q]`, db, failed)
	all := map[string]endpoint{
		"jobs/{database}/{uuid}": {http.MethodGet, "jobs/" + db + "/" + failed, ""},
		"jobs/{uuid}":            {http.MethodGet, "jobs/" + failed, ""},
		"pause":                  {http.MethodPost, "pause", `{"channel":"mail"}`},
		"resume":                 {http.MethodPost, "resume", `{"channel":"held"}`},
		"drain":                  {http.MethodPost, "drain", fmt.Sprintf(`{"upstream":%q}`, upstream)},
		"undrain":                {http.MethodPost, "undrain", fmt.Sprintf(`{"upstream":%q}`, upstream)},
		"requeue":                {http.MethodPost, "requeue", "{" + one + "}"},
		"cancel":                 {http.MethodPost, "cancel", "{" + one + "}"},
		"set-done":               {http.MethodPost, "set-done", "{" + one + "}"},
		"postpone":               {http.MethodPost, "postpone", `{"all":true,"for":"1h"}`},
		"resync":                 {http.MethodPost, "resync", `{}`},
	}
	for _, path := range []string{"status", "live", "ready", "databases", "channels", "upstreams", "tasks", "jobs", "history", "simulate", "forecast", "events"} {
		all[path] = endpoint{http.MethodGet, path, ""}
	}
	return all
}

// answerTo sends a request and returns its status and what it says.
func (tb *testBed) answerTo(method, path, body string, change func(*http.Request)) (status int, allow, text string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, "http://"+tb.admin+"/jobrunner/"+path, strings.NewReader(body))
	require.NoError(tb, err)
	req.Header.Set("Content-Type", "application/json")
	change(req)
	res, err := testbed.Client.Do(req)
	require.NoError(tb, err)
	defer testbed.Client.CloseIdleConnections()
	defer res.Body.Close()
	raw := make([]byte, 1<<10)
	n, _ := res.Body.Read(raw) // an empty answer is one, too
	return res.StatusCode, res.Header.Get("Allow"), string(raw[:n])
}

// TestEveryEndpoint: whatever must not be sent to it gets the right status and a
// message that says why, and changes nothing.
func TestEveryEndpoint(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	failed := tb.enqueue(tb.dbs[0], odoostub.JobSpec{State: "failed"})[0]
	tb.post("pause", `{"channel":"held"}`, http.StatusOK)
	tb.enqueue(tb.dbs[0], in("held", odoostub.JobSpec{}))
	all := tb.endpoints(failed)

	info, err := caddy.GetModule("admin.api.jobrunner")
	require.NoError(t, err)
	routes := info.New().(caddy.AdminRouter).Routes()
	require.Len(t, routes, len(all))
	for _, route := range routes {
		pattern := strings.TrimPrefix(route.Pattern, "/jobrunner/")
		require.Contains(t, all, pattern)
		e := all[pattern]
		refused := func(what string, want int, says, method, path, body string, change func(*http.Request)) {
			t.Helper()
			status, allow, text := tb.answerTo(method, path, body, change)
			require.Equal(t, want, status, "%s, %s: %s", pattern, what, text)
			require.Contains(t, text, says, "%s, %s", pattern, what)
			if status == http.StatusMethodNotAllowed {
				require.Equal(t, e.method, allow)
			}
		}
		as := func(header, value string) func(*http.Request) {
			return func(r *http.Request) { r.Header.Set(header, value) }
		}
		plain := func(*http.Request) {}
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if method != e.method {
				refused(method, 405, "use "+e.method, method, e.path, e.body, plain)
			}
		}
		refused("a parameter that it does not have", 400, "", e.method, e.path+"?colour=red", e.body, plain)
		refused("the page of another site", 403, "origin", e.method, e.path, e.body, as("Origin", "http://evil.example"))
		refused("a rebound name", 403, "host", e.method, e.path, e.body, func(r *http.Request) { r.Host = "evil.example" })
		refused("a browser's element", 400, "same-origin", e.method, e.path, e.body, as("Sec-Fetch-Mode", "no-cors"))
		if e.method == http.MethodGet {
			refused("a long line", 431, "", e.method, e.path+"?runner="+strings.Repeat("x", 1<<20), "", plain)
			if pattern != "live" && pattern != "events" { // they are those of the process
				refused("an unknown runner", 404, `no runner \"other\"`, e.method, e.path+"?runner=other", "", plain)
			}
			continue
		}
		with := func(field string) string { return "{" + field + "," + e.body[1:] }
		if e.body == "{}" {
			with = func(field string) string { return "{" + field + "}" }
		}
		refused("an unknown runner", 404, `no runner \"other\"`, e.method, e.path, with(`"runner":"other"`), plain)
		refused("no JSON", 415, "Content-Type", e.method, e.path, e.body, as("Content-Type", "text/plain"))
		refused("a form", 415, "Content-Type", e.method, e.path, "all=true", as("Content-Type", "application/x-www-form-urlencoded"))
		refused("nothing", 400, "empty", e.method, e.path, "", plain)
		refused("half of it", 400, "cannot be read", e.method, e.path, e.body[:len(e.body)-1], plain)
		refused("an unknown field", 400, "unknown field", e.method, e.path, with(`"colour":"red"`), plain)
		refused("a body that is too large", 413, "larger", e.method, e.path, with(`"note":"`+strings.Repeat("x", 2<<20)+`"`), plain)
	}
	require.Equal(t, map[string]int{"failed": 1, "pending": 1}, tb.states())
	runner := list(tb.get("status", http.StatusOK), "runners")[0]
	require.Len(t, list(runner, "pauses"), 1)
	require.Nil(t, list(tb.get("upstreams", http.StatusOK), "upstreams")[0]["drain"])
	// What is ordered is stored, and the tests of this process share a storage.
	tb.post("resume", `{"channel":"held"}`, http.StatusOK)
	tb.untilStates(map[string]int{"failed": 1, "done": 1})
}

// TestEveryCommand: each says what is wrong, with an exit status for scripts.
func TestEveryCommand(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	db, nobody := tb.dbs[0], odoostub.NewUUID()
	tb.enqueue(db, odoostub.JobSpec{State: "failed"})
	type refusal struct {
		code int
		says string
		args []string
	}
	other := refusal{4, "no runner", []string{"--runner", "other"}}
	argument := refusal{1, "takes no arguments", []string{"something"}}
	limit, offset := refusal{1, "a limit is a number from 1 on", []string{"--limit", "0"}}, refusal{1, "no whole number", []string{"--offset", "some"}}
	state := refusal{1, "unknown state", []string{"--state", "sleeping"}}
	change := []refusal{
		{4, "no runner", []string{"--runner", "other", "--all", "--dry-run"}},
		{1, "or say --all", nil},
		{1, "not a duration", []string{"--older-than", "long"}},
		{4, "no such job", []string{"--database", db, nobody}},
		{4, "no such database", []string{"--database", "nowhere", nobody}},
		{1, "need a database", []string{nobody}},
		{1, "invalid argument", []string{"--limit", "many"}},
	}
	postpone := []refusal{
		{1, "either --until or --for", []string{"--all"}}, {1, "not a duration", []string{"--all", "--for", "soon"}},
		{1, "not possible", []string{"--state", "failed", "--for", "1h"}},
		{4, "no such job", []string{"--database", db, nobody, "--for", "1h"}},
	}
	pause := []refusal{
		{1, "exactly one", nil}, {1, "exactly one", []string{"--all", "--channel", "a"}},
		{4, "no runner", []string{"--all", "--runner", "other"}},
	}
	drain := []refusal{{4, "no Odoo server", []string{"http://nowhere:1"}}, {1, "takes <server>", nil}}
	every := map[string][]refusal{
		"status": {other, argument}, "databases": {other, argument, limit, offset}, "channels": {other, argument, limit, offset},
		"upstreams": {other, argument}, "tasks": {other, argument, limit, offset},
		"jobs":     {other, state, {1, "not a duration", []string{"--older-than", "long"}}, {4, "no such database", []string{"--database", "x"}}, {1, "cursor", []string{"--cursor", "x"}}, {1, "cursor", []string{"--after", "x"}}},
		"why":      {{4, "there is no job", []string{db, nobody}}, {4, "not among those", []string{"postgres", nobody}}, {1, "takes [<database>] <uuid>", nil}, {4, "no job that begins with", []string{nobody[:13]}}},
		"job":      {{4, "there is no job", []string{db, nobody}}, {1, "takes [<database>] <uuid>", nil}, {4, "no job that begins with", []string{nobody[:13]}}},
		"forecast": {other, argument},
		"top":      {other, argument, {1, "shorter than", []string{"--interval", "0s"}}, {1, "is a screen", []string{"--json"}}},
		"simulate": {argument, {1, "say what", nil}, {4, "no runner", []string{"--runner", "other", "--set", "root=1"}}, {1, "root=many", []string{"--set", "root=many"}}},
		"history":  {other, argument, {1, "neither a time", []string{"--from", "long"}}},
		"events":   {{1, "unknown event", []string{"--event", "nothing"}}, argument},
		"pause":    append(pause, refusal{1, "not a duration", []string{"--all", "--for", "soon"}}), "resume": pause,
		"drain": drain, "undrain": drain,
		"requeue": append(change, state), "cancel": {change[0], change[1], state}, "set-done": {change[0], change[1], state}, "postpone": postpone,
		"resync": {{4, "no database", []string{"--database", "nowhere"}}, other},
		"doctor": {{1, "unknown flag", []string{"--colour"}}},
	}
	out, code := tb.caddy("__complete", "jobrunner", "")
	require.Zero(t, code, out)
	found := 0
	for line := range strings.Lines(out) {
		name, _, described := strings.Cut(strings.TrimSpace(line), "\t")
		if described {
			require.Contains(t, every, name, "a command without a test")
			found++
		}
	}
	require.Equal(t, len(every), found)
	for name, refusals := range every {
		for _, r := range refusals {
			tb.commands(r.code, r.says, append([]string{name}, r.args...)...)
		}
	}
	require.Equal(t, map[string]int{"failed": 1}, tb.states())
	runner := list(tb.get("status", http.StatusOK), "runners")[0]
	require.Empty(t, list(runner, "pauses"))
	require.Nil(t, list(tb.get("upstreams", http.StatusOK), "upstreams")[0]["drain"])
}

// TestWatchCommand shows the same again and again.
func TestWatchCommand(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := tb.caddyCommand(ctx, tb.TempDir(), "jobrunner", "channels", "--watch", "--interval", "100ms", "--address", tb.admin)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer cancel()
	seen, chunk := "", make([]byte, 4<<10)
	for strings.Count(seen, "CAPACITY") < 3 {
		n, err := out.Read(chunk)
		require.NoError(t, err, seen)
		seen += string(chunk[:n])
	}
	require.Contains(t, seen, "root")
}
