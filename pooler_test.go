package jobrunner

import (
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// postgresOf is a connection to PostgreSQL itself.
func postgresOf(t *testing.T) *pgx.ConnConfig {
	t.Helper()
	pg, err := pgx.ParseConfig("postgres://odoo:hush@db.internal:5433/postgres?sslmode=disable")
	require.NoError(t, err)
	return pg
}

// TestPooler: the user and the password are those of postgres, unless the pooler's string names a user.
func TestPooler(t *testing.T) {
	t.Setenv("PGUSER", "somebody")
	t.Setenv("PGPASSWORD", "else")
	for url, want := range map[string][2]string{
		"postgres://pgbouncer.internal:6432?sslmode=disable":           {"odoo", "hush"},
		"host=pgbouncer.internal port=6432 sslmode=disable":            {"odoo", "hush"},
		"postgres://jobs:word@pgbouncer.internal:6432?sslmode=disable": {"jobs", "word"},
		"host=pgbouncer.internal port=6432 user=jobs sslmode=disable":  {"jobs", "else"},
	} {
		t.Run(url, func(t *testing.T) {
			cfg := runner.Config{Postgres: postgresOf(t)}
			require.NoError(t, (&Pooler{URL: url, Poll: caddy.Duration(time.Second)}).use(&cfg, zap.NewNop()))
			require.Equal(t, want, [2]string{cfg.Pooler.User, cfg.Pooler.Password})
			require.Equal(t, "pgbouncer.internal", cfg.Pooler.Host)
			require.Equal(t, uint16(6432), cfg.Pooler.Port)
			require.Equal(t, time.Second, cfg.Poll)
		})
	}
	cfg := runner.Config{Postgres: postgresOf(t)}
	require.NoError(t, (*Pooler)(nil).use(&cfg, zap.NewNop()))
	require.Nil(t, cfg.Pooler)
}

// TestPoolerErrors: no error repeats what may be a password.
func TestPoolerErrors(t *testing.T) {
	t.Setenv("POOLER", "postgres://odoo:se cret@[::1")
	for url, words := range map[string]string{
		"": "the url is missing",
		"postgres://odoo:se%zzcret@pgbouncer.internal":      "details are withheld",
		"odoo:secret@pgbouncer.internal":                    "details are withheld",
		"{env.POOLER}":                                      "details are withheld",
		"postgres://pgbouncer.internal:6432?hostaddr=::1":   "hostaddr is not supported",
		"postgres://pgbouncer.internal:6432?pool_mode=none": "unknown parameter pool_mode",
	} {
		t.Run(url, func(t *testing.T) {
			cfg := runner.Config{Postgres: postgresOf(t)}
			err := (&Pooler{URL: url}).use(&cfg, zap.NewNop())
			require.ErrorContains(t, err, "pooler: ")
			require.ErrorContains(t, err, words)
			require.NotContains(t, err.Error(), "cret")
		})
	}
	require.ErrorContains(t, (&Pooler{Poll: caddy.Duration(time.Millisecond)}).check(), "must be at least 500ms")
}

// TestPoolerPassword: a password that is written out is warned of.
func TestPoolerPassword(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	cfg := runner.Config{Postgres: postgresOf(t)}
	require.NoError(t, (&Pooler{URL: "postgres://odoo:secret@localhost:6432?sslmode=disable"}).use(&cfg, zap.New(core)))
	require.Equal(t, 1, logs.FilterMessageSnippet("pooler contains a password").Len())
	require.NotContains(t, logs.All()[0].Message, "secret")
}

// TestIdentityOfAPooler: another pooler needs another runner, and what the doctor shows has no secret.
func TestIdentityOfAPooler(t *testing.T) {
	pg := postgresOf(t)
	cfg := runner.Config{Postgres: pg, Poll: time.Second}
	require.NoError(t, (&Pooler{URL: "postgres://pgbouncer.internal:6432?sslmode=disable"}).use(&cfg, zap.NewNop()))
	require.NotEqual(t, connectionIdentity(pg, nil), connectionIdentity(pg, cfg.Pooler))
	other := cfg.Pooler.Copy()
	other.Port++
	require.NotEqual(t, connectionIdentity(pg, other), connectionIdentity(pg, cfg.Pooler))
	for _, s := range new(Runner).settings(&cfg, nil) {
		if s.Name == "pooler" {
			require.Equal(t, "odoo@pgbouncer.internal:6432, poll 5s", s.Value)
			return
		}
	}
	require.Fail(t, "the pooler is not shown")
}
