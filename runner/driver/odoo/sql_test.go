package odoo_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

func (h *harness) snapshot(s driver.Session) map[string]driver.Row {
	h.t.Helper()
	rows := map[string]driver.Row{}
	require.NoError(h.t, s.Snapshot(h.deadline(), func(r driver.Row) { rows[r.UUID] = r }))
	return rows
}

func TestOddValues(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec(`INSERT INTO queue_job (uuid, state, channel, priority, date_created, eta, date_enqueued, retry) VALUES
		('null', 'pending', NULL, NULL, NULL, NULL, NULL, NULL),
		('empty', 'pending', '', 0, 'epoch', 'epoch', 'epoch', 0),
		('far', 'started', 'root', -5, 'infinity', 'infinity', 'infinity', 1),
		('past', 'started', 'a.b', 2147483647, '-infinity', '-infinity', '-infinity', 1),
		('exact', 'enqueued', 'a', 1, '2038-01-19 03:14:08.123457', '1969-12-31 23:59:59.999999', '2026-03-29 02:30:00', 1),
		('', 'failed', 'ä.日本', 1, NULL, NULL, NULL, 1),
		('x''; DROP TABLE queue_job; --', 'pending', 'a', 1, NULL, NULL, NULL, 1),
		('nothing', '', 'a', 1, NULL, NULL, NULL, 1),
		('Done', 'Done', 'a', 1, NULL, NULL, NULL, 1),
		('zzz', 'zzz', 'a', 1, NULL, NULL, NULL, 1),
		('aaa', 'aaa', 'a', 1, NULL, NULL, NULL, 1),
		('canceled', 'canceled', 'a', 1, NULL, NULL, NULL, 1),
		('waiting', 'waiting', 'a', 1, NULL, NULL, NULL, 1)`)
	h.exec("ALTER TABLE queue_job ALTER state DROP NOT NULL")
	h.exec("INSERT INTO queue_job (uuid, state) VALUES ('nullstate', NULL)")
	s := h.session()
	rows := h.snapshot(s)
	require.NotContains(t, rows, "nothing", "an empty state counts as done")
	require.NotContains(t, rows, "nullstate")
	for _, strange := range []string{"Done", "zzz", "aaa", "canceled", "waiting"} {
		require.Equal(t, channels.Unknown, rows[strange].State)
		require.Equal(t, strange, rows[strange].RawState)
	}
	want := func(uuid, channel string, priority int32, created, eta, enqueued int64) {
		t.Helper()
		r, ok := rows[uuid]
		require.True(t, ok, uuid)
		require.Equal(t, channel, r.Channel)
		require.Equal(t, priority, r.Priority)
		require.Equal(t, []int64{created, eta, enqueued}, []int64{r.Created, r.ETA, r.Enqueued}, uuid)
		read, err := s.Read(h.deadline(), []string{uuid})
		require.NoError(t, err)
		require.Equal(t, []driver.Row{r}, read)
	}
	want("null", "", 0, 0, 0, 0)
	want("empty", "", 0, 0, 0, 0)
	want("far", "root", -5, math.MaxInt64, math.MaxInt64, math.MaxInt64)
	want("past", "a.b", math.MaxInt32, math.MinInt64, 0, math.MinInt64)
	want("exact", "a", 1,
		time.Date(2038, 1, 19, 3, 14, 8, 123457000, time.UTC).UnixMicro(), -1,
		time.Date(2026, 3, 29, 2, 30, 0, 0, time.UTC).UnixMicro())
	want("", "ä.日本", 1, 0, 0, 0)
	want("x'; DROP TABLE queue_job; --", "a", 1, 0, 0, 0)

	found, err := s.Inspect(h.deadline(), []string{"far", "past", "null"})
	require.NoError(t, err)
	for _, l := range found {
		require.Equal(t, l.Row.UUID != "null", l.Verdict == driver.Dead, l.Row.UUID)
		require.Zero(t, l.Age)
	}
	rescued, err := s.Rescue(h.deadline(), found)
	require.NoError(t, err)
	require.Len(t, rescued, 2, "times that no claim has written keep no slot")
	none, err := s.Read(h.deadline(), []string{"nullstate"})
	require.NoError(t, err)
	require.Equal(t, channels.Done, none[0].State)
}

// Jobs are found by the first letters of their uuids, in which nothing has a meaning.
func TestPrefix(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	for _, uuid := range []string{"3f2a9b54", "3f2a0000", "3f2b", "a_b", "acb"} {
		h.Insert(drivertest.Job{UUID: uuid, State: "failed"})
	}
	o, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	defer o.Close(context.Background())
	for prefix, want := range map[string][]string{
		"3f2a": {"3f2a0000", "3f2a9b54"}, "3f2a9b54": {"3f2a9b54"}, "3f2": {"3f2b", "3f2a0000", "3f2a9b54"}, "a_": {"a_b"}, "%": nil,
	} {
		found, err := o.List(h.deadline(), driver.Filter{Prefix: prefix}, 0, 10)
		require.NoError(t, err)
		list := found.Jobs
		var got []string
		for _, d := range list {
			got = append(got, d.UUID)
		}
		require.Equal(t, want, got, prefix)
	}
}

// The database does not forbid two rows of one uuid.
func TestDuplicateUUIDs(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	for _, state := range []string{"done", "pending", "started", "pending", "enqueued"} {
		h.Insert(drivertest.Job{UUID: "a", State: state})
	}
	for _, state := range []string{"failed", "pending", "pending", "done"} {
		h.Insert(drivertest.Job{UUID: "b", State: state})
	}
	s := h.session()
	rows, err := s.Read(h.deadline(), []string{"a", "b"})
	require.NoError(t, err)
	got := map[string]string{}
	for _, r := range rows {
		got[r.UUID] = fmt.Sprintf("%d %s", r.ID, r.State)
	}
	require.Equal(t, map[string]string{"a": "3 started", "b": "7 pending"}, got)
	last := map[string]string{}
	require.NoError(t, s.Snapshot(h.deadline(), func(r driver.Row) { last[r.UUID] = fmt.Sprintf("%d %s", r.ID, r.State) }))
	require.Equal(t, got, last)
	for uuid, id := range map[string]int64{"a": 3, "b": 7} { // what of that runs, the scheduler knows
		tasks, rows, err := s.(driver.VacantClaimer).ClaimVacant(h.deadline(), uuid)
		require.NoError(t, err)
		require.Empty(t, tasks)
		require.Len(t, rows, 1)
		require.Equal(t, id, rows[0].ID)
	}
	tasks, _, err := s.Claim(h.deadline(), []string{"b"}, nil)
	require.NoError(t, err)
	require.Len(t, tasks, 1)
	found, err := s.Inspect(h.deadline(), []string{"a"})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, int64(3), found[0].Row.ID)
}

// Rows that have nothing to do with each other are not mixed up, however many there are, and a uuid
// that comes again much later is found.
func TestSnapshotOfMany(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("ALTER TABLE queue_job DISABLE TRIGGER USER")
	h.exec(`INSERT INTO queue_job (uuid, state, channel, priority, date_created, eta)
		SELECT md5(i::text)::uuid, CASE i % 3 WHEN 0 THEN 'failed' ELSE 'pending' END, 'root.c' || i % 7, i, 'epoch'::timestamp + i * interval '1 s',
			CASE WHEN i % 5 = 0 THEN 'epoch'::timestamp + i * interval '1 h' END
		FROM generate_series(1, 5000) i`)
	h.exec("INSERT INTO queue_job (uuid, state) SELECT md5(i::text)::uuid, 'started' FROM generate_series(1, 5000, 1000) i")
	check := func() {
		s := h.session()
		var all []driver.Row
		rows := map[string]driver.Row{}
		require.NoError(t, s.Snapshot(h.deadline(), func(r driver.Row) { all = append(all, r); rows[r.UUID] = r }))
		require.Len(t, rows, 5000)
		// Each row, and those that matter of the double ones again. By chance, one of a hundred times,
		// another one comes again, because its hash is that of one before it: the same once more.
		again := map[string]bool{}
		for _, r := range all[5005:] {
			again[r.UUID] = true
			require.True(t, r.State == channels.Started || slices.Contains(all[:5005], r), r)
		}
		doubles := 0
		for _, r := range all[:5005] {
			if r.State == channels.Started {
				require.True(t, again[r.UUID], "the double %s", r.UUID)
				doubles++
			}
		}
		require.Equal(t, 5, doubles)
		require.Len(t, all, 5005+len(again), "none more than once")
		var uuids []string
		for uuid := range rows {
			uuids = append(uuids, uuid)
		}
		read, err := s.Read(h.deadline(), uuids)
		require.NoError(t, err)
		require.Len(t, read, 5000)
		for _, r := range read {
			require.Equal(t, r, rows[r.UUID])
		}
		require.NoError(t, s.Close(h.deadline()))
	}
	check()
	// Not what Odoo makes of its fields, but no reason not to read it.
	h.exec("ALTER TABLE queue_job ALTER priority TYPE bigint, ALTER retry TYPE smallint, ALTER channel TYPE text")
	check()
}

// A big table is read by index; done jobs cost nothing.
func TestSnapshotUsesTheIndex(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("ALTER TABLE queue_job DISABLE TRIGGER USER")
	h.exec(`INSERT INTO queue_job (uuid, state) SELECT i::text, CASE WHEN i % 1000 = 0 THEN 'pending' ELSE 'done' END
		FROM generate_series(1, 50000) i`)
	h.exec("ANALYZE queue_job")
	s := h.session()
	require.Len(t, h.snapshot(s), 50)
	plan := h.explain()
	require.Contains(t, plan, "Index Scan on queue_job_state_index")
	require.NotContains(t, plan, "Seq Scan")
}

// Plans of statements that name jobs are made when the table may be empty still, and must not go
// through all pending jobs when there are many.
func TestClaimUsesTheIndex(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"}) // or the claim would ask why there is none
	s := h.session()
	read := func() error { _, err := s.Read(h.deadline(), []string{"a"}); return err }
	claim := func() error { _, _, err := s.Claim(h.deadline(), []string{"a"}, []string{"b"}); return err }
	vacant := func() error { _, _, err := s.(driver.VacantClaimer).ClaimVacant(h.deadline(), "a"); return err }
	for i, call := range []func() error{read, claim, vacant} {
		require.NoError(t, call())
		plan := h.explain([]string{"'{a,b}'", "'{c}'"}[:min(i+1, 2)]...)
		require.Contains(t, plan, "queue_job_uuid_index")
		require.NotContains(t, plan, "queue_job_state_index")
		require.NotContains(t, plan, "Seq Scan")
		require.Equal(t, i > 0, strings.Contains(plan, "Scan using ir_config_parameter"), plan)
	}
}

// explain returns the plan of the last statement of the session, which it asks the server for. It
// may have parameters.
func (h *harness) explain(parameters ...string) string {
	h.t.Helper()
	var sql string
	require.NoError(h.t, h.admin.QueryRow(h.t.Context(), `SELECT query FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'caddy-jobrunner/session'`).Scan(&sql))
	require.Contains(h.t, sql, "queue_job")
	statement := "EXPLAIN " + sql
	if len(parameters) > 0 {
		h.exec("SET enable_seqscan = off") // as the session does
		h.exec("SET plan_cache_mode = force_generic_plan")
		h.exec("PREPARE explained AS " + sql)
		defer h.exec("DEALLOCATE explained")
		statement = "EXPLAIN EXECUTE explained(" + strings.Join(parameters, ", ") + ")"
	}
	rows, err := h.admin.Query(h.t.Context(), statement, pgx.QueryExecModeSimpleProtocol)
	require.NoError(h.t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(h.t, err)
	return strings.Join(plan, "\n")
}

// Rows that another session has locked are left out at once.
func TestLockedRowsAreSkipped(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	for _, uuid := range []string{"a", "b"} {
		h.Insert(drivertest.Job{UUID: uuid, State: "pending"})
	}
	s := h.session()
	lock := func(uuid string) (free func()) {
		conn := h.connect()
		_, err := conn.Exec(t.Context(), "BEGIN")
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), "SELECT FROM queue_job WHERE uuid = $1 FOR UPDATE", uuid)
		require.NoError(t, err)
		return func() {
			_, err := conn.Exec(t.Context(), "ROLLBACK")
			require.NoError(t, err)
		}
	}
	free := lock("a")
	tasks, _, err := s.Claim(h.deadline(), []string{"a", "b"}, nil)
	require.NoError(t, err)
	require.Len(t, tasks, 1)
	require.Equal(t, "b", tasks[0].UUID)
	free()
	free = lock("b")
	rows, err := s.Unclaim(h.deadline(), tasks)
	require.NoError(t, err)
	require.Empty(t, rows)
	free()
	rows, err = s.Unclaim(h.deadline(), tasks)
	require.NoError(t, err)
	require.Len(t, rows, 1)
}

// Several sessions may not claim one job, whatever their locks.
func TestClaimsExcludeEachOther(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	const jobs = 200
	uuids := make([]string, jobs)
	for i := range uuids {
		uuids[i] = fmt.Sprint(i)
	}
	h.exec("INSERT INTO queue_job (uuid, state) SELECT unnest($1::varchar[]), 'pending'", uuids)
	var mu sync.Mutex
	var wg sync.WaitGroup
	claimed := map[string]int{}
	for range 4 {
		s := h.session()
		ctx := h.deadline()
		wg.Go(func() {
			for i := 0; i < jobs; i += 20 {
				tasks, _, err := s.Claim(ctx, uuids[i:i+20], nil)
				mu.Lock()
				if err != nil {
					claimed["error: "+err.Error()]++
				}
				for _, task := range tasks {
					claimed[task.UUID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, claimed, jobs)
	for uuid, n := range claimed {
		require.Equal(t, 1, n, uuid)
	}
}

// Notifications survive statements, bursts and interrupted waits.
func TestBurstOfNotifications(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	require.NoError(t, s.Listen(h.deadline()))
	const n = 5000
	h.exec("INSERT INTO queue_job (uuid, state) SELECT 'burst-' || i, 'pending' FROM generate_series(1, $1::int) i", n)
	seen := map[string]bool{}
	waits := 0
	for len(seen) < n {
		ctx, cancel := context.WithCancel(h.deadline())
		if waits%3 == 0 {
			go cancel()
		}
		got, err := s.Wait(ctx)
		cancel()
		require.NoError(t, err)
		require.NoError(t, h.t.Context().Err())
		for _, uuid := range got.Changed {
			require.False(t, seen[uuid], "without duplicates")
			seen[uuid] = true
		}
		waits++
	}
	require.Less(t, waits, n/2, "what has arrived comes at once")
}

func TestProbeNoticesALostRegistration(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	require.NoError(t, s.Probe(h.deadline()))
	_, err := s.Lock(h.deadline())
	require.NoError(t, err)
	require.NoError(t, s.Listen(h.deadline()))
	require.NoError(t, s.Probe(h.deadline()))
	// OCA's runner holds the same lock, so a second session is refused.
	other := h.session()
	lock, err := other.Lock(h.deadline())
	require.NoError(t, err)
	require.False(t, lock.Held)
	require.Contains(t, lock.Holder, "application caddy-jobrunner/session")
	var held bool
	require.NoError(t, h.admin.QueryRow(t.Context(), "SELECT NOT pg_try_advisory_lock(2293787760715711918)").Scan(&held))
	require.True(t, held, "a Python runner is excluded")
}

// What a claim leaves to the disk is decided when it commits, and for it alone.
func TestClaimDurability(t *testing.T) {
	for gen, want := range map[odoostub.Generation]string{odoostub.QueueJobLock: "off", odoostub.QueueJob10: "on", odoostub.Connector9: "on"} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			h.exec("ALTER DATABASE " + pgx.Identifier{h.db}.Sanitize() + " SET synchronous_commit = on")
			h.exec(`CREATE TABLE seen (state text, setting text);
				CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					INSERT INTO seen VALUES (NEW.state, current_setting('synchronous_commit'));
					RETURN NULL;
				END $$;
				CREATE CONSTRAINT TRIGGER see AFTER UPDATE ON queue_job DEFERRABLE INITIALLY DEFERRED
					FOR EACH ROW EXECUTE PROCEDURE see()`)
			h.exec("INSERT INTO queue_job (uuid, state) VALUES ('a', 'pending')")
			s := h.session()
			got, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
			require.NoError(t, err)
			require.Len(t, got, 1)
			_, err = s.Unclaim(h.deadline(), got)
			require.NoError(t, err)
			var enqueued, pending string
			require.NoError(t, h.admin.QueryRow(h.deadline(), `SELECT
				(SELECT setting FROM seen WHERE state = 'enqueued'),
				(SELECT setting FROM seen WHERE state = 'pending')`).Scan(&enqueued, &pending))
			require.Equal(t, want, enqueued)
			require.Equal(t, "on", pending)
		})
	}
}
