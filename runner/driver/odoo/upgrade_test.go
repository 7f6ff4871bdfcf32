package odoo_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// watch is a session that watches for upgrades, as the engine does.
type watch struct {
	*harness
	driver.Session
	last driver.Upgrade
}

func (h *harness) watch() *watch {
	h.t.Helper()
	return &watch{harness: h, Session: h.session()}
}

func (w *watch) check() driver.Upgrade {
	w.t.Helper()
	u, err := w.Session.(driver.Upgrader).Upgrading(w.deadline(), w.last)
	require.NoError(w.t, err)
	w.last = u
	return u
}

// writes runs a statement in a transaction, which it leaves open.
func writes(t *testing.T, conn *pgx.Conn, sql string) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), sql)
	require.NoError(t, err)
	return tx
}

// An upgrade is seen before its marks are, and until the transaction ends in which Odoo cleans up,
// also by another connection.
func TestUpgradeFromBeginToEnd(t *testing.T) {
	const mark, done = "UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'base'", "UPDATE ir_module_module SET state = 'installed' WHERE name = 'base'"
	h := newHarness(t, odoostub.QueueJobLock)
	w := h.watch()
	require.False(t, w.check().Active)
	conn := h.connect()
	tx := writes(t, conn, mark)
	require.Contains(t, w.check().Description, fmt.Sprintf("process %d changes ir_module_module in a transaction that is open", conn.PgConn().PID()))
	_, err := tx.Exec(t.Context(), done)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	tail := writes(t, conn, "SELECT pg_current_xact_id()") // end scripts, orphans, constraints
	for range 3 {
		require.Contains(t, w.check().Description, "has not ended its last transaction")
		w.Session = h.session()
	}
	require.NoError(t, tail.Commit(t.Context()))
	require.Equal(t, driver.Upgrade{}, w.check())

	// Several modules: a check may fall between two of their transactions, or into one that has not
	// written anything yet.
	h.exec(mark)
	tx = writes(t, conn, "UPDATE ir_module_module SET state = 'installed' WHERE name = 'web'")
	require.True(t, w.check().Active)
	require.NoError(t, tx.Commit(t.Context()))
	require.True(t, w.check().Active)
	second := writes(t, conn, "SELECT 1")
	require.True(t, w.check().Active)
	_, err = second.Exec(t.Context(), done)
	require.NoError(t, err)
	require.NoError(t, second.Commit(t.Context()))
	require.Contains(t, w.check().Description, "has not ended its last transaction", "between two")
	tail = writes(t, conn, "SELECT 1")
	for range 2 {
		require.Contains(t, w.check().Description, "has not ended its last transaction")
	}
	require.NoError(t, tail.Commit(t.Context()))
	require.Equal(t, driver.Upgrade{}, w.check())

	// A worker that has upgraded at the wish of a user serves others next, one after the other.
	tx = writes(t, conn, mark)
	require.True(t, w.check().Active)
	require.NoError(t, tx.Rollback(t.Context()))
	require.True(t, w.check().Active, "nor can the pause before it")
	user := writes(t, conn, "SELECT 1")
	require.True(t, w.check().Active, "it cannot be told from the end of the upgrade")
	require.NoError(t, user.Commit(t.Context()))
	user = writes(t, conn, "SELECT 1")
	require.False(t, w.check().Active)
	require.NoError(t, user.Commit(t.Context()))
	tx = writes(t, conn, mark)
	require.True(t, w.check().Active)
	require.NoError(t, tx.Rollback(t.Context()))
	require.True(t, w.check().Active)
	require.False(t, w.check().Active, "nobody has used it again")
}

// What others do with the table is no upgrade: reading, vacuuming, locks of single rows, the same table
// elsewhere.
func TestNoUpgrade(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	other := newHarness(t, odoostub.QueueJobLock)
	w := h.watch()
	for _, sql := range []string{
		"SELECT FROM ir_module_module FOR UPDATE", "LOCK TABLE ir_module_module IN SHARE UPDATE EXCLUSIVE MODE",
		"UPDATE queue_job SET state = 'pending'",
	} {
		tx := writes(t, h.connect(), sql)
		require.Equal(t, driver.Upgrade{}, w.check(), sql)
		require.NoError(t, tx.Rollback(t.Context()))
	}
	end := other.Change()
	require.Equal(t, driver.Upgrade{}, w.check(), "of another database")
	end()
	tx := writes(t, h.connect(), "LOCK TABLE ir_module_module IN EXCLUSIVE MODE")
	require.True(t, w.check().Active, "as Odoo's buttons do from 19.0 on")
	require.NoError(t, tx.Rollback(t.Context()))
}

// Each mark counts, in every series, and names that are none of Odoo's cannot break a line.
func TestMarks(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			w := h.watch()
			for _, state := range []string{"to install", "to upgrade", "to remove"} {
				h.exec("INSERT INTO ir_module_module (name, state) VALUES ($1, $2)", "x\n\x1b[31m"+state, state)
				u := w.check()
				require.Contains(t, u.Description, `modules are marked: "x\n\x1b[31m`+state+` (`+state+`)"`)
				h.exec("DELETE FROM ir_module_module WHERE state = $1", state)
				require.Equal(t, driver.Upgrade{}, w.check())
			}
			for i := range 30 {
				h.exec("INSERT INTO ir_module_module (name, state) VALUES ($1, 'to install')", fmt.Sprintf("m%050d", i))
			}
			require.Less(t, len(w.check().Description), 1000)
		})
	}
}

// A claim that is under way when a mark is committed claims nothing, whichever came first.
func TestGateIsPartOfTheClaim(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	s.(driver.Upgrader).GateUpgrades(true)
	const jobs = 5000
	h.exec("INSERT INTO queue_job (uuid, state) SELECT lpad(i::text, 36, '0'), 'pending' FROM generate_series(0, $1) AS i", jobs)
	marked, first := make(chan error, 1), make(chan struct{})
	admin := h.connect()
	go func() {
		<-first
		_, err := admin.Exec(context.Background(), "UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'base'")
		marked <- err
	}()
	after := 0
	for i := 0; i < jobs && after < 20; i++ {
		select {
		case err := <-marked:
			require.NoError(t, err)
			after = 1
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		tasks, _, err := s.Claim(ctx, []string{fmt.Sprintf("%036d", i)}, nil)
		cancel()
		require.NoError(t, err)
		if after > 0 {
			after++
			require.Empty(t, tasks)
		}
		if i == 50 {
			require.Len(t, tasks, 1)
			close(first)
		}
	}
	require.Equal(t, 20, after)
}

// TestGateSeesMarksBeforeTheyAreCommitted: nothing is claimed from the moment on at which a transaction
// has written a mark, whether or not anybody can see it, in every series.
func TestGateSeesMarksBeforeTheyAreCommitted(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			s := h.session()
			s.(driver.Upgrader).GateUpgrades(true)
			h.exec("INSERT INTO queue_job (uuid, state) VALUES ('a', 'pending')")
			tx := writes(t, h.connect(), "UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'base'")
			tasks, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
			require.NoError(t, err)
			require.Empty(t, tasks)
			require.NoError(t, tx.Rollback(t.Context()))
			tasks, _, err = s.Claim(h.deadline(), []string{"a"}, nil)
			require.NoError(t, err)
			require.Len(t, tasks, 1)
		})
	}
}

// A transaction that keeps the table of modules from being read counts as one that changes it, and so does
// one that waits for that: the check waits for neither.
func TestUpgradeOfALockedTable(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	w := h.watch()
	reader, conn := h.connect(), h.connect()
	reading := writes(t, reader, "SELECT FROM ir_module_module")
	waits := make(chan error, 1)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	go func() {
		_, err := tx.Exec(t.Context(), "LOCK TABLE ir_module_module IN ACCESS EXCLUSIVE MODE")
		waits <- err
	}()
	pid := conn.PgConn().PID()
	says := fmt.Sprintf("process %d changes ir_module_module", pid)
	require.Eventually(t, func() bool {
		var n int
		err := h.admin.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted", pid).Scan(&n)
		return err == nil && n == 1
	}, 10*time.Second, time.Millisecond)
	require.Contains(t, w.check().Description, says)
	require.NoError(t, reading.Commit(t.Context()))
	require.NoError(t, <-waits)
	require.Contains(t, w.check().Description, says)
	require.NoError(t, tx.Commit(t.Context()))
	for range 3 {
		w.check()
	}
	require.False(t, w.check().Active)
	require.NoError(t, w.Session.Probe(w.deadline()), "the session lives")
}

// A table that is locked between the check and the claim costs neither the session nor a job: claim and
// probe say that there is an upgrade.
func TestClaimMeetsALock(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	w := h.watch()
	w.Session.(driver.Upgrader).GateUpgrades(true)
	require.NoError(t, w.Listen(h.deadline()))
	require.False(t, w.check().Active)
	tx := writes(t, h.connect(), "LOCK TABLE ir_module_module IN ACCESS EXCLUSIVE MODE")
	_, _, err := w.Claim(h.deadline(), []string{"a"}, nil)
	require.ErrorIs(t, err, driver.ErrUpgrading)
	require.ErrorIs(t, w.Probe(h.deadline()), driver.ErrUpgrading)
	require.True(t, w.check().Active)
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, w.Probe(h.deadline()))
	tasks, _, err := w.Claim(h.deadline(), []string{"a"}, nil)
	require.NoError(t, err)
	require.Len(t, tasks, 1)
}

// A check meets a lock, too, if that is taken in the middle of it; here, on a table that it does not look
// for.
func TestCheckMeetsALock(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("CREATE TABLE part () INHERITS (ir_module_module)")
	w := h.watch()
	tx := writes(t, h.connect(), "LOCK TABLE part IN ACCESS EXCLUSIVE MODE")
	require.Equal(t, driver.Upgrade{Active: true, Description: "a process keeps ir_module_module from being read"}, w.check())
	require.NoError(t, tx.Rollback(t.Context()))
	require.False(t, w.check().Active)
}

// Whatever a session reads again and again of tables that an upgrade may lock is told to have met the
// lock, gate or not, and what the session knew of the database holds: the examination before a snapshot,
// the snapshot, the channels.
func TestLooksMeetALock(t *testing.T) {
	for table, look := range map[string]func(context.Context, driver.Session) error{
		"ir_module_module": func(ctx context.Context, s driver.Session) error {
			_, err := s.Fingerprint(ctx)
			return err
		},
		"ir_config_parameter": func(ctx context.Context, s driver.Session) error {
			_, err := s.Fingerprint(ctx)
			return err
		},
		"ir_cron": func(ctx context.Context, s driver.Session) error {
			_, err := s.Fingerprint(ctx)
			return err
		},
		"queue_job": func(ctx context.Context, s driver.Session) error {
			return s.Snapshot(ctx, func(driver.Row) {})
		},
		"queue_job (read)": func(ctx context.Context, s driver.Session) error {
			_, err := s.Read(ctx, []string{"a"})
			return err
		},
		"queue_job (inspected)": func(ctx context.Context, s driver.Session) error {
			_, err := s.Inspect(ctx, []string{"a"})
			return err
		},
		"queue_job (rescued)": func(ctx context.Context, s driver.Session) error {
			_, err := s.Rescue(ctx, []driver.Liveness{{Row: driver.Row{RawState: "started"}}})
			return err
		},
		"queue_job_channel": func(ctx context.Context, s driver.Session) error {
			_, err := s.(driver.ChannelReader).Channels(ctx)
			return err
		},
	} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, odoostub.QueueJobLock)
			h.exec(`CREATE TABLE ir_cron (id int, active bool);
				CREATE TABLE ir_model_data (module varchar, model varchar, res_id int);
				DROP TABLE IF EXISTS queue_job_channel;
				CREATE TABLE queue_job_channel (complete_name varchar, capacity int, sequential bool, throttle int, paused bool,
					capacity_default int, sequential_default bool)`)
			h.Insert(drivertest.Job{UUID: "a", State: "pending"})
			s := h.session()
			require.NoError(t, s.Listen(h.deadline()))
			name, _, _ := strings.Cut(table, " ")
			tx := writes(t, h.connect(), "LOCK TABLE "+name+" IN ACCESS EXCLUSIVE MODE")
			require.ErrorIs(t, look(h.deadline(), s), driver.ErrUpgrading)
			require.NoError(t, tx.Rollback(t.Context()))
			require.NoError(t, look(h.deadline(), s))
			require.NoError(t, s.Probe(h.deadline()))
			tasks, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
			require.NoError(t, err)
			require.Len(t, tasks, 1)
		})
	}
}

// An examination that was cut short changes nothing of what the session knows: that the add-on is being
// upgraded is not forgotten by the next probe.
func TestExaminationMeetsALockHalfWay(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	require.NoError(t, s.Listen(h.deadline()))
	h.exec("UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'queue_job'")
	tx := writes(t, h.connect(), "LOCK TABLE ir_config_parameter IN ACCESS EXCLUSIVE MODE")
	_, err := s.Fingerprint(h.deadline())
	require.ErrorIs(t, err, driver.ErrUpgrading)
	require.NoError(t, tx.Rollback(t.Context()))
	require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrChanged)
}
