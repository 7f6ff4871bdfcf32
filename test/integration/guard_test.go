package integration

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestGuard: behind jobrunner_guard no visitor gets a job run, however he spells the route, and the
// runner does.
func TestGuard(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.routes = "jobrunner_guard\nhandle_errors {\nreverse_proxy {{(index .Odoo 0).Addr}}\n}\nreverse_proxy {{(index .Odoo 0).Addr}}"
	tb.run()
	tb.enqueue(tb.dbs[0], repeat(3, odoostub.JobSpec{})...)
	tb.untilStates(map[string]int{"done": 3})
	before := len(tb.Recorder.AllRequests())
	for _, target := range []string{
		"/queue_job/runjob", "/connector/runjob", "/queue_job/session", "/fr/queue_job/runjob", "//x/queue_job/runjob", "/queue_job//runjob",
		"/queue%5Fjob/runjob", "/queue_job/runjob/", "/web/../queue_job/runjob", "/queue_job%2Frunjob", "http://" + tb.site + "/queue_job/runjob",
	} {
		require.Equal(t, http.StatusNotFound, tb.rawGet(target+"?db="+tb.dbs[0]+"&job_uuid=x"), target)
	}
	for _, r := range tb.Recorder.AllRequests()[before:] {
		require.NotEqual(t, "x", r.UUID, r.Path)
	}
}

// rawGet asks the site for a target as it is, which clients would tidy up, and returns the status.
func (tb *testBed) rawGet(target string) int {
	tb.Helper()
	conn, err := net.DialTimeout("tcp", tb.site, time.Second)
	require.NoError(tb, err)
	defer conn.Close()
	require.NoError(tb, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target, tb.site)
	require.NoError(tb, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(tb, err)
	defer resp.Body.Close()
	return resp.StatusCode
}
