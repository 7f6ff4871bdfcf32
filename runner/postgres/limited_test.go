package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// A statement that takes too long is stopped, the connection stays, and later statements have their time
// again.
func TestLimited(t *testing.T) {
	pg := pgtest.Shared(t)
	c := connect(t, pg.ConnConfig(pg.NewDatabase(t)))
	takes := func(seconds float64) func() error {
		return func() error {
			_, err := c.Exec(deadline(t), "SELECT pg_sleep($1)", seconds)
			return c.Failed(err, "sleep")
		}
	}
	limit := func() (setting string) {
		require.NoError(t, c.QueryRow(deadline(t), "SHOW statement_timeout").Scan(&setting))
		return setting
	}
	const long = 60
	require.ErrorIs(t, c.Limited(deadline(t), 100*time.Millisecond, takes(long)), driver.ErrTooLong)
	require.Equal(t, "15min", limit())
	require.NoError(t, c.Limited(deadline(t), time.Minute, takes(0)))
	require.Equal(t, "15min", limit())
	err := c.Limited(deadline(t), time.Minute, func() error {
		_, err := c.Exec(deadline(t), "SELECT 1/0")
		return err
	})
	require.ErrorContains(t, err, "division by zero")
	require.NotErrorIs(t, err, driver.ErrTooLong)

	err = c.Limited(deadline(t), time.Minute, func() error {
		c.Abandon(context.Background())
		return takes(0)()
	})
	require.ErrorIs(t, err, driver.ErrLost)
	require.ErrorIs(t, c.Limited(deadline(t), time.Minute, takes(0)), driver.ErrLost)
}
