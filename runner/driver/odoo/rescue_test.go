package odoo_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// The table of docs/contract.md 3.4. Each row is inspected and, whatever the verdict, handed to
// Rescue.
func TestDeadJobVectors(t *testing.T) {
	const none, row, locked = "none", "row", "locked"
	for i, v := range []struct {
		state      string
		age        time.Duration // 0 for NULL
		lock       string
		retry, max any
		want       string // empty for untouched
		wantRetry  int32
	}{
		{"started", time.Minute, row, 0, 5, "pending", 1},
		{"started", time.Minute, row, 5, 5, "pending", 6},
		{"started", time.Minute, row, 6, 5, "failed", 7},
		{"started", time.Minute, row, 99, 0, "pending", 100},
		{"started", time.Minute, row, 99, nil, "pending", 100},
		{"started", time.Minute, row, nil, 5, "pending", 1},
		{"enqueued", time.Minute, none, 0, 5, "pending", 0},
		{"enqueued", time.Minute, none, 6, 5, "failed", 6},
		{"enqueued", time.Minute, row, 2, 5, "pending", 2},
		{"enqueued", 3 * time.Second, none, 0, 5, "", 0},
		{"started", 0, none, 0, 5, "", 0},
		{"started", time.Minute, locked, 0, 5, "", 0},
		{"enqueued", time.Minute, locked, 9, 5, "", 0},
		{"pending", time.Minute, none, 0, 5, "", 0},
		{"pending", time.Minute, row, 9, 5, "", 0},
		{"done", time.Minute, row, 9, 5, "", 0},
	} {
		t.Run(fmt.Sprintf("%d %s %s %v of %v", i, v.state, v.lock, v.retry, v.max), func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			h.exec(`INSERT INTO queue_job (uuid, state, retry, max_retries, date_enqueued, date_started, eta, exc_info, exc_message)
				VALUES ('a', $1, $2, $3, CASE WHEN $4 > 0 THEN now() AT TIME ZONE 'UTC' - $4 * interval '1 second' END,
					'2020-01-01', '2020-01-02', 'old info', 'old message')`, v.state, v.retry, v.max, v.age.Seconds())
			if v.lock != none {
				h.exec("INSERT INTO queue_job_lock (id, queue_job_id) SELECT id, id FROM queue_job")
			}
			if v.lock == locked {
				h.HoldLock("a")
			}
			before := h.job("a")
			s := h.session()
			found, err := s.Inspect(h.deadline(), []string{"a"})
			require.NoError(t, err)
			require.Equal(t, v.want != "", found[0].Verdict == driver.Dead, found[0].Verdict)
			require.Equal(t, v.lock == locked, found[0].Verdict == driver.Alive)
			rows, err := s.Rescue(h.deadline(), found)
			require.NoError(t, err)
			after := h.job("a")
			if v.want == "" {
				require.Empty(t, rows)
				require.Equal(t, before, after)
				return
			}
			require.Len(t, rows, 1)
			want := before
			want["state"], want["retry"] = v.want, v.wantRetry
			if v.want == "failed" {
				want["exc_name"], want["exc_info"] = "JobFoundDead", "Job found dead after too many retries"
			}
			require.Equal(t, want, after, "and nothing else")
			require.Equal(t, channels.ParseState(v.want), rows[0].State)
			require.Equal(t, v.wantRetry, rows[0].Retry)
		})
	}
}

// job reads what a rescue might change.
func (h *harness) job(uuid string) map[string]any {
	h.t.Helper()
	rows, err := h.admin.Query(h.t.Context(), `SELECT state, retry, max_retries, exc_name, exc_info, exc_message, eta,
		date_enqueued, date_started, worker_pid FROM queue_job WHERE uuid = $1`, uuid)
	require.NoError(h.t, err)
	defer rows.Close()
	require.True(h.t, rows.Next())
	values, err := rows.Values()
	require.NoError(h.t, err)
	job := map[string]any{}
	for i, f := range rows.FieldDescriptions() {
		job[f.Name] = values[i]
	}
	return job
}

// A worker that commits while the rescue is under way keeps its result.
func TestRescueLosesAgainstACommit(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec(`INSERT INTO queue_job (uuid, state, date_enqueued) SELECT i::text, 'started', now() AT TIME ZONE 'UTC' - interval '1 minute'
		FROM generate_series(1, 300) i`)
	h.exec("INSERT INTO queue_job_lock (id, queue_job_id) SELECT id, id FROM queue_job")
	s := h.session()
	uuids := make([]string, 300)
	for i := range uuids {
		uuids[i] = fmt.Sprint(i + 1)
	}
	dead, err := s.Inspect(h.deadline(), uuids)
	require.NoError(t, err)
	worker := h.connect()
	_, err = worker.Exec(t.Context(), "BEGIN")
	require.NoError(t, err)
	_, err = worker.Exec(t.Context(), "SELECT FROM queue_job_lock FOR NO KEY UPDATE")
	require.NoError(t, err)
	_, err = worker.Exec(t.Context(), "UPDATE queue_job SET state = 'done'")
	require.NoError(t, err)
	committed := make(chan error, 1)
	ctx := h.deadline()
	go func() {
		_, err := worker.Exec(ctx, "COMMIT")
		committed <- err
	}()
	rows, err := s.Rescue(h.deadline(), dead)
	require.NoError(t, err)
	require.NoError(t, <-committed)
	require.Empty(t, rows)
	var done int
	require.NoError(t, h.admin.QueryRow(t.Context(), "SELECT count(*) FROM queue_job WHERE state = 'done'").Scan(&done))
	require.Equal(t, 300, done)
}

// Inspecting must never be in a worker's way, who would find the lock row locked and give up.
func TestInspectDisturbsNobody(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec(`INSERT INTO queue_job (uuid, state, date_enqueued) VALUES ('a', 'started', now() AT TIME ZONE 'UTC' - interval '1 minute')`)
	h.exec("INSERT INTO queue_job_lock (id, queue_job_id) SELECT id, id FROM queue_job")
	s := h.session()
	ctx, cancel := context.WithCancel(h.deadline())
	probed := make(chan error, 1)
	go func() {
		defer close(probed)
		for ctx.Err() == nil {
			if _, err := s.Inspect(h.t.Context(), []string{"a"}); err != nil {
				probed <- err
				return
			}
		}
	}()
	worker := h.connect()
	for range 500 {
		var n int
		require.NoError(t, worker.QueryRow(t.Context(),
			"WITH l AS (SELECT id FROM queue_job_lock FOR NO KEY UPDATE SKIP LOCKED) SELECT count(*) FROM l").Scan(&n))
		require.Equal(t, 1, n)
	}
	cancel()
	require.NoError(t, <-probed)
}

// The read-only probe cannot see a lock taken inside a savepoint; the rescue can.
func TestRescueSeesALockTakenInASavepoint(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec(`INSERT INTO queue_job (uuid, state, date_enqueued) VALUES ('a', 'started', now() AT TIME ZONE 'UTC' - interval '1 minute')`)
	h.exec("INSERT INTO queue_job_lock (id, queue_job_id) SELECT id, id FROM queue_job")
	worker := h.connect()
	_, err := worker.Exec(t.Context(), `BEGIN; SAVEPOINT s; SELECT FROM queue_job_lock FOR UPDATE; RELEASE s`)
	require.NoError(t, err)
	s := h.session()
	found, err := s.Inspect(h.deadline(), []string{"a"})
	require.NoError(t, err)
	require.Equal(t, driver.Dead, found[0].Verdict, "the blind spot")
	rows, err := s.Rescue(h.deadline(), found)
	require.NoError(t, err)
	require.Empty(t, rows)
}

// Without a lock table, only what is expired is put back, if it is unchanged.
func TestRescueOfExpiredJobs(t *testing.T) {
	for _, gen := range []odoostub.Generation{odoostub.QueueJob10, odoostub.QueueJob12} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			s := h.session()
			for i, v := range []struct {
				state      string
				retry, max any
				want       string // empty for untouched
				wantRetry  int32
			}{
				{"started", 0, 5, "pending", 1},
				{"started", nil, nil, "pending", 1},
				{"started", 6, 5, "failed", 7},
				{"started", 99, 0, "pending", 100},
				{"enqueued", 0, 5, "", 0},
				{"done", 0, 5, "", 0},
			} {
				uuid := fmt.Sprint(i)
				h.exec(`INSERT INTO queue_job (uuid, state, retry, max_retries, date_enqueued, exc_info)
					VALUES ($1, $2, $3, $4, now() AT TIME ZONE 'UTC' - interval '3 hours', 'old')`, uuid, v.state, v.retry, v.max)
				row := func() (state, info string) {
					require.NoError(t, h.admin.QueryRow(t.Context(), "SELECT state, exc_info FROM queue_job WHERE uuid = $1", uuid).Scan(&state, &info))
					return state, info
				}
				found, err := s.Inspect(h.deadline(), []string{uuid})
				require.NoError(t, err)
				found[0].Expired = true
				rows, err := s.Rescue(h.deadline(), found)
				require.NoError(t, err)
				state, info := row()
				require.Equal(t, v.want == "failed", info != "old")
				if v.want == "" {
					require.Empty(t, rows)
					require.Equal(t, v.state, state)
					continue
				}
				require.Len(t, rows, 1)
				require.Equal(t, channels.ParseState(v.want), rows[0].State)
				require.Equal(t, v.wantRetry, rows[0].Retry)
				require.Equal(t, v.want, state)
				rows, err = s.Rescue(h.deadline(), found)
				require.NoError(t, err)
				require.Empty(t, rows, "the row has changed")
			}
		})
	}
}
