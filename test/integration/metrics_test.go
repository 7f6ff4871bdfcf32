package integration

import (
	"io"
	"net/http"
	"regexp"
	"runtime"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// scrape reads metrics, by name and labels.
func (tb *testBed) scrape(url string) map[string]float64 {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, url, nil)
	require.NoError(tb, err)
	res, err := testbed.Client.Do(req)
	require.NoError(tb, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(tb, err)
	require.Equal(tb, http.StatusOK, res.StatusCode, string(body))
	testbed.Client.CloseIdleConnections()
	all := make(map[string]float64)
	for _, m := range regexp.MustCompile(`(?m)^(caddy_jobrunner_\S+) (\S+)$`).FindAllStringSubmatch(string(body), -1) {
		require.NotContains(tb, all, m[1], "twice")
		all[m[1]], err = strconv.ParseFloat(m[2], 64)
		require.NoError(tb, err)
	}
	return all
}

// TestMetricsOfARunningCaddy: both ways to the metrics tell the truth, after a
// failed reload, too, and do not suffer from many.
func TestMetricsOfARunningCaddy(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.routes = "metrics /metrics\n\t" + tb.routes
	tb.run()
	db := tb.dbs[0]
	tb.enqueue(db, repeat(9, odoostub.JobSpec{})...)
	tb.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "odoo.exceptions.UserError"}})
	tb.untilStates(map[string]int{"done": 9, "failed": 1})
	attempts := func(outcome string) string {
		return `caddy_jobrunner_attempts_total{channel="root",database="` + db + `",outcome="` + outcome + `",runner="default"}`
	}
	urls := map[string]string{"site": "http://" + tb.site + "/metrics", "admin": "http://" + tb.admin + "/metrics"}
	check := func(done, capacity float64) {
		t.Helper()
		for name, url := range urls {
			tb.until(name+" counts them", func() bool {
				got := tb.scrape(url)
				return got[attempts("done")] == done && got[attempts("failed")] == 1
			})
			got := tb.scrape(url)
			for series, want := range map[string]float64{
				`caddy_jobrunner_up{runner="default"}`:                                                      1,
				`caddy_jobrunner_leader{runner="default"}`:                                                  1,
				`caddy_jobrunner_ready{runner="default"}`:                                                   1,
				`caddy_jobrunner_channel_capacity{channel="root",database="",runner="default"}`:             capacity,
				`caddy_jobrunner_session_connected{database="` + db + `",runner="default"}`:                 1,
				`caddy_jobrunner_databases{runner="default",state="ready"}`:                                 1,
				`caddy_jobrunner_upstream_up{runner="default",upstream="http://` + tb.Odoo[0].Addr() + `"}`: 1,
				`caddy_jobrunner_open_exchanges`:                                                            0,
			} {
				require.Contains(t, got, series, name)
				require.Equal(t, want, got[series], "%s: %s", name, series)
			}
			require.Contains(t, got, `caddy_jobrunner_leader{runner="default"}`, name)
			require.Positive(t, got[`caddy_jobrunner_job_run_seconds_count{channel="root",runner="default"}`])
			require.Positive(t, got[`caddy_jobrunner_dispatch_seconds_count{runner="default"}`])
			require.Positive(t, got[`caddy_jobrunner_claim_batch_size_sum{runner="default"}`])
			require.Less(t, got[`caddy_jobrunner_session_silence_seconds{database="`+db+`",runner="default"}`], 60.0)
		}
	}
	check(9, 4)

	// A failed reload leaves Caddy with the admin endpoint of the failed one.
	tb.tree = "root:7"
	tb.loadBroken()
	tb.enqueue(db, odoostub.JobSpec{})
	check(10, 4)

	before := runtime.NumGoroutine()
	for i := range 100 {
		tb.tree = "root:" + strconv.Itoa(5+i%2)
		tb.load()
		if i%10 == 0 {
			tb.loadBroken()
		}
	}
	tb.enqueue(db, odoostub.JobSpec{})
	check(11, 6)
	testbed.Client.CloseIdleConnections()
	tb.until("goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= before+10 })
}
