package odoo_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// quarantiner is a session that has the lock.
func (h *harness) quarantiner() (driver.Session, driver.Quarantiner) {
	s := h.session()
	return s, s.(driver.Quarantiner)
}

// names reports whether the generation has names of exceptions.
func (h *harness) names() bool { return !h.gen.Connector() && h.gen != odoostub.QueueJob10 }

// exceptions reads what a row says about failures, as far as the generation has columns for it.
func (h *harness) exceptions(uuid string) (name, message, info string) {
	h.t.Helper()
	columns := "'', '', coalesce(exc_info, '')"
	if h.names() {
		columns = "coalesce(exc_name, ''), coalesce(exc_message, ''), coalesce(exc_info, '')"
	}
	require.NoError(h.t, h.admin.QueryRow(h.t.Context(), "SELECT "+columns+" FROM queue_job WHERE uuid = $1", uuid).Scan(&name, &message, &info))
	return name, message, info
}

// On every generation a job fails in place of being put back, with a text where Odoo shows it.
func TestQuarantineOnEveryGeneration(t *testing.T) {
	const why = "3 attempts of this job came to nothing.\n2026-11-26 12:00:00 UTC on odoo1: it 'died'."
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			require.True(t, h.Driver().Capabilities().Quarantine)
			s, q := h.quarantiner()
			h.exec(`INSERT INTO queue_job (uuid, state, retry, max_retries, date_enqueued, date_started, exc_info)
				VALUES ('dead', 'started', 4, 0, date_trunc('second', now() AT TIME ZONE 'UTC') - interval '3 hours', '2020-01-01', 'an earlier failure'),
				('unrun', 'pending', NULL, 0, NULL, NULL, NULL)`)
			found, err := s.Inspect(h.deadline(), []string{"dead"})
			require.NoError(t, err)
			found[0].Expired = !gen.Locks()
			rows, err := q.FailDead(h.deadline(), found, []string{why})
			require.NoError(t, err)
			require.Len(t, rows, 1)
			require.Equal(t, channels.Failed, rows[0].State)
			require.EqualValues(t, 5, rows[0].Retry)
			require.Equal(t, found[0].Row.Enqueued, rows[0].Enqueued)
			name, message, info := h.exceptions("dead")
			require.Equal(t, "an earlier failure\n\n"+why, info)
			if h.names() {
				require.Equal(t, driver.QuarantineName, name)
				require.Equal(t, "3 attempts of this job came to nothing.", message)
			}

			tasks, _, err := s.Claim(h.deadline(), []string{"unrun"}, nil)
			require.NoError(t, err)
			require.Len(t, tasks, 1)
			rows, err = q.FailUnclaimed(h.deadline(), tasks, []string{why})
			require.NoError(t, err)
			require.Len(t, rows, 1)
			require.Equal(t, channels.Failed, rows[0].State)
			require.Zero(t, rows[0].Retry)
			_, _, info = h.exceptions("unrun")
			require.Equal(t, why, info)
			rows, err = q.FailUnclaimed(h.deadline(), tasks, []string{why})
			require.NoError(t, err)
			require.Empty(t, rows, "once")
		})
	}
}

// It is under the conditions of a rescue that a job fails: the table of docs/contract.md 3.4.
func TestQuarantineTakesADeadJob(t *testing.T) {
	const none, row, locked = "none", "row", "locked"
	for i, v := range []struct {
		state string
		age   time.Duration // 0 for NULL
		lock  string
		fails bool
	}{
		{"started", time.Minute, row, true},
		{"started", time.Minute, none, true},
		{"enqueued", time.Minute, none, true},
		{"enqueued", time.Minute, row, true},
		{"enqueued", 3 * time.Second, none, false},
		{"started", 3 * time.Second, row, false},
		{"started", 0, none, false},
		{"started", time.Minute, locked, false},
		{"enqueued", time.Minute, locked, false},
		{"pending", time.Minute, none, false},
		{"done", time.Minute, row, false},
	} {
		t.Run(fmt.Sprintf("%d %s %s", i, v.state, v.lock), func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			h.exec(`INSERT INTO queue_job (uuid, state, retry, max_retries, date_enqueued)
				VALUES ('a', $1, 0, 5, CASE WHEN $2 > 0 THEN now() AT TIME ZONE 'UTC' - $2 * interval '1 second' END)`, v.state, v.age.Seconds())
			if v.lock != none {
				h.exec("INSERT INTO queue_job_lock (id, queue_job_id) SELECT id, id FROM queue_job")
			}
			if v.lock == locked {
				h.HoldLock("a")
			}
			before := h.job("a")
			s, q := h.quarantiner()
			found, err := s.Inspect(h.deadline(), []string{"a"})
			require.NoError(t, err)
			rows, err := q.FailDead(h.deadline(), found, []string{"why"})
			require.NoError(t, err)
			require.Equal(t, v.fails, len(rows) == 1)
			if !v.fails {
				require.Equal(t, before, h.job("a"))
			}
		})
	}
}

// A row that somebody has locked is left alone, and so is one whose job the worker ends meanwhile.
func TestQuarantineSkipsLockedRows(t *testing.T) {
	for _, gen := range []odoostub.Generation{odoostub.QueueJob12, odoostub.QueueJobLock} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			h.exec(`INSERT INTO queue_job (uuid, state, date_enqueued) VALUES
				('dead', 'started', now() AT TIME ZONE 'UTC' - interval '1 minute'), ('unrun', 'pending', NULL)`)
			s, q := h.quarantiner()
			found, err := s.Inspect(h.deadline(), []string{"dead"})
			require.NoError(t, err)
			found[0].Expired = !gen.Locks()
			tasks, _, err := s.Claim(h.deadline(), []string{"unrun"}, nil)
			require.NoError(t, err)
			other := h.connect()
			_, err = other.Exec(t.Context(), "BEGIN; UPDATE queue_job SET state = 'done'")
			require.NoError(t, err)
			rows, err := q.FailDead(h.deadline(), found, []string{"why"})
			require.NoError(t, err)
			require.Empty(t, rows)
			rows, err = q.FailUnclaimed(h.deadline(), tasks, []string{"why"})
			require.NoError(t, err)
			require.Empty(t, rows)
			_, err = other.Exec(t.Context(), "COMMIT")
			require.NoError(t, err)
			rows, err = q.FailDead(h.deadline(), found, []string{"why"})
			require.NoError(t, err)
			require.Empty(t, rows, "it is done")
		})
	}
}

// A role that may write no more than it must fails jobs without a text.
func TestQuarantineWithFewRights(t *testing.T) {
	h := newHarness(t, odoostub.QueueJob12)
	role := h.role("limited")
	h.exec("GRANT SELECT ON ALL TABLES IN SCHEMA public TO " + role)
	h.exec("GRANT UPDATE (state, date_enqueued) ON queue_job TO " + role)
	h.exec(`INSERT INTO queue_job (uuid, state, retry, date_enqueued, exc_info)
		VALUES ('a', 'enqueued', 1, '2020-01-01', 'an earlier failure')`)
	cfg := h.Postgres()
	cfg.User = role
	s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(h.deadline())) }()
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.Equal(t, driver.Healthy, fp.Health, fp.Description)
	rows, err := s.Read(h.deadline(), []string{"a"})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	rows, err = s.(driver.Quarantiner).FailUnclaimed(h.deadline(), []driver.Task{{Key: rows[0].Key, Enqueued: rows[0].Enqueued}}, []string{"why"})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, channels.Failed, rows[0].State)
	_, _, info := h.exceptions("a")
	require.Equal(t, "an earlier failure", info)
}
