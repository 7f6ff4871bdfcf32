//go:build odoo

package odootest

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// spellings are paths that a server may take for the route that runs jobs.
var spellings = []string{
	"/queue_job/runjob", "/connector/runjob", "/fr/queue_job/runjob", "/en_US/queue_job/runjob",
	"//queue_job/runjob", "//x/queue_job/runjob", "/queue_job//runjob", "///queue_job///runjob", "/x//queue_job/runjob",
	"/queue_job/runjob/", "/queue_job/runjob//", "/queue_job/./runjob", "/./queue_job/runjob",
	"/web/../queue_job/runjob", "/queue_job/x/../runjob", "/queue_job/runjob/.", "/queue_job/runjob/x/..",
	"/queue%5Fjob/runjob", "/%71ueue_job/runjob", "/queue_job%2Frunjob", "/queue_job%2frunjob", "%2fqueue_job/runjob",
	"/queue%255Fjob/runjob", "/queue_job%252Frunjob", "/web/%2e%2e/queue_job/runjob", "/queue_job/%2e/runjob",
	"/queue_job/runjob;x", "/queue_job;x/runjob", "/;/queue_job/runjob", "/queue_job/runjob%3bx", "/queue_job/runjob%00",
	"/queue_job/runjob%20", "/queue_job/runjob%09", `/queue_job\runjob`, "/queue_job%5Crunjob", "/queue_job/runjob%23", "/queue_job/runjob%3Fx=1",
	"/Queue_Job/RunJob", "/QUEUE_JOB/RUNJOB", "/queue_job/runjob.", "/queue_jo%62/runjo%62", "http://other/queue_job/runjob",
}

// testGuard sends all spellings to Odoo itself, through a Caddy that leaves the route open, and through
// one with jobrunner_guard. Odoo's controller writes down each uuid that it is asked for and does not
// find.
func testGuard(t *testing.T, s *site) {
	open := startCaddy(t, s.server, caddyOptions{Databases: s.db.name, Channels: "root:2", Routes: "open"})
	guarded := startCaddy(t, s.server, caddyOptions{Databases: s.db.name, Channels: "root:2", Routes: "jobrunner_guard"})
	reached := func(way, address string) (list []string) {
		for i, spelling := range spellings {
			s.visit(t, address, spelling, fmt.Sprintf("guard-%s-%d-end", way, i))
		}
		for i, spelling := range spellings {
			if strings.Contains(s.log(), fmt.Sprintf("guard-%s-%d-end", way, i)+", but it does not exist") {
				list = append(list, spelling)
			}
		}
		return list
	}
	direct := reached("direct", fmt.Sprintf("127.0.0.1:%d", s.port))
	t.Logf("FACT odoo %d: takes for the route: %q", s.series, direct)
	require.Contains(t, direct, "/queue_job/runjob")
	proxied := reached("open", open.Site)
	t.Logf("FACT odoo %d: the same through Caddy: %q", s.series, proxied)
	require.Contains(t, proxied, "/queue_job/runjob")
	require.Greater(t, len(slices.Compact(proxied)), 1, "or the guard has nothing to do")
	require.Empty(t, reached("guarded", guarded.Site))

	// The runner itself goes another way.
	uuids := enqueue(t, guarded.url(), s.db.name, "run", nil, []any{"guarded"})
	s.db.waitState(t, "done", uuids...)
}

// visit asks for a target as it is, which clients would tidy up. Whatever the answer is, what Odoo has
// to say of it is in its log then.
func (s *site) visit(t *testing.T, address, target, uuid string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, time.Second)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(requestTimeout)))
	_, err = fmt.Fprintf(conn, "GET %s?db=%s&job_uuid=%s HTTP/1.1\r\nHost: %s\r\nX-Odoo-Database: %s\r\nConnection: close\r\n\r\n",
		strings.Replace(target, "http://other", "http://"+address, 1), s.db.name, uuid, address, s.db.name)
	require.NoError(t, err)
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		_ = resp.Body.Close()
	}
}
