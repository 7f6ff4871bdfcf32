package postgres_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// failing has the statements of connections fail.
func failing(cfg *pgx.ConnConfig) *pgtest.Failing {
	f := &pgtest.Failing{}
	cfg.Tracer = f
	return f
}

// No connection is set up by halves, whatever lies between it and the server.
func TestStatementsThatFailAtTheBeginning(t *testing.T) {
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	for name, cfg := range map[string]*pgx.ConnConfig{
		"direct": pg.ConnConfig(db), "session": drivertest.NewPooler(t, pg.ConnConfig(db), drivertest.PoolSession),
	} {
		failing(cfg).Each(t, name, func() error {
			c, err := postgres.Connect(deadline(t), cfg, "", "test")
			if err != nil {
				return err
			}
			return c.Close(deadline(t))
		})
	}
	for _, mode := range []drivertest.PoolMode{drivertest.PoolTransaction, drivertest.PoolRoundRobin} {
		cfg := drivertest.NewPooler(t, pg.ConnConfig(db), mode)
		failing(cfg).Each(t, "transaction", func() error {
			c, err := postgres.Connect(deadline(t), cfg, "", "test")
			if err != nil {
				return err
			}
			require.Equal(t, postgres.TransactionPooling, c.Pooling)
			return c.Close(deadline(t))
		})
		failing(cfg).Each(t, "pooled", func() error {
			c, err := postgres.ConnectPooled(deadline(t), cfg, "", "test")
			if err != nil {
				return err
			}
			return c.Close(deadline(t))
		})
	}
}

// No statement that fails is taken for an answer.
func TestStatementsThatFail(t *testing.T) {
	pg := pgtest.Shared(t)
	cfg := pg.ConnConfig(pg.NewDatabase(t))
	rival := connect(t, cfg)
	lock, err := rival.TryLock(deadline(t), 7)
	require.NoError(t, err)
	require.True(t, lock.Held)
	f := failing(cfg)
	c := connect(t, cfg)
	for name, do := range map[string]func() error{
		"lock that is held": func() error { _, err := c.TryLock(deadline(t), 7); return err },
		"lock":              func() error { _, err := c.TryLock(deadline(t), 8); return err },
		"unlock":            func() error { return c.Unlock(deadline(t), 8) },
		"holder":            func() error { _, err := c.LockHolder(deadline(t), 7); return err },
		"probe":             func() error { return c.Probe(deadline(t), postgres.Expect{}) },
		"writes":            func() error { _, err := postgres.WritesHere(deadline(t), c); return err },
		"limited": func() error {
			return c.Limited(deadline(t), time.Minute, func() error { _, err := c.Exec(deadline(t), "SELECT 1"); return err })
		},
	} {
		f.Each(t, name, do)
	}
	cluster, err := postgres.OpenCluster(deadline(t), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, cluster.Close(deadline(t))) }()
	for name, do := range map[string]func() error{
		"databases": func() error { _, err := cluster.Databases(deadline(t), nil); return err },
		"busy":      func() error { _, err := cluster.Busy(deadline(t)); return err },
		"warnings":  func() error { _, err := cluster.Warnings(deadline(t)); return err },
		"limits":    func() error { _, err := cluster.Limits(deadline(t)); return err },
		"writes":    func() error { _, err := cluster.Writes(deadline(t)); return err },
		"lead":      func() error { _, err := cluster.Lead(deadline(t), 9); return err },
		"unlead":    func() error { return cluster.Unlead(deadline(t), 9) },
	} {
		f.Each(t, name, do)
	}
	require.NoError(t, c.Probe(deadline(t), postgres.Expect{}), "the connection goes on")
}
