//go:build attack

package attack

import (
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/hostile"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// ownerAttacks are those of somebody who owns a database and wants his code to run.
var ownerAttacks = []attack{
	{
		name: "search_path and operators of the owner",
		prepare: func(b *bed) {
			b.evilJobs(20)
			for _, schema := range []string{"evil", "public"} {
				_, err := hostile.Shadow(b.Context(), b.Pool(evilDB), schema)
				require.NoError(b, err)
			}
			require.NoError(b, hostile.Path(b.Context(), b.Pool(evilDB), evilDB, "evil, public, pg_catalog"))
		},
		strike: reconnecting,
		judge: func(b *bed) {
			calls := ask[string](b, evilDB, "SELECT coalesce(string_agg(DISTINCT name, ', '), '') FROM hostile.calls WHERE who OPERATOR(pg_catalog.=) 'jobrunner'::pg_catalog.text")
			if calls != "" {
				b.rows++
				b.note("called: %s", calls)
			}
		},
	},
	{
		name:    "trigger that uses the runner's role",
		prepare: func(b *bed) { b.as("evil", evilDB, robbery()) },
		strike: func(b *bed) {
			b.evilJobs(20)
			b.until("the trigger has run", func() bool { return ask[int](b, evilDB, "SELECT count(*)::int FROM loot") > 0 })
			b.wait(2 * time.Second)
		},
		judge: judgeRobbery,
	},
	{
		name: "trigger that ends the runner's other sessions", unpromised: "the databases of one runner are one trust domain",
		prepare: func(b *bed) {
			b.as("evil", evilDB, trigger(`PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'good' AND usename = 'jobrunner';`))
		},
		strike: func(b *bed) {
			b.evilJobs(1)
			b.wait(5 * time.Second)
		},
	},
	{
		name: "view in place of queue_job", strike: untrusted("run code of its owner when it is read"),
		prepare: func(b *bed) {
			b.as("evil", evilDB, trap+`ALTER TABLE queue_job RENAME TO jobs;
				CREATE VIEW queue_job AS SELECT j.*, trap('') AS more FROM jobs j; GRANT ALL ON queue_job TO public`)
		},
		judge: judgeTrap,
	},
	{
		name: "row-level security on queue_job", strike: untrusted("row-level security hides rows"),
		prepare: func(b *bed) {
			b.as("evil", evilDB, trap+`ALTER TABLE queue_job ENABLE ROW LEVEL SECURITY;
				CREATE POLICY p ON queue_job USING (trap(state) = 'pending')`)
		},
		judge: judgeTrap,
	},
	{
		name: "type of the owner for a column", strike: untrusted("no type of PostgreSQL's own"),
		prepare: func(b *bed) {
			b.as("evil", evilDB, trap+`CREATE DOMAIN word AS varchar CHECK (trap(VALUE) <> ''); ALTER TABLE queue_job ALTER state TYPE word`)
		},
		judge: judgeTrap,
	},
	{
		name: "trigger that traps query_canceled and sleeps",
		prepare: func(b *bed) {
			b.as("evil", evilDB, trigger(`PERFORM pg_advisory_unlock_all();
				LOOP BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN END; END LOOP;`))
		},
		strike: func(b *bed) {
			b.evilJobs(20)
			most := 0
			for range 40 {
				b.wait(time.Second)
				most = max(most, ask[int](b, "postgres", "SELECT count(*)::int FROM pg_stat_activity WHERE usename = 'jobrunner' AND datname = 'evil'"))
			}
			b.note("%d backends of the runner in the database at most", most)
			require.LessOrEqual(b, most, 5, "backends are left behind")
		},
	},
}

// trigger is a trigger on queue_job with a body that runs as the runner.
func trigger(body string) string {
	return `CREATE FUNCTION rob() RETURNS trigger LANGUAGE plpgsql AS $f$ DECLARE s text; BEGIN
			IF current_user = 'jobrunner' THEN ` + body + ` END IF;
			RETURN NEW;
		END $f$;
		CREATE TRIGGER a_rob BEFORE UPDATE ON queue_job FOR EACH ROW EXECUTE PROCEDURE rob();`
}

// forbidden is what a trigger may not be able to do as the runner's role.
var forbidden = []string{
	"ALTER ROLE jobrunner SUPERUSER", "ALTER ROLE jobrunner CREATEROLE", "ALTER ROLE jobrunner CONNECTION LIMIT 0",
	"ALTER ROLE postgres PASSWORD 'x'", "ALTER ROLE good PASSWORD 'x'", "CREATE ROLE stolen LOGIN SUPERUSER", "CREATE ROLE stolen",
	"CREATE DATABASE stolen", "GRANT good TO evil", "GRANT jobrunner TO evil", "SET ROLE good", "SET SESSION AUTHORIZATION postgres",
	"COPY (SELECT 1) TO PROGRAM 'id'", "SELECT pg_read_file('pg_hba.conf')", "SELECT lo_import('/etc/passwd')",
	"CREATE EXTENSION dblink", "CREATE EXTENSION postgres_fdw", "CREATE TABLE public.stolen (a int)", "CREATE SCHEMA stolen",
	"ALTER DATABASE good SET search_path = evil", "ALTER SYSTEM SET work_mem = '1MB'",
}

// allowed is what PostgreSQL allows each role.
var allowed = []string{
	"ALTER ROLE jobrunner PASSWORD 'stolen'", "ALTER ROLE jobrunner SET search_path = evil",
	"ALTER ROLE jobrunner IN DATABASE good SET default_transaction_read_only = on",
	"SELECT set_config('search_path', 'evil', false)", "UNLISTEN *",
}

// robbery is a trigger that tries all of them, and reads what it can of others.
func robbery() string {
	var list []string
	for _, s := range append(append([]string(nil), forbidden...), allowed...) {
		list = append(list, "$s$"+s+"$s$")
	}
	return `CREATE TABLE loot (what text, error text); GRANT ALL ON loot TO public;
		CREATE TABLE seen (what text); GRANT ALL ON seen TO public;` +
		trigger(`INSERT INTO public.seen SELECT query FROM pg_catalog.pg_stat_activity WHERE datname = 'good';
			FOREACH s IN ARRAY ARRAY[`+strings.Join(list, ", ")+`] LOOP
				BEGIN
					EXECUTE s;
					INSERT INTO public.loot VALUES (s, '');
				EXCEPTION WHEN OTHERS THEN INSERT INTO public.loot VALUES (s, SQLERRM);
				END;
			END LOOP;`)
}

// judgeRobbery counts what must not have worked, and says what did.
func judgeRobbery(b *bed) {
	for _, s := range forbidden {
		if n := ask[int](b, evilDB, "SELECT count(*)::int FROM loot WHERE what = $1 AND error = ''", s); n > 0 {
			b.rows++
			b.note("COULD %s", s)
		}
	}
	var could []string
	for _, s := range allowed {
		if n := ask[int](b, evilDB, "SELECT count(*)::int FROM loot WHERE what = $1 AND error = ''", s); n > 0 {
			could = append(could, s)
		}
	}
	b.note("could %s", strings.Join(could, ", "))
	// The texts of statements in the other database contain no job of it.
	b.rows += ask[int](b, evilDB, "SELECT count(*)::int FROM seen WHERE what ~ '[0-9a-f]{8}-[0-9a-f]{4}-'")
	// The password that was set lets nobody in.
	cfg := b.Postgres.ConnConfig(goodDB)
	cfg.Password = "stolen"
	err := b.try("jobrunner", goodDB, "SELECT 1")
	if err == nil {
		b.rows++
		b.note("the runner's role can be used by others")
	}
	require.Error(b, b.try("evil", goodDB, "SELECT 1"), "the good tenant's database is closed to the attacker")
	require.Error(b, b.try("evil", "jobrunner", "SELECT 1"), "so is that of the election")
}

// trap is a function that writes down who called it.
const trap = `CREATE TABLE calls (who text); GRANT INSERT ON calls TO public;
	CREATE FUNCTION trap(v text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.calls VALUES (current_user); RETURN v; END $$;`

func judgeTrap(b *bed) {
	b.rows += ask[int](b, evilDB, "SELECT count(*)::int FROM calls WHERE who = 'jobrunner'")
}

// untrusted requires that a database is not served, for a reason.
func untrusted(words string) func(*bed) {
	return func(b *bed) {
		reconnecting(b)
		require.NotEqual(b, "ready", b.states()[evilDB])
		require.NotZero(b, b.logged(words), "the log says why:\n%s", b.caddy().Tail())
	}
}

// reconnecting has the runner connect to the attacker's database again and again.
func reconnecting(b *bed) {
	for range 10 {
		b.reconnect(evilDB)
		b.wait(500 * time.Millisecond)
	}
	testbed.Within(5*time.Second, func() bool { return b.states()[evilDB] == "ready" })
	b.note("%s is %s", evilDB, b.states()[evilDB])
}
