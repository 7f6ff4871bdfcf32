package cluster

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

func pgConfig(user string) *pgx.ConnConfig {
	return &pgx.ConnConfig{Config: pgconn.Config{User: user}}
}

func TestLeaderKey(t *testing.T) {
	base := Config{Name: "default", Postgres: pgConfig("odoo"), Databases: []string{"a", "b"}}
	same := Config{Name: "default", Postgres: pgConfig("odoo"), Databases: []string{"b", "a"}}
	require.Equal(t, leaderKey(base), leaderKey(same))
	require.GreaterOrEqual(t, leaderKey(base), int64(0))
	for _, other := range []Config{
		{Name: "mail", Postgres: base.Postgres, Databases: base.Databases},
		{Name: "default", Postgres: pgConfig("other"), Databases: base.Databases},
		{Name: "default", Postgres: base.Postgres},
	} {
		require.NotEqual(t, leaderKey(base), leaderKey(other))
	}
}
