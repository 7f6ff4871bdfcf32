package odoo_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// A rescue does not wait for a row that is locked, whether there is a lock table or not.
func TestRescueSkipsLockedRows(t *testing.T) {
	for _, gen := range []odoostub.Generation{odoostub.QueueJob12, odoostub.QueueJobLock} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			for _, uuid := range []string{"a", "b"} {
				h.exec(`INSERT INTO queue_job (uuid, state, retry, date_enqueued)
					VALUES ($1, 'started', 0, now() AT TIME ZONE 'UTC' - interval '1 hour')`, uuid)
			}
			s := h.session()
			found, err := s.Inspect(h.deadline(), []string{"a", "b"})
			require.NoError(t, err)
			for i := range found {
				found[i].Expired = true
			}
			worker := h.connect()
			_, err = worker.Exec(t.Context(), "BEGIN; SELECT FROM queue_job WHERE uuid = 'a' FOR UPDATE")
			require.NoError(t, err)
			begin := time.Now()
			rows, err := s.Rescue(h.deadline(), found)
			require.NoError(t, err)
			require.Less(t, time.Since(begin), 3*time.Second)
			require.Len(t, rows, 1)
			require.Equal(t, "b", rows[0].UUID)
		})
	}
}

// A job may have several lock rows, after a restored table: one that is held is enough.
func TestInspectOfSeveralLockRows(t *testing.T) {
	for _, held := range []int{1, 2, 3} {
		h := newHarness(t, odoostub.QueueJobLock)
		h.exec(`INSERT INTO queue_job (uuid, state, date_enqueued) VALUES ('a', 'started', now() AT TIME ZONE 'UTC' - interval '1 minute')`)
		h.exec("INSERT INTO queue_job_lock (id, queue_job_id) SELECT n, j.id FROM queue_job j, generate_series(1, 3) n")
		s := h.session()
		found, err := s.Inspect(h.deadline(), []string{"a"})
		require.NoError(t, err)
		require.Equal(t, driver.Dead, found[0].Verdict)
		worker := h.connect()
		_, err = worker.Exec(t.Context(), "BEGIN")
		require.NoError(t, err)
		_, err = worker.Exec(t.Context(), "SELECT FROM queue_job_lock WHERE id = $1 FOR UPDATE", held)
		require.NoError(t, err)
		found, err = s.Inspect(h.deadline(), []string{"a"})
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, driver.Alive, found[0].Verdict, held)
		require.Equal(t, worker.PgConn().PID(), found[0].PID)
	}
}

// Each of several jobs is inspected, whatever has become of those before it.
func TestInspectOfSeveralJobs(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec(`INSERT INTO queue_job (uuid, state, date_enqueued) SELECT v, 'started', now() AT TIME ZONE 'UTC' - interval '1 minute'
		FROM (VALUES ('a'), ('b')) AS v (v)`)
	found, err := h.session().Inspect(h.deadline(), []string{"gone", "a", "also gone", "b"})
	require.NoError(t, err)
	require.Len(t, found, 4)
	for i, l := range found {
		require.Equal(t, i%2 == 0, l.Gone, l.Row.UUID)
		require.Equal(t, []string{"gone", "a", "also gone", "b"}[i], l.Row.UUID)
	}
	require.Equal(t, driver.Dead, found[1].Verdict)
	require.Equal(t, driver.Dead, found[3].Verdict)
}

// roundTrip is a transport.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A server that accepts a connection and says nothing is busy. One that cannot be reached is not, nor is
// one that breaks the connection.
func TestCheckWithoutAnAnswer(t *testing.T) {
	for name, c := range map[string]struct{ connects, hangs, busy bool }{
		"silent": {true, true, true}, "not reached": {false, true, false}, "broken": {true, false, false}, "refused": {},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		up := upstream("odoo")
		up.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			trace := httptrace.ContextClientTrace(r.Context())
			trace.GetConn("odoo")
			if c.connects {
				trace.GotConn(httptrace.GotConnInfo{})
			}
			if c.hangs {
				cancel()
			}
			return nil, io.ErrUnexpectedEOF
		})
		err := odoo.New(odoo.Options{}).Check(ctx, up)
		require.Error(t, err, name)
		require.Equal(t, c.busy, errors.Is(err, driver.ErrNoAnswer), name)
		cancel()
	}
}

// Only an attempt that is still as its claim left it is put back: not one that a worker has started
// meanwhile, whose date is the same, nor a later one.
func TestUnclaimLeavesOthersAlone(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	for _, state := range []string{"started", "done", "pending", "failed", "cancelled", "later"} {
		h.Insert(drivertest.Job{UUID: state, State: "pending"})
		tasks, _, err := s.Claim(h.deadline(), []string{state}, nil)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
		want := state
		if state == "later" {
			want = "enqueued"
			h.exec("UPDATE queue_job SET date_enqueued = date_enqueued + interval '1 second' WHERE uuid = $1", state)
		} else {
			h.SetState(state, state)
		}
		rows, err := s.Unclaim(h.deadline(), tasks)
		require.NoError(t, err)
		require.Empty(t, rows, state)
		require.Equal(t, want, h.job(state)["state"])
		require.NotNil(t, h.job(state)["date_enqueued"])
	}
}
