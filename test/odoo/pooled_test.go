//go:build odoo

package odootest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// testPooled has Odoo and the runner's sessions go through PgBouncer in transaction mode. OCA's runner,
// which cannot, goes past it, as its configuration wants.
func testPooled(t *testing.T, s *site) {
	if s.series < 19 {
		t.Log("one series is enough: what differs from others is the runner's side")
		return
	}
	pooler, err := cluster.StartBouncer(t.Context(), pgtest.BouncerOptions{User: odooRole, Password: odooPassword})
	require.NoError(t, err)
	t.Cleanup(pooler.Kill)
	db := s.newDatabase(t, fmt.Sprintf("pooled%d", s.series), s.ready)
	pooled := &site{
		server:  s.startServer(t, "pooled", serverOptions{options: map[string]any{"db_port": pooler.Port(), "db_name": db.name}}),
		db:      db,
		options: fmt.Sprintf("pooler \"postgres://%s?sslmode=disable\" {\npoll 1s\n}", pooler.Addr()),
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *site)
	}{
		{"Single", testSingle},
		{"Channels", testChannels},
		{"Retryable", testRetryable},
		{"Failing", testFailing},
		{"Graph", testGraph},
		{"ETA", testETA},
		{"WorkerKilled", testWorkerKilled},
		{"InTurnWithOtherRunner", testInTurn},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, pooled) })
	}
}

// testInTurn starts OCA's runner while this one works, and stops it. It takes the lock between two claims.
func testInTurn(t *testing.T, s *site) {
	const jobs = 600
	c := s.caddy(t, "root:2")
	var arguments [][]any
	for i := range jobs {
		arguments = append(arguments, []any{fmt.Sprintf("in turn %d", i), 0.1})
	}
	uuids := enqueue(t, c.url(), s.db.name, "run", nil, arguments...)
	asked := func() int { return strings.Count(c.log(), "asking Odoo to run job") }
	require.True(t, poll(jobsTimeout, func() bool { return asked() >= 20 }))

	other := s.startServer(t, "rival", serverOptions{ownRunner: "root:2", options: map[string]any{"db_name": s.db.name, "db_port": cluster.Port()}})
	require.True(t, poll(jobsTimeout, func() bool { return strings.Contains(c.log(), "this one yields") }), lastLines(other.log()))
	ours := asked()
	done := s.db.count(t, "queue_job WHERE uuid = ANY($1) AND state = 'done'", uuids)
	require.Less(t, done, jobs-50, "there is something left")
	require.True(t, poll(jobsTimeout, func() bool {
		return s.db.count(t, "queue_job WHERE uuid = ANY($1) AND state = 'done'", uuids) > done+20
	}), lastLines(other.log()))
	require.Equal(t, ours, asked(), "OCA's runner works alone")
	other.stop(t)
	s.db.waitState(t, "done", uuids...)
	t.Logf("FACT odoo %d: of %d jobs, this runner dispatched %d, of which %d before OCA's took the lock", s.series, jobs, asked(), ours)
	require.Greater(t, asked(), ours, "it has taken over again")
	require.Len(t, s.db.executions(t, "in turn %"), jobs, "every job exactly once")
}
