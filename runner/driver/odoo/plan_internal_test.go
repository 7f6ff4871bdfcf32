package odoo

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// Statements that are executed for each job are planned once.
func TestStatementsArePlannedOnce(t *testing.T) {
	pg := pgtest.Shared(t)
	db, _ := odoostub.NewDatabase(t, pg, odoostub.QueueJobLock)
	opened, err := New(Options{}).OpenSession(t.Context(), pg.ConnConfig("postgres"), db)
	require.NoError(t, err)
	s, ok := opened.(*session)
	require.True(t, ok)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	_, err = s.Fingerprint(t.Context())
	require.NoError(t, err)
	for range 10 {
		_, err := s.Read(t.Context(), []string{"a"})
		require.NoError(t, err)
		_, _, err = s.Claim(t.Context(), []string{"a"}, []string{"b"})
		require.NoError(t, err)
		_, _, err = s.ClaimVacant(t.Context(), "a")
		require.NoError(t, err)
	}
	var statements, generic, custom int
	require.NoError(t, s.conn.QueryRow(t.Context(), `SELECT count(*), sum(generic_plans), sum(custom_plans)
		FROM pg_prepared_statements WHERE statement = ANY($1)`, pgx.QueryExecModeExec,
		[]string{s.statements.read, s.statements.claims[0], s.statements.claims[intoVacancy]}).Scan(&statements, &generic, &custom))
	require.Equal(t, []int{3, 30, 0}, []int{statements, generic, custom})
}
