package postgres_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// TestLargeMessagesAreRefused: neither an error, a warning, a row nor a notification that others
// choose fills the memory, and no error of ours is long.
func TestLargeMessagesAreRefused(t *testing.T) {
	pg := pgtest.Shared(t)
	for name, sql := range map[string]string{
		"error":   "DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 50000000); END $$",
		"warning": "DO $$ BEGIN RAISE WARNING '%', repeat('x', 50000000); END $$",
		"row":     "SELECT repeat('x', 50000000)",
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, pg.ConnConfig("postgres"))
			_, err := c.Exec(deadline(t), sql)
			err = c.Failed(err, "try")
			require.ErrorIs(t, err, driver.ErrLost)
			require.ErrorContains(t, err, "more than 4 MiB")
			require.True(t, c.IsClosed())
		})
	}
	t.Run("a smaller error is cut", func(t *testing.T) {
		c := connect(t, pg.ConnConfig("postgres"))
		_, err := c.Exec(deadline(t), "DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 3000000); END $$")
		err = c.Failed(err, "try")
		require.NotErrorIs(t, err, driver.ErrLost)
		require.ErrorContains(t, err, "try: ERROR: xxx")
		require.Less(t, len(err.Error()), 2*postgres.ErrorLimit)
		require.True(t, strings.HasSuffix(err.Error(), "…"), err.Error()[len(err.Error())-10:])

		// The connection is as good as before.
		var n int
		require.NoError(t, c.QueryRow(deadline(t), "SELECT count(*) FROM generate_series(1, 100000)").Scan(&n))
		require.Equal(t, 100000, n)
	})
}
