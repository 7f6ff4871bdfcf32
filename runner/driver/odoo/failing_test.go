package odoo_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// questions are what a session can be asked for once it has a fingerprint, by name.
func (h *harness) questions(s driver.Session) map[string]func() error {
	h.t.Helper()
	ctx := h.deadline()
	task := driver.Task{Key: channels.Key{DB: h.db, UUID: "started"}, Enqueued: 1}
	dead := []driver.Liveness{{Expired: true, Row: driver.Row{Job: channels.Job{Key: task.Key}, RawState: "started", Enqueued: 1}}}
	q, stopper, releaser := s.(driver.Quarantiner), s.(driver.Stopper), s.(driver.Releaser)
	return map[string]func() error{
		"lock":           func() error { _, err := s.Lock(ctx); return err },
		"listen":         func() error { return s.Listen(ctx) },
		"running":        func() error { _, err := s.Running(ctx); return err },
		"snapshot":       func() error { return s.Snapshot(ctx, func(driver.Row) {}) },
		"read":           func() error { _, err := s.Read(ctx, []string{"started"}); return err },
		"claim":          func() error { _, _, err := s.Claim(ctx, []string{"started"}, []string{"started"}); return err },
		"claim vacant":   func() error { _, _, err := s.(driver.VacantClaimer).ClaimVacant(ctx, "started"); return err },
		"unclaim":        func() error { _, err := s.Unclaim(ctx, []driver.Task{task}); return err },
		"fail unclaimed": func() error { _, err := q.FailUnclaimed(ctx, []driver.Task{task}, []string{"x"}); return err },
		"inspect":        func() error { _, err := s.Inspect(ctx, []string{"started"}); return err },
		"rescue":         func() error { _, err := s.Rescue(ctx, dead); return err },
		"fail dead":      func() error { _, err := q.FailDead(ctx, dead, []string{"x"}); return err },
		"fail stopped":   func() error { _, err := stopper.FailStopped(ctx, dead, []string{"x"}); return err },
		"stop":           func() error { _, err := stopper.Stop(ctx, []driver.Task{task, task}, false); return err },
		"account":        func() error { _, err := stopper.Account(ctx, []driver.Cause{{Attempt: task, Text: "x"}}); return err },
		"dependents":     func() error { _, err := releaser.Dependents(ctx, []string{"started"}); return err },
		"waiting":        func() error { _, err := releaser.Dependents(ctx, nil); return err },
		"release":        func() error { _, err := releaser.Release(ctx, []int64{1}, 0, nil); return err },
		"count":          func() error { _, err := s.(driver.Counter).Count(ctx); return err },
		"channels":       func() error { _, err := s.(driver.ChannelReader).Channels(ctx); return err },
		"sleep":          func() error { _, err := s.(driver.Sleeper).Sleep(ctx, time.Minute, nil); return err },
		"upgrading":      func() error { _, err := s.(driver.Upgrader).Upgrading(ctx, driver.Upgrade{}); return err },
	}
}

// A session that has not found the application yet, or finds none any more, answers nothing; its probe is
// about the connection.
func TestNothingWithoutAFingerprint(t *testing.T) {
	h := newHarness(t, odoostub.Channels)
	h.jobs()
	s := h.open(h.Postgres())
	refused := func() {
		t.Helper()
		for name, ask := range h.questions(s) {
			require.ErrorContains(t, ask(), "no fingerprint", name)
		}
		require.NoError(t, s.Probe(h.deadline()))
	}
	refused()
	_, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	for name, ask := range h.questions(s) {
		require.NoError(t, ask(), name)
	}
	require.NoError(t, s.Probe(h.deadline()))
	h.exec("UPDATE ir_module_module SET state = 'uninstalled'")
	require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrChanged)
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.Equal(t, driver.Undetected, fp.Health)
	refused()
}

// failing returns a configuration for connections of which a statement can be made to fail.
func (h *harness) failing() (*pgx.ConnConfig, *pgtest.Failing) {
	h.t.Helper()
	failing, cfg := &pgtest.Failing{}, h.Postgres()
	cfg.Tracer = failing
	return cfg, failing
}

// No statement that fails is taken for an answer, whatever the session is asked for.
func TestStatementsThatFail(t *testing.T) {
	h := newHarness(t, odoostub.Channels)
	h.jobs()
	h.functions()
	cfg, failing := h.failing()
	s := h.open(cfg)
	failing.Each(t, "fingerprint", func() error { _, err := s.Fingerprint(h.deadline()); return err })
	for name, ask := range h.questions(s) {
		failing.Each(t, name, ask)
	}
	failing.Each(t, "unsettled", func() error { _, _, err := s.(driver.Settler).Unsettled(h.deadline()); return err })
	failing.Each(t, "probe", func() error { return s.Probe(h.deadline()) })
	require.NoError(t, s.Probe(h.deadline()), "the session goes on")
}

// The same in the series that have two locks, and whose trigger the runner creates.
func TestStatementsThatFailInOldSeries(t *testing.T) {
	h := newHarness(t, odoostub.Connector8)
	cfg, failing := h.failing()
	for n := 1; ; n++ { // a transaction that does not begin ends the connection
		require.NoError(t, odoostub.DropTrigger(h.deadline(), h.admin))
		s := h.open(cfg)
		_, err := s.Fingerprint(h.deadline())
		require.NoError(t, err)
		failing.Nth(n)
		if err = s.Listen(h.deadline()); !failing.Failed() {
			require.NoError(t, err)
			require.Greater(t, n, 5)
			failing.Nth(0)
			break
		}
		require.ErrorIs(t, err, context.Canceled, "statement %d", n)
	}
	s := h.open(cfg)
	failing.Each(t, "fingerprint", func() error { _, err := s.Fingerprint(h.deadline()); return err })
	failing.Each(t, "lock", func() error { _, err := s.Lock(h.deadline()); return err })
	failing.Each(t, "probe", func() error { return s.Probe(h.deadline()) })
}

// Nor is one while a connection is made, nor one of an examination.
func TestStatementsThatFailAtTheBeginning(t *testing.T) {
	for _, gen := range []odoostub.Generation{odoostub.QueueJobLock, odoostub.Connector8} {
		h := newHarness(t, gen)
		h.Mark("base")
		cfg, failing := h.failing()
		d := odoo.New(odoo.Options{})
		failing.Each(t, "session", func() error {
			s, err := d.OpenSession(h.deadline(), cfg, h.db)
			if err != nil {
				return err
			}
			return s.Close(h.deadline())
		})
		failing.Each(t, "operations", func() error {
			o, err := d.OpenOperations(h.deadline(), cfg, h.db)
			if err != nil {
				return err
			}
			return o.Close(h.deadline())
		})
		failing.Each(t, "examination", func() error {
			_, err := d.Examine(h.deadline(), cfg, h.db)
			return err
		})
	}
}

// What operators ask for fails as a whole: a change of jobs has then changed none.
func TestOperationsThatFail(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.jobs()
	h.depend("waiting", "done")
	h.exec(`CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
		CREATE TRIGGER others BEFORE UPDATE ON queue_job FOR EACH ROW EXECUTE PROCEDURE see()`)
	cfg, failing := h.failing()
	open := func() driver.Operations {
		o, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), cfg, h.db)
		require.NoError(t, err)
		return o
	}
	o := open()
	defer func() { require.NoError(t, o.Close(context.Background())) }()
	failing.Each(t, "list", func() error { _, err := o.List(h.deadline(), driver.Filter{}, 0, 10); return err })
	for _, f := range []driver.Filter{{UUIDs: []string{"waiting"}}, {Channel: "root.a"}} {
		failing.Each(t, "list some", func() error { _, err := o.List(h.deadline(), f, 0, 10); return err })
	}
	failing.Each(t, "record", func() error { _, err := o.Record(h.deadline(), "waiting", true); return err })

	states := func() (all string) {
		require.NoError(t, h.admin.QueryRow(h.deadline(), "SELECT string_agg(uuid || ' ' || state, ', ' ORDER BY uuid) FROM queue_job").Scan(&all))
		return all
	}
	for _, a := range []driver.Action{driver.Postpone, driver.Requeue, driver.SetDone, driver.Cancel} {
		h.exec("DELETE FROM queue_job")
		h.jobs()
		h.depend("waiting", "second")
		change := driver.Change{Action: a, Until: time.Now(), By: "an operator"}
		before := states()
		for n := 1; ; n++ { // a transaction that does not begin ends the connection
			o := open()
			failing.Nth(n)
			_, err := o.Change(h.deadline(), change, driver.Filter{}, 0, 10, false)
			failed := failing.Failed()
			failing.Nth(0)
			require.NoError(t, o.Close(h.deadline()))
			if !failed {
				require.NoError(t, err)
				require.Greater(t, n, 3)
				break
			}
			require.ErrorIs(t, err, context.Canceled, "%s, statement %d", a, n)
			require.Equal(t, before, states())
		}
		require.Equal(t, a == driver.Postpone, before == states())
	}
}
