//go:build fault

package fault

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// failedRows is how many failed jobs a database holds that nobody cleans up.
const failedRows = 1_000_000

// dataFaults happen to what is in the databases, and to the databases.
var dataFaults = []fault{
	{
		name: "100,000 notifications in each database", bound: 20 * time.Second, alone: true,
		strike: flood,
	},
	{
		name: "100,000 notifications of living jobs", bound: 30 * time.Second, alone: true,
		prepare: func(tb *testBed) { insertJobs(tb, "failed", 100_000) },
		strike: func(tb *testBed) {
			const update = "UPDATE queue_job SET priority = 11 WHERE state = 'failed' AND name = 'bulk' AND id % $1 = $2"
			for i, n := 0, notifyingCommits(tb); i < n; i++ {
				tb.exec(tb.Databases()[0], update, n, i)
			}
		},
	},
	{
		name: "1,000,000 failed jobs, sessions terminated", bound: 60 * time.Second, alone: true,
		prepare: func(tb *testBed) { insertJobs(tb, "failed", failedRows) },
		strike: func(tb *testBed) {
			require.NotZero(tb, tb.terminate(tb.nodes[0], "true"))
			tb.over()
		},
	},
	{
		name: "transaction holds locks on pending jobs for 6 s", bound: 20 * time.Second, strike: lockRows,
	},
	{
		name: "add-on upgraded in one transaction of 8 s", bound: 30 * time.Second,
		strike: func(tb *testBed) {
			commit := tb.hold(tb.Databases()[0], dropped+recreated)
			tb.wait(8 * time.Second)
			commit()
		},
	},
	{
		name: "add-on upgraded in steps of 5 s", bound: 40 * time.Second,
		strike: func(tb *testBed) {
			db := tb.Databases()[0]
			tb.exec(db, dropped)
			tb.wait(5 * time.Second)
			tb.exec(db, recreated)
		},
	},
	{
		name: "database dropped and created again under load", bound: 30 * time.Second, strike: dropAndCreate,
	},
	{
		name: "database duplicated under load", bound: 40 * time.Second, strike: duplicate,
	},
	{
		name: "database renamed under load", bound: 40 * time.Second, strike: rename,
	},
	{
		name: "database restored from a dump under load", bound: 60 * time.Second, strike: restore,
	},
	{
		name: "database's clock 1 h ahead", bound: 40 * time.Second, clock: true, strike: func(tb *testBed) { stepClock(tb, "+3600") },
	},
	{
		name: "database's clock 1 h behind", bound: 40 * time.Second, clock: true, strike: func(tb *testBed) { stepClock(tb, "-3600") },
	},
}

// What an upgrade of the add-on does that recreates a column and the trigger.
const (
	dropped = `UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'queue_job';
		DROP TRIGGER queue_job_notify ON queue_job;
		ALTER TABLE queue_job DROP COLUMN priority, DROP COLUMN exc_name, DROP COLUMN exc_info;`
	recreated = `ALTER TABLE queue_job ADD COLUMN exc_name varchar, ADD COLUMN priority integer, ADD COLUMN exc_info text;
		UPDATE queue_job SET priority = 10;
		CREATE TRIGGER queue_job_notify AFTER INSERT OR UPDATE OR DELETE ON queue_job
			FOR EACH ROW EXECUTE PROCEDURE queue_job_notify();
		UPDATE ir_module_module SET state = 'installed' WHERE name = 'queue_job';`
)

// insertJobs puts many jobs into the first database that nobody will run.
func insertJobs(tb *testBed, state string, n int) {
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	err := pgx.BeginFunc(ctx, tb.Pool(tb.Databases()[0]), func(tx pgx.Tx) error {
		for _, sql := range []string{
			"ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify",
			`INSERT INTO queue_job (uuid, name, state, channel, priority, date_created, retry, max_retries)
				SELECT md5(random()::text || g)::uuid, 'bulk', '` + state + `', 'root', 10, now() AT TIME ZONE 'UTC', 0, 5
				FROM generate_series(1, ` + strconv.Itoa(n) + `) AS g`,
			"ALTER TABLE queue_job ENABLE TRIGGER queue_job_notify",
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(tb, err)
	tb.exec(tb.Databases()[0], "ANALYZE queue_job")
}

// flood sends notifications of jobs that do not exist.
func flood(tb *testBed) {
	for _, db := range tb.Databases() {
		notify(tb, db, 100_000)
	}
}

// notify sends notifications of jobs that do not exist to the sessions of one database.
func notify(tb *testBed, db string, n int) {
	commits := notifyingCommits(tb)
	for range commits {
		tb.exec(db, "SELECT count(pg_notify('queue_job', md5(random()::text)::uuid::text)) FROM generate_series(1, $1)", n/commits)
	}
}

// notifyingCommits is how many transactions share very many notifications: one. Before PostgreSQL 13
// each is compared with all before it in its transaction, and 100,000 would take half a minute.
func notifyingCommits(tb *testBed) int {
	version, err := strconv.Atoi(tb.ask("SELECT current_setting('server_version_num')"))
	require.NoError(tb, err)
	if version < 13_00_00 {
		return 20
	}
	return 1
}

// lockRows holds locks on jobs that are due meanwhile. The others go on.
func lockRows(tb *testBed) {
	db := tb.Databases()[0]
	due := make([]odoostub.JobSpec, 20)
	for i := range due {
		due[i] = odoostub.JobSpec{ETA: time.Now().Add(2 * time.Second), Channel: new("root.mail")}
	}
	require.True(tb, tb.load.enqueue(db, due...))
	commit := tb.hold(db, "SELECT FROM queue_job WHERE state = 'pending' AND eta IS NOT NULL FOR UPDATE")
	before, err := tb.count(db, "SELECT count(*) FROM queue_job WHERE state = 'done'")
	require.NoError(tb, err)
	tb.wait(6 * time.Second)
	after, err := tb.count(db, "SELECT count(*) FROM queue_job WHERE state = 'done'")
	require.NoError(tb, err)
	require.Greater(tb, after, before+60, "other jobs of the database are run")
	commit()
}

// change runs a statement for which nobody may be connected to a database. The
// runner leaves by itself; Odoo has to be told, again if the runner's last
// requests have made it come back.
func (tb *testBed) change(db, sql string) {
	tb.Helper()
	tb.until(sql, func() bool {
		for _, s := range tb.Odoo {
			s.Forget(db)
		}
		err := tb.Postgres.Exec(tb.Context(), "postgres", sql)
		if err != nil {
			require.ErrorContains(tb, err, "being accessed by other users")
		}
		return err == nil
	})
}

// dropAndCreate drops a database with its jobs, as a user does by Odoo's
// database manager, and makes a new one of the same name.
func dropAndCreate(tb *testBed) {
	db := tb.Databases()[0]
	tb.load.stopOne(db)
	tb.Leave(db)
	tb.load.forget(db)
	tb.change(db, "DROP DATABASE "+db)
	tb.createDatabase(db)
	tb.over()
	tb.load.startOne(db)
}

// duplicate copies a database. Its jobs that run at that moment run in the copy
// too, as far as their rows say.
func duplicate(tb *testBed) {
	db := tb.Databases()[0]
	copied := tb.ID + "_copy"
	tb.load.stopOne(db)
	tb.Leave(db)
	tb.change(db, "CREATE DATABASE "+copied+" TEMPLATE "+db)
	tb.adopt(copied)
	tb.adopt(db)
	tb.load.adopt(copied, openJobs(tb, copied))
	tb.over()
	tb.load.startOne(db)
	tb.load.startOne(copied)
}

// openJobs are the jobs of a database that are still to be done.
func openJobs(tb *testBed, db string) (uuids []string) {
	for uuid, state := range tb.jobStates(db) {
		if state != "done" && state != "failed" {
			uuids = append(uuids, uuid)
		}
	}
	return uuids
}

func rename(tb *testBed) {
	db := tb.Databases()[0]
	renamed := tb.ID + "_renamed"
	tb.load.stopOne(db)
	tb.Leave(db)
	tb.change(db, "ALTER DATABASE "+db+" RENAME TO "+renamed)
	tb.load.rename(db, renamed)
	tb.adopt(renamed)
	tb.over()
	tb.load.startOne(renamed)
}

// restore makes a database out of a dump of one that is at work.
func restore(tb *testBed) {
	db := tb.Databases()[0]
	restored := tb.ID + "_restored"
	dump := filepath.Join(tb.TempDir(), "dump")
	run := func(program string, args ...string) {
		tb.Helper()
		out, err := exec.CommandContext(tb.Context(), clientProgram(tb, program), args...).CombinedOutput()
		require.NoError(tb, err, string(out))
	}
	run("pg_dump", "--format=custom", "--file="+dump, "--dbname="+tb.Postgres.DSN(db))
	require.NoError(tb, tb.Postgres.CreateDatabase(tb.Context(), restored, ""))
	run("pg_restore", "--dbname="+tb.Postgres.DSN(restored), dump)
	tb.adopt(restored)
	tb.load.adopt(restored, openJobs(tb, restored))
	tb.over()
	tb.load.startOne(restored)
}

// clientProgram finds a client of PostgreSQL beside the server, or on the machine: the binaries that
// are downloaded have none. pg_dump refuses a server that is newer than itself, so for that the fault
// cannot be tried, and fails.
func clientProgram(tb *testBed, name string) string {
	tb.Helper()
	beside := filepath.Join(strings.TrimSpace(tb.ask("SELECT setting FROM pg_config() WHERE name = 'BINDIR'")), name)
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	path, err := exec.LookPath(name)
	require.NoError(tb, err)
	return path
}

// stepClock moves the clock of the database server, for as long as the fault
// lasts. The runner's own clock cannot be moved, for Go does not read it through
// the C library.
func stepClock(tb *testBed, offset string) {
	clock := func() int {
		seconds, err := strconv.Atoi(tb.ask("SELECT round(extract(epoch FROM clock_timestamp()))::int8::text"))
		require.NoError(tb, err)
		return seconds - int(time.Now().Unix())
	}
	require.NoError(tb, os.WriteFile(tb.clock, []byte(offset+"\n"), 0o644))
	expected, err := strconv.Atoi(offset)
	require.NoError(tb, err)
	tb.until("the server's clock has been moved", func() bool { return max(clock()-expected, expected-clock()) < 5 })
	tb.wait(12 * time.Second)
}
