package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// get asks the admin API and decodes the answer.
func (tb *testBed) get(path string, want int) map[string]any {
	tb.Helper()
	return tb.ask(http.MethodGet, path, "", want)
}

// post sends an action.
func (tb *testBed) post(path, body string, want int) map[string]any {
	tb.Helper()
	return tb.ask(http.MethodPost, path, body, want)
}

func (tb *testBed) ask(method, path, body string, want int) map[string]any {
	tb.Helper()
	status, text := tb.request(method, "/jobrunner/"+path, body)
	require.Equal(tb, want, status, "%s %s: %s", method, path, text)
	var doc map[string]any
	require.NoError(tb, json.Unmarshal([]byte(text), &doc), text)
	return doc
}

// why returns the reason and the sentence of a job.
func (tb *testBed) why(db, uuid string) (code, text string) {
	tb.Helper()
	doc := tb.get("jobs/"+db+"/"+uuid, http.StatusOK)
	return doc["why"].(string), doc["text"].(string)
}

// untilReady waits until the runner can do its work.
func (tb *testBed) untilReady() {
	tb.Helper()
	tb.until("ready", func() bool {
		status, _ := tb.request(http.MethodGet, "/jobrunner/ready", "")
		return status == http.StatusOK
	})
}

// untilWhy waits until a job has a reason.
func (tb *testBed) untilWhy(db, uuid, want string) {
	tb.Helper()
	tb.until(want, func() bool {
		_, text := tb.request(http.MethodGet, "/jobrunner/jobs/"+db+"/"+uuid, "")
		return strings.Contains(text, fmt.Sprintf("%q:%q", "why", want))
	})
}

// list returns the objects of a list in an answer.
func list(doc map[string]any, name string) []map[string]any {
	var out []map[string]any
	for _, v := range doc[name].([]any) {
		out = append(out, v.(map[string]any))
	}
	return out
}

func gated(gate string) odoostub.JobSpec {
	return odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: gate}}
}

func in(channel string, spec odoostub.JobSpec) odoostub.JobSpec {
	spec.Channel = &channel
	return spec
}

func TestQuestions(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 2, 1)
	tb.tree = "root:2,mail:1"
	tb.run()
	tb.untilReady()
	running := tb.enqueue(tb.dbs[0], gated("end"), in("mail", gated("end")))
	tb.untilRunning(2)
	waiting := tb.enqueue(tb.dbs[0], in("mail", odoostub.JobSpec{}))
	tb.enqueue(tb.dbs[1], odoostub.JobSpec{State: "failed"}, odoostub.JobSpec{State: "done"})
	tb.until("all jobs are known", func() bool {
		jobs := list(tb.get("status", http.StatusOK), "runners")[0]["jobs"].(map[string]any)
		return jobs["pending"] == 1.0 && jobs["failed"] == 1.0
	})

	status := list(tb.get("status", http.StatusOK), "runners")
	require.Len(t, status, 1)
	require.Equal(t, true, status[0]["leader"])
	require.Equal(t, true, status[0]["ready"])
	require.Equal(t, 2.0, status[0]["tasks"].(map[string]any)["open"])
	require.NotNil(t, status[0]["oldest_pending_seconds"])
	require.Equal(t, map[string]any{"live": true}, tb.get("live", http.StatusOK))
	require.Equal(t, map[string]any{"ready": true, "state": "ready"}, tb.get("ready", http.StatusOK))

	dbs := list(tb.get("databases?runner=default", http.StatusOK), "databases")
	require.Len(t, dbs, 2)
	for _, db := range dbs {
		require.Equal(t, "ready", db["state"])
		require.Equal(t, true, db["fresh"])
		require.NotNil(t, db["session_age_seconds"])
		require.NotNil(t, db["synced_age_seconds"])
	}
	channels := list(tb.get("channels", http.StatusOK), "channels")
	require.Equal(t, "root.mail", channels[1]["channel"])
	require.Equal(t, 1.0, channels[1]["running"])
	require.Equal(t, 1.0, channels[1]["queued"])
	require.NotNil(t, channels[1]["oldest_pending_seconds"])
	ups := list(tb.get("upstreams", http.StatusOK), "upstreams")
	require.Len(t, ups, 1)
	require.Equal(t, 2.0, ups[0]["in_flight"])
	tasks := list(tb.get("tasks", http.StatusOK), "tasks")
	require.Len(t, tasks, 2)
	require.Equal(t, "stub.model", tasks[0]["model"])
	require.Len(t, tasks[0]["request_id"], 32)

	require.Nil(t, tb.get("jobs", http.StatusOK)["problems"])
	listed := func(query string) (seen []string) {
		for path := "jobs?" + query; path != ""; {
			page := tb.get(path, http.StatusOK)
			for _, j := range list(page, "jobs") {
				seen = append(seen, j["uuid"].(string))
			}
			path = ""
			if next, ok := page["next"].(string); ok {
				path = "jobs?" + query + "&cursor=" + next
			}
		}
		return seen
	}
	require.Len(t, listed("limit=100"), 5)
	require.Len(t, listed("state=failed,done"), 2)
	require.Len(t, listed("channel=root.mail&database="+tb.dbs[0]), 2)
	require.Empty(t, listed("older_than=1h"))
	require.Len(t, listed("limit=2"), 5)
	_, text := tb.request(http.MethodGet, "/jobrunner/jobs", "")
	require.NotContains(t, text, "gate", "no arguments of jobs")

	code, text := tb.why(tb.dbs[0], running[0])
	require.Equal(t, "running", code)
	require.Contains(t, text, tb.Odoo[0].Addr())
	code, text = tb.why(tb.dbs[0], waiting[0])
	require.Equal(t, "channel_full", code)
	require.Contains(t, text, "root.mail")
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 4, "failed": 1})
	code, _ = tb.why(tb.dbs[0], waiting[0])
	require.Equal(t, "done", code)
	for _, r := range tb.Recorder.AllRequests() {
		if strings.HasSuffix(r.Path, "/runjob") {
			require.Regexp(t, `^[0-9a-f]{32}$`, r.Header.Get("X-Request-ID"))
			require.Contains(t, r.Header.Get("Traceparent"), r.Header.Get("X-Request-ID"))
		}
	}
}

func TestMistakesInRequests(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	failed := tb.enqueue(tb.dbs[0], odoostub.JobSpec{State: "failed"})
	running := tb.enqueue(tb.dbs[0], gated("end"))
	tb.untilRunning(1)
	db := tb.dbs[0]
	for _, tc := range []struct {
		method, path, body string
		status             int
		message            string
	}{
		{"POST", "status", "{}", 405, "use GET"},
		{"DELETE", "jobs", "", 405, "use GET"},
		{"GET", "pause", "", 405, "use POST"},
		{"PUT", "requeue", "{}", 405, "use POST"},
		{"GET", "status?runner=other", "", 404, `no runner \"other\"`},
		{"GET", "status?x=1", "", 400, "unknown parameter"},
		{"GET", "jobs?state=sleeping", "", 400, "unknown state"},
		{"GET", "jobs?older_than=long", "", 400, "not a duration"},
		{"GET", "jobs?limit=0", "", 400, "limit"},
		{"GET", "jobs?limit=1&limit=2", "", 400, "more than once"},
		{"GET", "jobs?cursor=x", "", 400, "cursor"},
		{"GET", "jobs?database=template1", "", 404, "no such database"},
		{"GET", "jobs/" + db + "/" + odoostub.NewUUID(), "", 404, "there is no job"},
		{"GET", "jobs/postgres/" + failed[0], "", 404, "not among those"},
		{"GET", "jobs/" + db + "/%27%3b+drop", "", 404, "there is no job"},
		{"GET", "events?event=nothing", "", 400, "unknown event"},
		{"POST", "pause", "", 400, "empty"},
		{"POST", "pause", "{", 400, "cannot be read"},
		{"POST", "pause", "{}{}", 400, "cannot be read"},
		{"POST", "pause", "{}", 400, "exactly one"},
		{"POST", "pause", `{"all":true,"channel":"a"}`, 400, "exactly one"},
		{"POST", "pause", `{"all":true,"colour":"red"}`, 400, "unknown field"},
		{"POST", "pause", `{"all":"yes"}`, 400, "all: a text where true or false belongs"},
		{"POST", "pause", `{"all":true,"for":"soon"}`, 400, "not a duration"},
		{"POST", "pause", `{"all":true,"until":"2020-01-01T00:00:00Z"}`, 400, "past"},
		{"POST", "pause", `{"all":true,"note":"a\nb"}`, 400, "one line"},
		{"POST", "pause?all=1", `{"all":true}`, 400, "query"},
		{"POST", "pause", `{"runner":"other","all":true}`, 404, "no runner"},
		{"POST", "pause", `{"all":true,"note":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "larger"},
		{"POST", "drain", `{"upstream":"http://nowhere:1"}`, 404, "no Odoo server"},
		{"POST", "undrain", `{"upstream":"http://nowhere:1"}`, 404, "no Odoo server"},
		{"POST", "requeue", `{}`, 400, "or say all"},
		{"POST", "requeue", `{"states":["pending"]}`, 400, "not possible"},
		{"POST", "cancel", `{"states":["started"]}`, 400, "not possible"},
		{"POST", "cancel", `{"all":true,"limit":-1}`, 400, "limit"},
		{"POST", "cancel", `{"uuids":["` + failed[0] + `"]}`, 400, "need a database"},
		{"POST", "postpone", `{"all":true}`, 400, "until or for"},
		{"POST", "requeue", `{"all":true,"for":"1h"}`, 400, "only postpone"},
		{"POST", "requeue", `{"uuids":["x"],"database":"` + db + `"}`, 404, "no such job"},
		{"POST", "requeue", `{"uuids":["x"],"database":"nowhere"}`, 404, "no such database"},
		{"POST", "requeue", `{"uuids":["` + running[0] + `"],"database":"` + db + `"}`, 409, "state started"},
		{"POST", "cancel", `{"uuids":["` + running[0] + `"],"database":"` + db + `"}`, 409, "state started"},
		{"POST", "resync", `{"database":"nowhere"}`, 409, "no database"},
	} {
		status, text := tb.request(tc.method, "/jobrunner/"+tc.path, tc.body)
		name := tc.method + " " + tc.path + " " + tc.body[:min(len(tc.body), 60)]
		require.Equal(t, tc.status, status, "%s: %s", name, text)
		require.Contains(t, text, tc.message, name)
	}
	for header, value := range map[string]string{"Origin": "http://evil.example", "Host": "evil.example", "Sec-Fetch-Mode": "no-cors"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+tb.admin+"/jobrunner/pause", strings.NewReader(`{"all":true}`))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(header, value)
		if header == "Host" {
			req.Host = value
		}
		tb.refuses(req)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+tb.admin+"/jobrunner/pause", strings.NewReader(`{"all":true}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "text/plain")
	tb.refuses(req)
	require.Empty(t, list(tb.get("status", 200), "runners")[0]["pauses"])
	require.Equal(t, map[string]int{"failed": 1, "started": 1}, tb.states())
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"failed": 1, "done": 1})
}

// refuses requires that a request is refused as one the client must not send.
func (tb *testBed) refuses(req *http.Request) {
	tb.Helper()
	res, err := testbed.Client.Do(req)
	require.NoError(tb, err)
	defer testbed.Client.CloseIdleConnections()
	defer res.Body.Close()
	require.GreaterOrEqual(tb, res.StatusCode, 400)
	require.Less(tb, res.StatusCode, 500)
}

func TestPausesAndResumes(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 2, 1)
	tb.run()
	tb.untilReady()
	for _, tc := range []struct {
		subject, why, channel string
		free                  bool
	}{
		{`"all":true`, "paused_all", "mail", false},
		{fmt.Sprintf(`"database":%q`, tb.dbs[0]), "paused_database", "mail", true},
		{`"channel":"mail"`, "paused_channel", "mail.de", true},
	} {
		tb.post("pause", `{`+tc.subject+`,"note":"lunch","by":"operator"}`, http.StatusOK)
		held := tb.enqueue(tb.dbs[0], in(tc.channel, odoostub.JobSpec{}))
		tb.untilWhy(tb.dbs[0], held[0], tc.why)
		_, text := tb.why(tb.dbs[0], held[0])
		require.Contains(t, text, `"operator" (127.0.0.1`)
		require.Contains(t, text, "(lunch)")
		if tc.free {
			other := tb.enqueue(tb.dbs[1], odoostub.JobSpec{})
			tb.until("what is not paused runs", func() bool { return tb.Recorder.Requests(tb.dbs[1], other[0]) == 1 })
		}
		require.Zero(t, tb.Recorder.Requests(tb.dbs[0], held[0]))
		require.Equal(t, 1.0, tb.post("resume", `{`+tc.subject+`}`, http.StatusOK)["changed"])
		require.Equal(t, 0.0, tb.post("resume", `{`+tc.subject+`}`, http.StatusOK)["changed"])
		tb.until("it runs", func() bool { return tb.Recorder.Requests(tb.dbs[0], held[0]) == 1 })
	}
	// One that ends by itself.
	tb.post("pause", `{"all":true,"for":"1s"}`, http.StatusOK)
	tb.enqueue(tb.dbs[0], odoostub.JobSpec{})
	tb.untilStates(map[string]int{"done": 6})
	require.Empty(t, list(tb.get("status", 200), "runners")[0]["pauses"])
}

func TestPausesSurvive(t *testing.T) {
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 1, 1)
	home := tb.TempDir()
	c := tb.startProcess(home)
	tb.untilReady()
	tb.post("pause", `{"channel":"mail","note":"audit","by":"operator"}`, http.StatusOK)
	tb.post("drain", fmt.Sprintf(`{"upstream":"http://%s"}`, tb.Odoo[0].Addr()), http.StatusOK)
	held := tb.enqueue(tb.dbs[0], in("mail", odoostub.JobSpec{}))
	c.Kill()
	tb.startProcess(home)
	tb.untilWhy(tb.dbs[0], held[0], "paused_channel")
	require.Equal(t, true, list(tb.get("upstreams", 200), "upstreams")[0]["safe_to_stop"])
	// Another node that shares the storage hears of what is ordered here.
	tb.post("undrain", fmt.Sprintf(`{"upstream":"http://%s"}`, tb.Odoo[0].Addr()), http.StatusOK)
	tb.enqueue(tb.dbs[0], odoostub.JobSpec{})
	tb.untilStates(map[string]int{"done": 1, "pending": 1})
	tb.post("resume", `{"channel":"mail"}`, http.StatusOK)
	tb.untilStates(map[string]int{"done": 2})
}

func TestDrain(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 2)
	tb.run()
	tb.untilReady()
	tb.until("both servers are known to work", func() bool {
		_, text := tb.request(http.MethodGet, "/jobrunner/upstreams", "")
		return strings.Count(text, `"up":true`) == 2
	})
	tb.enqueue(tb.dbs[0], repeat(4, gated("end"))...)
	tb.untilRunning(4)
	name := "http://" + tb.Odoo[0].Addr()
	tb.post("drain", fmt.Sprintf(`{"upstream":%q}`, name), http.StatusOK)
	for _, u := range list(tb.get("upstreams", 200), "upstreams") {
		require.Equal(t, u["upstream"] == name, u["drain"] != nil)
		require.Nil(t, u["safe_to_stop"])
	}
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 4})
	tb.until("safe to stop", func() bool {
		_, text := tb.request(http.MethodGet, "/jobrunner/upstreams", "")
		return strings.Contains(text, `"safe_to_stop":true`)
	})
	tb.enqueue(tb.dbs[0], repeat(8, odoostub.JobSpec{})...)
	tb.untilStates(map[string]int{"done": 12})
	to := map[string]int{}
	for _, r := range tb.Recorder.AllRequests() {
		if strings.HasSuffix(r.Path, "/runjob") {
			to[r.Server]++
		}
	}
	require.Equal(t, map[string]int{"odoo1": 2, "odoo2": 10}, to)
	tb.post("drain", fmt.Sprintf(`{"upstream":%q}`, "http://"+tb.Odoo[1].Addr()), http.StatusOK)
	held := tb.enqueue(tb.dbs[0], odoostub.JobSpec{})
	tb.untilWhy(tb.dbs[0], held[0], "upstreams_drained")
	require.Contains(t, fmt.Sprint(tb.get("ready", http.StatusServiceUnavailable)["problems"]), "no Odoo server is healthy")
	tb.post("undrain", fmt.Sprintf(`{"upstream":%q}`, name), http.StatusOK)
	tb.untilStates(map[string]int{"done": 13})
}

func TestActionsOnJobs(t *testing.T) {
	for _, gen := range []odoostub.Generation{odoostub.QueueJob10, odoostub.QueueJobLock} {
		t.Run(gen.String(), func(t *testing.T) {
			tb := newTestBed(t, gen, 1, 1)
			db := tb.dbs[0]
			if gen == odoostub.QueueJob10 {
				require.NoError(t, odoostub.InstallTrigger(t.Context(), tb.Pool(db)))
			}
			tb.run()
			tb.untilReady()
			failed := tb.enqueue(db, repeat(3, in("mail", odoostub.JobSpec{State: "failed", Retry: 5}))...)
			tb.enqueue(db, repeat(2, odoostub.JobSpec{State: "failed"})...)
			dry := tb.post("requeue", `{"channel":"mail","dry_run":true}`, http.StatusOK)
			require.Equal(t, 3.0, dry["changed"])
			require.Len(t, list(dry, "jobs"), 3)
			require.Equal(t, map[string]int{"failed": 5}, tb.states())
			one := fmt.Sprintf(`{"database":%q,"uuids":[%q],"by":"operator"}`, db, failed[0])
			require.Equal(t, 1.0, tb.post("requeue", one, http.StatusOK)["changed"])
			tb.untilStates(map[string]int{"failed": 4, "done": 1})
			require.Equal(t, 1.0, tb.post("set-done", `{"states":["failed"],"channel":"mail","limit":1}`, http.StatusOK)["changed"])
			cancelled := tb.post("cancel", `{"channel":"root.mail"}`, http.StatusOK)
			if gen == odoostub.QueueJob10 {
				// The series has no cancelled jobs, and Odoo would not know what that is.
				require.Equal(t, 0.0, cancelled["changed"])
				require.Contains(t, fmt.Sprint(cancelled["problems"]), "knows no cancelled jobs")
				tb.untilStates(map[string]int{"failed": 3, "done": 2})
			} else {
				require.Equal(t, 1.0, cancelled["changed"])
				tb.untilStates(map[string]int{"failed": 2, "done": 2, "cancelled": 1})
			}
			require.Equal(t, 0.0, tb.post("requeue", `{"all":true,"older_than":"1h"}`, http.StatusOK)["changed"])

			tb.post("pause", `{"all":true}`, http.StatusOK)
			late := tb.enqueue(db, odoostub.JobSpec{})
			tb.untilWhy(db, late[0], "paused_all")
			require.Equal(t, 1.0, tb.post("postpone", `{"states":["pending"],"for":"1h"}`, http.StatusOK)["changed"])
			tb.post("resume", `{"all":true}`, http.StatusOK)
			tb.untilWhy(db, late[0], "eta")
			require.Equal(t, 1.0, tb.post("resync", `{}`, http.StatusOK)["databases"])
		})
	}
}

func TestGraphs(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	db := tb.dbs[0]
	graph := func() (parent, child, grandchild string) {
		a, b, c := odoostub.NewUUID(), odoostub.NewUUID(), odoostub.NewUUID()
		tb.enqueue(db, odoostub.JobSpec{UUID: a, State: "failed"},
			odoostub.JobSpec{UUID: b, DependsOn: []string{a}}, odoostub.JobSpec{UUID: c, DependsOn: []string{b}})
		return a, b, c
	}
	a, b, _ := graph()
	code, text := tb.why(db, b)
	require.Equal(t, "wait_dependencies", code)
	require.Contains(t, text, a)
	set := tb.post("set-done", fmt.Sprintf(`{"database":%q,"uuids":[%q]}`, db, a), http.StatusOK)
	require.Equal(t, 1.0, set["followed"], "the child is released, and Odoo releases the next")
	tb.untilStates(map[string]int{"done": 3})
	a, b, _ = graph()
	cancelled := tb.post("cancel", fmt.Sprintf(`{"database":%q,"uuids":[%q]}`, db, a), http.StatusOK)
	require.Equal(t, 2.0, cancelled["followed"])
	require.Equal(t, map[string]int{"done": 3, "cancelled": 3}, tb.states())
	tb.post("requeue", fmt.Sprintf(`{"database":%q,"uuids":[%q]}`, db, b), http.StatusOK)
	require.Equal(t, map[string]int{"done": 3, "cancelled": 2, "wait_dependencies": 1}, tb.states())
}

func TestWhy(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	db := tb.dbs[0]
	ctx, cancel := tb.patient()
	defer cancel()

	require.NoError(t, odoostub.SetAddonState(ctx, tb.Pool(db), "to upgrade"))
	held := tb.enqueue(db, odoostub.JobSpec{ETA: time.Now().Add(time.Hour)})
	tb.untilWhy(db, held[0], "eta")
	tb.post("resync", `{}`, http.StatusOK)
	tb.untilWhy(db, held[0], "database_unhealthy")
	require.Contains(t, fmt.Sprint(tb.get("ready", http.StatusServiceUnavailable)["problems"]), "to upgrade")
	require.NoError(t, odoostub.SetAddonState(ctx, tb.Pool(db), "installed"))
	tb.untilReady()

	tb.Odoo[0].Close()
	now := tb.enqueue(db, odoostub.JobSpec{})
	tb.untilWhy(db, now[0], "no_upstream")
	tb.until("not ready", func() bool {
		status, _ := tb.request(http.MethodGet, "/jobrunner/ready", "")
		return status == http.StatusServiceUnavailable
	})
}

func TestAdminAfterAFailedReload(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	tb.tree = "root:9"
	tb.loadBroken()
	require.Equal(t, 4.0, list(tb.get("channels", http.StatusOK), "channels")[0]["capacity"])
	tb.post("pause", `{"all":true}`, http.StatusOK)
	tb.enqueue(tb.dbs[0], odoostub.JobSpec{})
	tb.load()
	require.Equal(t, 9.0, list(tb.get("channels", http.StatusOK), "channels")[0]["capacity"])
	require.Equal(t, map[string]int{"pending": 1}, tb.states())
	tb.post("resume", `{"all":true}`, http.StatusOK)
	tb.untilStates(map[string]int{"done": 1})
	tb.without = true
	tb.load()
	require.Equal(t, []any{"no runner is configured"}, tb.get("ready", http.StatusServiceUnavailable)["problems"])
	tb.post("pause", `{"all":true}`, http.StatusServiceUnavailable)
}

func TestEventStream(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+tb.admin+"/jobrunner/events?event=dispatched,job_done", nil)
	require.NoError(t, err)
	res, err := testbed.Client.Do(req)
	require.NoError(t, err)
	defer testbed.Client.CloseIdleConnections()
	defer res.Body.Close()
	require.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
	lines := bufio.NewScanner(res.Body)
	require.True(t, lines.Scan())
	job := tb.enqueue(tb.dbs[0], in("mail", odoostub.JobSpec{}))
	var events []map[string]any
	for len(events) < 2 && lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var ev map[string]any
			require.NoError(t, json.Unmarshal([]byte(data), &ev))
			events = append(events, ev)
		}
	}
	require.Len(t, events, 2)
	require.Equal(t, "dispatched", events[0]["event"])
	require.Equal(t, "job_done", events[1]["event"])
	for _, ev := range events {
		require.Equal(t, job[0], ev["uuid"])
		require.Equal(t, "root.mail", ev["channel"])
		require.Equal(t, "stub.model", ev["model"])
	}
	require.Positive(t, events[1]["run_seconds"])
	// A reload ends the stream, so that it does not keep the old endpoint.
	tb.load()
	rest := ""
	for lines.Scan() {
		rest += lines.Text() + "\n"
	}
	require.Contains(t, rest, "event: end")
}
