package odoo_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/hostile"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// owner makes a role without rights the owner of Odoo's tables, and returns what connects as it.
func (h *harness) owner() *pgx.ConnConfig {
	h.t.Helper()
	role := "owner_" + h.db
	h.exec("CREATE ROLE " + role + " LOGIN")
	h.t.Cleanup(func() {
		require.NoError(h.t, h.pg.Exec(context.Background(), h.db, "DROP OWNED BY "+role+" CASCADE"))
		require.NoError(h.t, h.pg.Exec(context.Background(), h.db, "DROP ROLE "+role))
	})
	h.exec("GRANT CREATE ON SCHEMA public TO " + role)
	h.exec(`DO $$ DECLARE t record; BEGIN
		FOR t IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
			EXECUTE 'ALTER TABLE ' || t.name || ' OWNER TO ` + role + `';
		END LOOP; END $$`)
	cfg := h.Postgres()
	cfg.User = role
	return cfg
}

// shadow puts code of others before everything of PostgreSQL, in a schema that the database's path
// names and in public. From now on the harness cannot do much.
func (h *harness) shadow() {
	h.t.Helper()
	for _, schema := range []string{"evil", "public"} {
		_, err := hostile.Shadow(h.deadline(), h.admin, schema)
		require.NoError(h.t, err)
	}
	require.NoError(h.t, hostile.Path(h.deadline(), h.admin, h.db, "evil, public, pg_catalog"))
}

// jobs inserts one job of each kind that a statement may select.
func (h *harness) jobs() {
	h.t.Helper()
	old := time.Now().Add(-time.Hour)
	for uuid, state := range map[string]string{
		"pending": "pending", "second": "pending", "enqueued": "enqueued", "started": "started", "failed": "failed", "done": "done",
		"waiting": "wait_dependencies",
	} {
		h.Insert(drivertest.Job{UUID: uuid, State: state, Created: old, Enqueued: old, MaxRetries: 5, LockRow: h.gen.Locks()})
	}
}

// everything runs each statement that a session and operations have.
func (h *harness) everything(cfg *pgx.ConnConfig) {
	h.t.Helper()
	d := odoo.New(odoo.Options{})
	s := h.open(cfg)
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(h.t, err)
	require.Equal(h.t, driver.Healthy, fp.Health, fp.Description)
	lock, err := s.Lock(h.deadline())
	require.NoError(h.t, err)
	require.True(h.t, lock.Held)
	require.NoError(h.t, s.Listen(h.deadline()))
	n := 0
	require.NoError(h.t, s.Snapshot(h.deadline(), func(driver.Row) { n++ }))
	require.Equal(h.t, 5, n)
	rows, err := s.Read(h.deadline(), []string{"pending", "done", "nothing"})
	require.NoError(h.t, err)
	require.Len(h.t, rows, 2)
	tasks, rows, err := s.Claim(h.deadline(), []string{"pending", "second", "done"}, []string{"failed"})
	require.NoError(h.t, err)
	require.Len(h.t, tasks, 2)
	require.Len(h.t, rows, 1)
	rows, err = s.Unclaim(h.deadline(), tasks[:1])
	require.NoError(h.t, err)
	require.Len(h.t, rows, 1)
	found, err := s.Inspect(h.deadline(), []string{"enqueued", "started"})
	require.NoError(h.t, err)
	require.Len(h.t, found, 2)
	for i := range found {
		found[i].Expired = true
	}
	stopper := s.(driver.Stopper)
	started := driver.Task{Key: found[1].Row.Key, Enqueued: found[1].Row.Enqueued}
	for _, terminate := range []bool{false, true} {
		stopped, err := stopper.Stop(h.deadline(), []driver.Task{started}, terminate)
		require.NoError(h.t, err)
		require.NotEqual(h.t, driver.Signalled, stopped[0].Result)
	}
	failed := driver.Task{Key: channels.Key{DB: h.db, UUID: "failed"}, Enqueued: started.Enqueued}
	rows, err = stopper.Account(h.deadline(), []driver.Cause{{Attempt: failed, Text: "It ran for too long."}})
	require.NoError(h.t, err)
	require.Len(h.t, rows, 1)
	rows, err = s.Rescue(h.deadline(), found)
	require.NoError(h.t, err)
	require.NotEmpty(h.t, rows)
	if reader, ok := s.(driver.ChannelReader); ok {
		_, err := reader.Channels(h.deadline())
		if h.gen != odoostub.Channels {
			require.ErrorIs(h.t, err, driver.ErrChannels)
		} else {
			require.NoError(h.t, err)
		}
	}
	require.NoError(h.t, s.Probe(h.deadline()))
	e, err := d.Examine(h.deadline(), cfg, h.db)
	require.NoError(h.t, err)
	require.Equal(h.t, h.pooled, e.Holder == "", "through a pooler, the lock is held only while something is written")
	h.operations(d, cfg)
}

// operations does what operators can do.
func (h *harness) operations(d *odoo.Driver, cfg *pgx.ConnConfig) {
	h.t.Helper()
	o, err := d.OpenOperations(h.deadline(), cfg, h.db)
	require.NoError(h.t, err)
	defer o.Close(context.Background())
	all := driver.Filter{States: []channels.State{channels.Failed, channels.Pending}, Channel: "root", OlderThan: time.Second}
	_, err = o.List(h.deadline(), all, 0, 10)
	require.NoError(h.t, err)
	for _, f := range []driver.Filter{{UUIDs: []string{"waiting"}}, {Channel: "root.a"}, {Exception: "Error"}} {
		_, err = o.List(h.deadline(), f, 0, 10)
		if h.gen != odoostub.Connector7 || f.Channel == "" { // its first releases have no channels
			require.NoError(h.t, err)
		}
	}
	for _, a := range []driver.Action{driver.Postpone, driver.Requeue, driver.SetDone, driver.Cancel} {
		change := driver.Change{Action: a, Until: time.Now(), By: "an operator"}
		for _, dry := range []bool{true, false} {
			_, err := o.Change(h.deadline(), change, driver.Filter{}, 0, 2, dry)
			if a != driver.Cancel { // not all series have it
				require.NoError(h.t, err)
			}
		}
	}
}

// TestNothingOfOthersIsCalled: no statement calls a function or an operator of the database's
// owner, or of any role that may create one in public.
func TestNothingOfOthersIsCalled(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		for _, pooled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, pooled %t", gen, pooled), func(t *testing.T) {
				h := newHarness(t, gen)
				h.pooled = pooled
				h.jobs()
				cfg := h.owner()
				h.shadow()
				h.everything(cfg)
				calls, err := hostile.Calls(h.deadline(), h.admin, cfg.User)
				require.NoError(t, err)
				require.Empty(t, calls)
			})
		}
	}
}

// TestTriggersOfOthersFindTheirNames: a trigger that names what is in public goes on working, at
// once and at the end of the transaction, while our own statements still call nothing of others.
func TestTriggersOfOthersFindTheirNames(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.jobs()
	h.exec(`CREATE TABLE seen (what text)`)
	h.exec(`CREATE FUNCTION word(state varchar) RETURNS text LANGUAGE sql AS $$ SELECT 'saw ' || state $$;
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO seen SELECT word(NEW.state);
			RETURN NEW;
		END $$;
		CREATE TRIGGER before_hand BEFORE UPDATE ON queue_job FOR EACH ROW EXECUTE PROCEDURE see();
		CREATE CONSTRAINT TRIGGER afterwards AFTER UPDATE ON queue_job DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE PROCEDURE see()`)
	cfg := h.owner()
	h.everything(cfg)
	var n, states int
	require.NoError(t, h.admin.QueryRow(h.deadline(), "SELECT count(*), count(DISTINCT what) FROM seen").Scan(&n, &states))
	require.Positive(t, n)
	require.Zero(t, n%2, "each change is seen twice")
	require.GreaterOrEqual(t, states, 4)

	s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
	require.NoError(t, err)
	defer s.Close(context.Background())
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.Contains(t, fp.Warnings, "queue_job has triggers that are not the add-on's, whose code runs as our role: afterwards, before_hand")
}

// TestPathIsClosedBetweenStatements: where there are triggers of others, a transaction of several
// statements opens the database's path for them each time, and looks its own names up without it.
func TestPathIsClosedBetweenStatements(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.jobs()
	h.exec(`CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
		CREATE TRIGGER nothing BEFORE UPDATE ON queue_job FOR EACH ROW EXECUTE PROCEDURE nothing()`)
	cfg := h.owner()
	h.shadow()
	o, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), cfg, h.db)
	require.NoError(t, err)
	defer o.Close(context.Background())
	done := driver.Change{Action: driver.SetDone, By: "an operator"}
	changed, err := o.Change(h.deadline(), done, driver.Filter{UUIDs: []string{"failed"}}, 0, 2, false)
	require.NoError(t, err)
	require.Equal(t, []string{"failed"}, changed.UUIDs)
	calls, err := hostile.Calls(h.deadline(), h.admin, cfg.User)
	require.NoError(t, err)
	require.NotContains(t, calls, "set_config", "the add-on's own trigger may call others")
}

// TestUntrustedTables: what runs code of its owner when it is read is not read, and rows that a
// policy hides are not missed in silence.
func TestUntrustedTables(t *testing.T) {
	const trap = `CREATE SCHEMA IF NOT EXISTS hostile; CREATE TABLE hostile.calls (name text, who text);
		GRANT USAGE ON SCHEMA hostile TO public; GRANT INSERT ON hostile.calls TO public;
		CREATE FUNCTION trap(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO hostile.calls VALUES ('trap', current_user); RETURN v; END $$;`
	for name, test := range map[string]struct{ sql, words string }{
		"a view": {`ALTER TABLE queue_job RENAME TO jobs; CREATE VIEW queue_job AS SELECT j.*, trap('') AS more FROM jobs j;
			GRANT ALL ON queue_job TO public`, "run code of its owner when it is read: queue_job"},
		"a view of the add-ons": {`ALTER TABLE ir_module_module RENAME TO modules;
			CREATE VIEW ir_module_module AS SELECT name, trap(state) AS state, latest_version FROM modules;
			GRANT ALL ON ir_module_module TO public`, "run code of its owner when it is read: ir_module_module"},
		"a type": {`CREATE TYPE word AS ENUM ('installed', 'uninstalled');
			CREATE FUNCTION trap(w word) RETURNS varchar LANGUAGE sql AS $$ SELECT trap('installed')::varchar $$;
			CREATE CAST (word AS varchar) WITH FUNCTION trap(word) AS IMPLICIT;
			ALTER TABLE ir_module_module ALTER state TYPE word USING state::text::word`, "type is none of PostgreSQL's own"},
		"a type of jobs": {`CREATE DOMAIN word AS varchar CHECK (trap(VALUE) <> ''); ALTER TABLE queue_job ALTER state TYPE word`,
			"columns of queue_job that have no type of PostgreSQL's own may run code of its owner when they are read: state"},
		"a policy": {`ALTER TABLE queue_job ENABLE ROW LEVEL SECURITY; ALTER TABLE queue_job FORCE ROW LEVEL SECURITY;
			CREATE POLICY p ON queue_job USING (trap(state) = 'pending')`, "row-level security hides rows of queue_job from the role"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			cfg := h.owner()
			h.exec(trap)
			h.exec(test.sql)
			h.exec("DELETE FROM hostile.calls")
			s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
			require.NoError(t, err)
			defer s.Close(context.Background())
			fp, err := s.Fingerprint(h.deadline())
			require.NoError(t, err)
			require.Equal(t, driver.Unhealthy, fp.Health)
			require.Contains(t, fp.Description, test.words)
			calls, err := hostile.Calls(h.deadline(), h.admin, cfg.User)
			require.NoError(t, err)
			require.Empty(t, calls)
		})
	}
}

// TestSettingsOfARoleDoNotCount: a role whose encoding is another one reads channel names as they
// are, and a role that wants other transactions claims all the same.
func TestSettingsOfARoleDoNotCount(t *testing.T) {
	for _, pooled := range []bool{false, true} {
		t.Run(fmt.Sprintf("pooled %t", pooled), func(t *testing.T) { testSettingsOfARole(t, pooled) })
	}
}

func testSettingsOfARole(t *testing.T, pooled bool) {
	t.Helper()
	h := newHarness(t, odoostub.QueueJobLock)
	h.pooled = pooled
	cfg := h.owner()
	for _, setting := range []string{"client_encoding = LATIN1", "default_transaction_isolation = 'repeatable read'", "DateStyle = 'SQL, DMY'",
		"default_transaction_read_only = on"} {
		h.exec("ALTER ROLE " + cfg.User + " SET " + setting)
	}
	h.Insert(drivertest.Job{UUID: "a", State: "pending", Channel: "root.café"})
	s := h.open(cfg)
	_, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	rows, err := s.Read(h.deadline(), []string{"a"})
	require.NoError(t, err)
	require.Equal(t, "root.café", rows[0].Channel)

	// Another session changes the row between the claim's beginning and its lock.
	for range 5 {
		h.exec("UPDATE queue_job SET state = 'pending', date_enqueued = NULL, priority = priority + 1")
		tasks, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
	}
}
