package runner

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// What is kept of a database that runs nothing is bounded, a hold that lasts is not made longer, and
// one that follows a job that has run begins anew.
func TestHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Logger: zap.NewNop()}
		d := newEngine(func() Config { return cfg }).databases
		db := &database{Database: driver.Database{Name: "prod"}}
		strikes := func(n int) {
			for i := range n {
				d.strike(db, strconv.Itoa(i), "")
			}
		}
		strikes(strikesLimit - 1)
		d.strike(db, "0", "")
		require.True(t, db.hold.until.IsZero(), "these were not different jobs")
		strikes(100)
		require.Len(t, db.hold.struck, strikesLimit)
		until := db.hold.until
		require.WithinRange(t, until, time.Now(), time.Now().Add(2*holdFirst))
		d.claimsLost(db)
		require.Equal(t, until, db.hold.until)
		require.Zero(t, db.hold.lost)
		for range 9 {
			<-time.After(time.Until(db.hold.until)) // the bubble's time
			d.release(time.Now())
			require.True(t, db.hold.until.IsZero())
			require.Empty(t, d.held)
			strikes(strikesLimit)
		}
		require.Greater(t, time.Until(db.hold.until), holdLimit/2, "they grow")
		d.release(db.hold.until)
		db.hold.ran()
		strikes(strikesLimit - 1)
		require.True(t, db.hold.until.IsZero(), "what was before does not count")
		strikes(strikesLimit)
		require.LessOrEqual(t, time.Until(db.hold.until), 2*holdFirst)
	})
}
