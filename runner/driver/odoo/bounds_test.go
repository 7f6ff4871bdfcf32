package odoo_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestWideColumns: a site may have made Odoo's numbers wider, or need it to.
func TestWideColumns(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("ALTER TABLE queue_job ALTER id TYPE int8, ALTER priority TYPE int8, ALTER retry TYPE int8, ALTER max_retries TYPE int8")
	h.exec(`INSERT INTO queue_job (id, uuid, state, priority, retry, max_retries) VALUES
		(5000000000, 'a', 'pending', 9000000000, -9000000000, 9000000000), (5000000001, 'b', 'pending', 3, 4, 5)`)
	s := h.session()
	rows := h.snapshot(s)
	require.Equal(t, int64(5_000_000_000), rows["a"].ID)
	require.Equal(t, int32(1<<31-1), rows["a"].Priority)
	require.Equal(t, int32(-1<<31), rows["a"].Retry)
	require.Equal(t, int64(5_000_000_001), rows["b"].ID)
	require.Equal(t, int32(3), rows["b"].Priority)
	require.Equal(t, int32(4), rows["b"].Retry)
	read, err := s.Read(h.deadline(), []string{"a", "b"})
	require.NoError(t, err)
	for _, r := range read {
		require.Equal(t, rows[r.UUID], r)
	}
	tasks, _, err := s.Claim(h.deadline(), []string{"a", "b"}, nil)
	require.NoError(t, err)
	require.Len(t, tasks, 2)
	o, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	defer o.Close(context.Background())
	found, err := o.List(h.deadline(), driver.Filter{}, 0, 10)
	require.NoError(t, err)
	list := found.Jobs
	require.Equal(t, int32(1<<31-1), list[1].MaxRetries)
}

// TestLongTexts: what others write into a row is cut by the server.
func TestLongTexts(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("ALTER TABLE queue_job ALTER uuid TYPE text, ALTER channel TYPE text, ALTER state TYPE text")
	h.exec(`DO $$ DECLARE i record; BEGIN
		FOR i IN SELECT indexrelid::regclass AS name FROM pg_index WHERE indrelid = 'queue_job'::regclass AND NOT indisprimary LOOP
			EXECUTE 'DROP INDEX ' || i.name;
		END LOOP; END $$`)
	h.exec("SET session_replication_role = replica") // the trigger cannot name such a job
	h.exec(`INSERT INTO queue_job (uuid, state, channel, exc_name, model_name, method_name)
		SELECT 'long' || u, s, repeat('c', 2000000), repeat('e', 2000000), repeat('m', 2000000), repeat('f', 2000000)
		FROM (VALUES ('', 'pending'), (repeat('u', 2000000), 'failed'), ('strange', repeat('s', 2000000))) AS v (u, s)`)
	s := h.session()
	n := 0
	require.NoError(t, s.Snapshot(h.deadline(), func(r driver.Row) {
		n++
		require.LessOrEqual(t, len(r.UUID), odoo.UUIDLimit+1)
		require.LessOrEqual(t, len(r.Channel), 256)
		require.LessOrEqual(t, len(r.RawState), 256)
		require.Equal(t, strings.HasPrefix(r.UUID, "longu"), r.Nameless)
	}))
	require.Equal(t, 3, n)
	tasks, _, err := s.Claim(h.deadline(), []string{"long"}, []string{"longstrange"})
	require.NoError(t, err)
	require.Len(t, tasks, 1)
	require.LessOrEqual(t, len(tasks[0].Model), 256)
	o, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	defer o.Close(context.Background())
	found, err := o.List(h.deadline(), driver.Filter{States: []channels.State{channels.Failed}}, 0, 10)
	require.NoError(t, err)
	list := found.Jobs
	require.Len(t, list, 1)
	require.LessOrEqual(t, len(list[0].Exception), 256)
}

// TestManyNotifications: every role that may connect can notify; what is kept of it is bounded, and
// what is left out is told.
func TestManyNotifications(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	require.NoError(t, s.Listen(h.deadline()))
	h.exec("SELECT pg_notify('queue_job', repeat('x', 7000) || i) FROM generate_series(1, 100) AS i")
	wait := func(done func(driver.Notifications) bool) {
		ctx, cancel := context.WithTimeout(h.deadline(), 20*time.Second)
		defer cancel()
		for {
			n, err := s.Wait(ctx)
			require.NoError(t, err)
			require.NoError(t, ctx.Err())
			if done(n) {
				return
			}
		}
	}
	wait(func(n driver.Notifications) bool {
		require.Empty(t, n.Changed, "no job can have such a name")
		return n.Reload
	})
	h.exec("SELECT pg_notify('queue_job', 'job' || i) FROM generate_series(1, 150000) AS i")
	// A statement meanwhile reads all that has arrived.
	_, err := s.Read(h.deadline(), []string{"a"})
	require.NoError(t, err)
	wait(func(n driver.Notifications) bool {
		require.LessOrEqual(t, len(n.Changed), 100_000)
		return n.Overflow
	})
}
