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
		strikes(1)
		since := time.Now()
		<-time.After(time.Minute)
		strikes(strikesLimit - 1)
		d.strike(db, "0", "")
		require.Equal(t, since, db.hold.since)
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

// All databases are released that have been held back for long enough, and no others.
func TestReleasingHolds(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	e := still(nil)
	for i := range 8 {
		for _, until := range []time.Time{now, now.Add(1)} {
			db := &database{stage: stageServed}
			db.Name, db.hold.until = strconv.Itoa(i)+until.String(), until
			e.databases.held[db] = struct{}{}
		}
	}
	e.databases.release(now)
	require.Len(t, e.databases.held, 8)
	for db := range e.databases.held {
		require.Equal(t, now.Add(1), db.hold.until)
	}
}
