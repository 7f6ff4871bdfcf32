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
)

// scrape reads metrics, by name and labels.
func (p *plant) scrape(url string) map[string]float64 {
	p.Helper()
	req, err := http.NewRequestWithContext(p.Context(), http.MethodGet, url, nil)
	require.NoError(p, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(p, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(p, err)
	require.Equal(p, http.StatusOK, res.StatusCode, string(body))
	http.DefaultClient.CloseIdleConnections()
	all := make(map[string]float64)
	for _, m := range regexp.MustCompile(`(?m)^(caddy_jobrunner_\S+) (\S+)$`).FindAllStringSubmatch(string(body), -1) {
		require.NotContains(p, all, m[1], "twice")
		all[m[1]], err = strconv.ParseFloat(m[2], 64)
		require.NoError(p, err)
	}
	return all
}

// TestMetricsOfARunningCaddy: both ways to the metrics tell the truth, after a
// failed reload, too, and do not suffer from many.
func TestMetricsOfARunningCaddy(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	p.routes = "metrics /metrics\n\t" + p.routes
	p.run()
	db := p.dbs[0]
	p.enqueue(db, repeat(9, odoostub.JobSpec{})...)
	p.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "odoo.exceptions.UserError"}})
	p.untilStates(map[string]int{"done": 9, "failed": 1})
	attempts := func(outcome string) string {
		return `caddy_jobrunner_attempts_total{channel="root",database="` + db + `",outcome="` + outcome + `",runner="default"}`
	}
	urls := map[string]string{"site": "http://" + p.site + "/metrics", "admin": "http://" + p.admin + "/metrics"}
	check := func(done, capacity float64) {
		t.Helper()
		for name, url := range urls {
			p.until(name+" counts them", func() bool {
				got := p.scrape(url)
				return got[attempts("done")] == done && got[attempts("failed")] == 1
			})
			got := p.scrape(url)
			for series, want := range map[string]float64{
				`caddy_jobrunner_up{runner="default"}`:                                                     1,
				`caddy_jobrunner_leader{runner="default"}`:                                                 1,
				`caddy_jobrunner_ready{runner="default"}`:                                                  1,
				`caddy_jobrunner_channel_capacity{channel="root",database="",runner="default"}`:            capacity,
				`caddy_jobrunner_session_connected{database="` + db + `",runner="default"}`:                1,
				`caddy_jobrunner_databases{runner="default",state="ready"}`:                                1,
				`caddy_jobrunner_upstream_up{runner="default",upstream="http://` + p.odoo[0].Addr() + `"}`: 1,
				`caddy_jobrunner_open_exchanges`:                                                           0,
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
	p.tree = "root:7"
	p.loadBroken()
	p.enqueue(db, odoostub.JobSpec{})
	check(10, 4)

	before := runtime.NumGoroutine()
	for i := range 100 {
		p.tree = "root:" + strconv.Itoa(5+i%2)
		p.load()
		if i%10 == 0 {
			p.loadBroken()
		}
	}
	p.enqueue(db, odoostub.JobSpec{})
	check(11, 6)
	http.DefaultClient.CloseIdleConnections()
	p.until("goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= before+10 })
}
