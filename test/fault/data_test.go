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
		prepare: func(p *plant) { insertJobs(p, "failed", 100_000) },
		strike: func(p *plant) {
			p.exec(p.databases()[0], "UPDATE queue_job SET priority = 11 WHERE state = 'failed' AND name = 'bulk'")
		},
	},
	{
		name: "1,000,000 failed jobs, sessions terminated", bound: 60 * time.Second, alone: true,
		prepare: func(p *plant) { insertJobs(p, "failed", failedRows) },
		strike: func(p *plant) {
			require.NotZero(p, p.terminate(p.nodes[0], "true"))
			p.over()
		},
	},
	{
		name: "transaction holds locks on pending jobs for 6 s", bound: 20 * time.Second, strike: lockRows,
	},
	{
		name: "add-on upgraded in one transaction of 8 s", bound: 30 * time.Second,
		strike: func(p *plant) {
			commit := p.hold(p.databases()[0], dropped+recreated)
			p.wait(8 * time.Second)
			commit()
		},
	},
	{
		name: "add-on upgraded in steps of 5 s", bound: 40 * time.Second,
		strike: func(p *plant) {
			db := p.databases()[0]
			p.exec(db, dropped)
			p.wait(5 * time.Second)
			p.exec(db, recreated)
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
		name: "database's clock 1 h ahead", bound: 40 * time.Second, clock: true, strike: func(p *plant) { stepClock(p, "+3600") },
	},
	{
		name: "database's clock 1 h behind", bound: 40 * time.Second, clock: true, strike: func(p *plant) { stepClock(p, "-3600") },
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
			FOR EACH ROW EXECUTE FUNCTION queue_job_notify();
		UPDATE ir_module_module SET state = 'installed' WHERE name = 'queue_job';`
)

// insertJobs puts many jobs into the first database that nobody will run.
func insertJobs(p *plant, state string, n int) {
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	err := pgx.BeginFunc(ctx, p.pool(p.databases()[0]), func(tx pgx.Tx) error {
		for _, sql := range []string{
			"ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify",
			`INSERT INTO queue_job (uuid, name, state, channel, priority, date_created, retry, max_retries)
				SELECT gen_random_uuid(), 'bulk', '` + state + `', 'root', 10, now() AT TIME ZONE 'UTC', 0, 5
				FROM generate_series(1, ` + strconv.Itoa(n) + `)`,
			"ALTER TABLE queue_job ENABLE TRIGGER queue_job_notify",
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(p, err)
	p.exec(p.databases()[0], "ANALYZE queue_job")
}

// flood sends notifications of jobs that do not exist.
func flood(p *plant) {
	for _, db := range p.databases() {
		p.exec(db, "SELECT count(pg_notify('queue_job', gen_random_uuid()::text)) FROM generate_series(1, 100000)")
	}
}

// lockRows holds locks on jobs that are due meanwhile. The others go on.
func lockRows(p *plant) {
	db := p.databases()[0]
	due := make([]odoostub.JobSpec, 20)
	for i := range due {
		due[i] = odoostub.JobSpec{ETA: time.Now().Add(2 * time.Second), Channel: new("root.mail")}
	}
	require.True(p, p.load.enqueue(db, due...))
	commit := p.hold(db, "SELECT FROM queue_job WHERE state = 'pending' AND eta IS NOT NULL FOR UPDATE")
	before, err := p.count(db, "SELECT count(*) FROM queue_job WHERE state = 'done'")
	require.NoError(p, err)
	p.wait(6 * time.Second)
	after, err := p.count(db, "SELECT count(*) FROM queue_job WHERE state = 'done'")
	require.NoError(p, err)
	require.Greater(p, after, before+60, "other jobs of the database are run")
	commit()
}

// change runs a statement for which nobody may be connected to a database. The
// runner leaves by itself; Odoo has to be told, again if the runner's last
// requests have made it come back.
func (p *plant) change(db, sql string) {
	p.Helper()
	p.until(sql, func() bool {
		for _, s := range p.odoo {
			s.Forget(db)
		}
		err := p.pg.Exec(p.Context(), "postgres", sql)
		if err != nil {
			require.ErrorContains(p, err, "being accessed by other users")
		}
		return err == nil
	})
}

// dropAndCreate drops a database with its jobs, as a user does by Odoo's
// database manager, and makes a new one of the same name.
func dropAndCreate(p *plant) {
	db := p.databases()[0]
	p.load.stopOne(db)
	p.leaveDatabase(db)
	p.load.forget(db)
	p.change(db, "DROP DATABASE "+db)
	p.createDatabase(db)
	p.over()
	p.load.startOne(db)
}

// duplicate copies a database. Its jobs that run at that moment run in the copy
// too, as far as their rows say.
func duplicate(p *plant) {
	db := p.databases()[0]
	copied := p.id + "_copy"
	p.load.stopOne(db)
	p.leaveDatabase(db)
	p.change(db, "CREATE DATABASE "+copied+" TEMPLATE "+db)
	p.Cleanup(func() { require.NoError(p, p.pg.DropDatabase(context.Background(), copied)) })
	p.adoptDatabase(copied)
	p.adoptDatabase(db)
	p.load.adopt(copied, openJobs(p, copied))
	p.over()
	p.load.startOne(db)
	p.load.startOne(copied)
}

// openJobs are the jobs of a database that are still to be done.
func openJobs(p *plant, db string) (uuids []string) {
	for uuid, state := range p.jobStates(db) {
		if state != "done" && state != "failed" {
			uuids = append(uuids, uuid)
		}
	}
	return uuids
}

func rename(p *plant) {
	db := p.databases()[0]
	renamed := p.id + "_renamed"
	p.load.stopOne(db)
	p.leaveDatabase(db)
	p.change(db, "ALTER DATABASE "+db+" RENAME TO "+renamed)
	p.Cleanup(func() { require.NoError(p, p.pg.DropDatabase(context.Background(), renamed)) })
	p.load.rename(db, renamed)
	p.adoptDatabase(renamed)
	p.over()
	p.load.startOne(renamed)
}

// restore makes a database out of a dump of one that is at work.
func restore(p *plant) {
	db := p.databases()[0]
	restored := p.id + "_restored"
	bin := strings.TrimSpace(p.ask("SELECT setting FROM pg_config() WHERE name = 'BINDIR'"))
	dump := filepath.Join(p.TempDir(), "dump")
	run := func(program string, args ...string) {
		p.Helper()
		out, err := exec.CommandContext(p.Context(), filepath.Join(bin, program), args...).CombinedOutput()
		require.NoError(p, err, string(out))
	}
	run("pg_dump", "--format=custom", "--file="+dump, "--dbname="+p.pg.DSN(db))
	require.NoError(p, p.pg.CreateDatabase(p.Context(), restored, ""))
	p.Cleanup(func() { require.NoError(p, p.pg.DropDatabase(context.Background(), restored)) })
	run("pg_restore", "--dbname="+p.pg.DSN(restored), dump)
	p.adoptDatabase(restored)
	p.load.adopt(restored, openJobs(p, restored))
	p.over()
	p.load.startOne(restored)
}

// stepClock moves the clock of the database server, for as long as the fault
// lasts. The runner's own clock cannot be moved, for Go does not read it through
// the C library.
func stepClock(p *plant, offset string) {
	clock := func() int {
		seconds, err := strconv.Atoi(p.ask("SELECT round(extract(epoch FROM clock_timestamp()))::int8::text"))
		require.NoError(p, err)
		return seconds - int(time.Now().Unix())
	}
	require.NoError(p, os.WriteFile(p.clock, []byte(offset+"\n"), 0o644))
	expected, err := strconv.Atoi(offset)
	require.NoError(p, err)
	p.until("the server's clock has been moved", func() bool { return max(clock()-expected, expected-clock()) < 5 })
	p.wait(12 * time.Second)
}
