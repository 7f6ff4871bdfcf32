package odoo_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// The tables of scheduled actions, as far as they matter: since 11.0, and before.
const (
	cronsWithActions = `CREATE TABLE ir_act_server (id serial PRIMARY KEY, code text);
		CREATE TABLE ir_cron (id serial PRIMARY KEY, active boolean, ir_actions_server_id int)`
	cronsWithMethods = `CREATE TABLE ir_cron (id serial PRIMARY KEY, active boolean, model varchar, function varchar, args text)`
)

func (h *harness) examine() driver.Examination {
	h.t.Helper()
	x, err := odoo.New(odoo.Options{}).Examine(h.deadline(), h.Postgres(), h.db)
	require.NoError(h.t, err)
	return x
}

// Scheduled actions are read as each series keeps them, if they are active.
func TestCollectors(t *testing.T) {
	h := newHarness(t, odoostub.QueueJob12)
	require.Empty(t, h.examine().StartedLimits, "without the tables")
	h.exec(cronsWithActions)
	h.exec(`INSERT INTO ir_act_server (code) VALUES ('model.requeue_stuck_jobs(5, 60)'), ('model.autovacuum()'), (NULL)`)
	h.exec("INSERT INTO ir_cron (active, ir_actions_server_id) SELECT false, id FROM ir_act_server")
	require.Empty(t, h.examine().StartedLimits, "not active")
	h.exec("UPDATE ir_cron SET active = true")
	require.Equal(t, []driver.StartedLimit{{After: time.Hour}}, h.examine().StartedLimits)

	h = newHarness(t, odoostub.QueueJob10)
	h.exec(cronsWithMethods)
	h.exec(`INSERT INTO ir_cron (active, model, function, args) VALUES (true, 'queue.job', 'requeue_stuck_jobs', '(5, 60)'),
		(true, 'queue.job', 'requeue_stuck_jobs', '()'), (true, 'queue.job', 'requeue_stuck_jobs', NULL),
		(false, 'queue.job', 'requeue_stuck_jobs', '(5, 1)'), (true, 'queue.job', 'autovacuum', '(5, 1)'), (true, 'sale', 'requeue_stuck_jobs', '(5, 1)')`)
	require.Equal(t, []driver.StartedLimit{{After: time.Hour}}, h.examine().StartedLimits)
}

// The code of a scheduled action is that of the database's users, and the tables may be anything.
func TestHostileCollectors(t *testing.T) {
	long := "model.requeue_stuck_jobs(5, 1) "
	for name, c := range map[string]struct {
		sql  string
		want int
	}{
		"long code": {cronsWithActions + `; INSERT INTO ir_act_server (code) VALUES ('` + long + `' || repeat('x', 100000));
			INSERT INTO ir_cron (active, ir_actions_server_id) VALUES (true, 1)`, 0},
		"long arguments": {cronsWithMethods + `; INSERT INTO ir_cron (active, model, function, args)
			VALUES (true, 'queue.job', 'requeue_stuck_jobs', '(5, 1)' || repeat(' ', 100000))`, 0},
		"many": {cronsWithActions + `; INSERT INTO ir_act_server (code) VALUES ('` + long + `');
			INSERT INTO ir_cron (active, ir_actions_server_id) SELECT true, 1 FROM generate_series(1, 1000)`, 10},
		"other types":   {`CREATE TABLE ir_act_server (id varchar, code int); CREATE TABLE ir_cron (id int, active varchar, ir_actions_server_id int)`, 0},
		"other columns": {`CREATE TABLE ir_cron (id int, active boolean)`, 0},
		"a view": {cronsWithActions + `; ALTER TABLE ir_act_server RENAME TO actions;
			INSERT INTO actions (code) VALUES ('` + long + `'); INSERT INTO ir_cron (active, ir_actions_server_id) VALUES (true, 1);
			CREATE VIEW ir_act_server AS SELECT * FROM actions`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJob12)
			h.exec(c.sql)
			require.Len(t, h.examine().StartedLimits, c.want)
		})
	}
}

// Since when modules are marked is told as far as their rows tell when they were written.
func TestExaminedUpgrade(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	require.Equal(t, driver.Upgrade{}, h.examine().Upgrade)
	h.Mark("web", "base")
	x := h.examine()
	require.Contains(t, x.Upgrade.Description, "modules are marked: base (to upgrade), web (to upgrade)")
	require.Zero(t, x.Marked)
	h.exec(`ALTER TABLE ir_module_module ADD COLUMN write_date timestamp;
		UPDATE ir_module_module SET write_date = '2026-11-01 10:00:00';
		UPDATE ir_module_module SET write_date = '2026-11-02 10:00:00' WHERE name = 'web';
		UPDATE ir_module_module SET write_date = '2026-11-03 10:00:00' WHERE name = 'base'`)
	require.Equal(t, time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC), h.examine().Marked, "of those that are marked")
	h.exec("UPDATE ir_module_module SET write_date = '-infinity'")
	require.Zero(t, h.examine().Marked)
	h.exec("ALTER TABLE ir_module_module ALTER write_date TYPE varchar")
	require.Zero(t, h.examine().Marked)
}
