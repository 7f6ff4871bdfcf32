package postgres_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

func openCluster(t *testing.T) *postgres.Cluster {
	t.Helper()
	c, err := postgres.OpenCluster(deadline(t), pgtest.Shared(t).ConnConfig("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.Background())) })
	return c
}

func TestDatabases(t *testing.T) {
	pg := pgtest.Shared(t)
	exec := func(sql string) {
		t.Helper()
		require.NoError(t, pg.Exec(t.Context(), "postgres", sql))
	}
	prod, test := pg.NewDatabase(t), pg.NewDatabase(t)
	foreign, closed := pg.NewDatabase(t), pg.NewDatabase(t)
	exec("CREATE ROLE stranger")
	defer exec("DROP ROLE stranger")
	exec("ALTER DATABASE " + foreign + " OWNER TO stranger")
	defer exec("ALTER DATABASE " + foreign + " OWNER TO CURRENT_USER")
	exec("ALTER DATABASE " + closed + " ALLOW_CONNECTIONS false")

	cluster := openCluster(t)
	list := func(patterns ...string) []string {
		t.Helper()
		dbs, err := cluster.Databases(deadline(t), patterns)
		require.NoError(t, err)
		var names []string
		for _, db := range dbs {
			require.NotZero(t, db.OID)
			names = append(names, db.Name)
		}
		require.True(t, slices.IsSorted(names), names)
		return names
	}
	require.Equal(t, []string{prod, test}, list())
	require.Equal(t, []string{prod}, list("!"+test))
	require.Equal(t, []string{prod, test, foreign}, list("testdatabases_*"))
	require.Equal(t, []string{prod, foreign}, list("testdatabases_*", "!"+test))
	require.Equal(t, []string{"postgres"}, list("post*"))
	require.Empty(t, list("nothing_*"))
	_, err := cluster.Databases(deadline(t), []string{"["})
	require.ErrorContains(t, err, "pattern")
}

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		patterns []string
		name     string
		want     bool
	}{
		{nil, "a", true},
		{[]string{"a"}, "a", true},
		{[]string{"a"}, "ab", false},
		{[]string{"a*", "b"}, "b", true},
		{[]string{"a*", "!ab*"}, "abc", false},
		{[]string{"!a"}, "b", true},
		{[]string{"!a"}, "a", false},
		{[]string{"*"}, "odd/name", true},
		{[]string{"odd/n?me"}, "odd/name", true},
		{[]string{"[a-c]x"}, "bx", true},
	} {
		match, err := postgres.Patterns(test.patterns)
		require.NoError(t, err)
		require.Equal(t, test.want, match(test.name), "%v %s", test.patterns, test.name)
	}
	for _, bad := range []string{"[", "!", "", "a[]b"} {
		_, err := postgres.Patterns([]string{bad})
		require.Error(t, err, bad)
	}
}

func TestBusy(t *testing.T) {
	pg := pgtest.Shared(t)
	cluster := openCluster(t)
	for name, sql := range map[string]func(db string) string{
		"drop":   func(db string) string { return "DROP DATABASE " + db },
		"rename": func(db string) string { return "ALTER DATABASE " + db + " RENAME TO renamed" },
		"copy":   func(db string) string { return "CREATE DATABASE copied TEMPLATE " + db },
	} {
		t.Run(name, func(t *testing.T) {
			db := pg.NewDatabase(t)
			// There is a connection, so the statement waits.
			user := connect(t, pg.ConnConfig(db))
			busy, err := cluster.Busy(deadline(t))
			require.NoError(t, err)
			require.NotContains(t, busy, db)

			done := make(chan error, 1)
			ctx := deadline(t)
			go func() { done <- pg.Exec(ctx, "postgres", sql(db)) }()
			require.Eventually(t, func() bool {
				busy, err := cluster.Busy(deadline(t))
				return err == nil && slices.Contains(busy, db)
			}, testTimeout, 10*time.Millisecond)
			user.Abandon(t.Context())
			require.NoError(t, <-done)
			busy, err = cluster.Busy(deadline(t))
			require.NoError(t, err)
			require.Empty(t, busy)
			if name == "rename" {
				require.NoError(t, pg.DropDatabase(t.Context(), "renamed"))
			}
			if name == "copy" {
				require.NoError(t, pg.DropDatabase(t.Context(), "copied"))
			}
		})
	}
}

func TestBusyWithAWaitingLock(t *testing.T) {
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	cluster := openCluster(t)
	// A transaction that merely describes the database holds up a rename before the latter gets its
	// lock.
	holder, err := pgx.ConnectConfig(deadline(t), pg.ConnConfig("postgres"))
	require.NoError(t, err)
	defer holder.Close(t.Context())
	_, err = holder.Exec(deadline(t), "BEGIN; COMMENT ON DATABASE "+db+" IS 'busy'")
	require.NoError(t, err)
	done := make(chan error, 1)
	ctx := deadline(t)
	go func() { done <- pg.Exec(ctx, "postgres", "ALTER DATABASE "+db+" RENAME TO waited") }()
	require.Eventually(t, func() bool {
		busy, err := cluster.Busy(deadline(t))
		return err == nil && slices.Contains(busy, db)
	}, testTimeout, 10*time.Millisecond)
	_, err = holder.Exec(deadline(t), "ROLLBACK")
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.NoError(t, pg.Exec(t.Context(), "postgres", "ALTER DATABASE waited RENAME TO "+db))
}

func TestLead(t *testing.T) {
	first, second := openCluster(t), openCluster(t)
	lock, err := first.Lead(deadline(t), 7)
	require.NoError(t, err)
	require.True(t, lock.Held)
	lock, err = second.Lead(deadline(t), 7)
	require.NoError(t, err)
	require.False(t, lock.Held)
	require.Contains(t, lock.Holder, "application caddy-jobrunner/maintenance")
	lock, err = second.Lead(deadline(t), 8)
	require.NoError(t, err)
	require.Equal(t, driver.Lock{Held: true}, lock)
	require.NoError(t, first.Unlead(deadline(t), 7))
	lock, err = second.Lead(deadline(t), 7)
	require.NoError(t, err)
	require.True(t, lock.Held)
}

// TestWarnings: a role has no more rights than it needs, because code of others runs
// with them.
func TestWarnings(t *testing.T) {
	pg := pgtest.Shared(t)
	for rights, want := range map[string]string{
		"NOCREATEROLE": "", "CREATEDB": "", "CREATEROLE": "CREATEROLE", "BYPASSRLS": "BYPASSRLS", "SUPERUSER": "is a superuser, and",
		"CREATEROLE BYPASSRLS": "(CREATEROLE) and reads rows that policies hide (BYPASSRLS), and", "SUPERUSER CREATEROLE": "is a superuser, and",
	} {
		t.Run(rights, func(t *testing.T) {
			role := "rights_" + strings.ToLower(strings.ReplaceAll(rights, " ", "_"))
			require.NoError(t, pg.Exec(t.Context(), "postgres", "CREATE ROLE "+role+" LOGIN "+rights))
			t.Cleanup(func() { require.NoError(t, pg.Exec(context.Background(), "postgres", "DROP ROLE "+role)) })
			cfg := pg.ConnConfig("postgres")
			cfg.User = role
			c, err := postgres.OpenCluster(deadline(t), cfg)
			require.NoError(t, err)
			defer c.Close(context.Background())
			list, err := c.Warnings(deadline(t))
			require.NoError(t, err)
			if want == "" {
				require.Empty(t, list)
				return
			}
			require.Len(t, list, 1)
			require.Contains(t, list[0], want)
			require.Contains(t, list[0], role)
		})
	}
}
