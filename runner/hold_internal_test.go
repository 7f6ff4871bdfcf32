package runner

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
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

// A claim that meets a lock holds its database back for longer each time, unless it is held back already, and
// from anew once a job has been claimed.
func TestHoldingBackAfterALock(t *testing.T) {
	t.Parallel()
	e, db := served()
	h := &db.hold
	refuse := func() { e.claimed(db, session.Claims{Refused: true}) }
	h.until = time.Now().Add(time.Hour)
	until := h.until
	refuse()
	require.Equal(t, until, h.until)
	require.Zero(t, h.refused)
	for i := range 9 {
		h.until = time.Time{}
		refuse()
		require.Equal(t, i+1, h.refused)
		require.Equal(t, tableLocked, h.why)
	}
	require.Greater(t, time.Until(h.until), holdLimit/2)
	e.claimed(db, session.Claims{Got: []driver.Task{{Key: channels.Key{DB: "prod", UUID: "a"}}}})
	require.Zero(t, h.refused)
}

// What others write shows that the lock has ended, and nothing of what else is wrong.
func TestWritingEndsAHoldForALock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		why            string
		held, released bool
	}{{tableLocked, true, true}, {notClaimed, true, false}, {tableLocked, false, false}} {
		e, db := served()
		if db.hold.refused = 1; c.held {
			e.databases.hold(db, 5, c.why)
		}
		db.hold.why = c.why
		until := db.hold.until
		e.databases.derive(db)
		e.rowsRead(db, session.Reading{Notified: 1})
		require.Equal(t, c.held && !c.released, !db.hold.until.IsZero(), c)
		require.Equal(t, c.held && !c.released, len(e.databases.held) == 1, c)
		require.Equal(t, !c.held || c.released, db.serving(), c)
		require.True(t, c.released || until.Equal(db.hold.until), c)
		require.Zero(t, db.hold.refused)
		require.Equal(t, c.held && !c.released, db.state == DatabaseHeld, c)
	}
	e, db := served()
	e.databases.hold(db, 5, tableLocked)
	e.rowsRead(db, session.Reading{Notified: 1})
	require.False(t, db.serving(), "nothing has been refused since the last that was not")
}

// A database whose table was locked is held back while one claim is under way, and shown so before, until a
// claim is not refused.
func TestOneClaimTellsWhetherALockHasEnded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	e, db := served()
	e.databases.derive(db)
	e.databases.probe(db, now)
	require.True(t, db.serving(), "none has been refused")
	for _, refused := range []bool{true, false} {
		e.claimed(db, session.Claims{Refused: true})
		e.databases.release(now.Add(time.Hour))
		require.True(t, db.serving())
		require.Equal(t, DatabaseHeld, db.state, "it is not known yet whether the lock has ended")
		e.databases.probe(db, now)
		require.False(t, db.serving())
		require.Equal(t, now.Add(probeLimit), db.hold.until)
		e.claimed(db, session.Claims{Refused: refused})
		if refused {
			require.Equal(t, 2, db.hold.refused)
			require.False(t, db.hold.probing)
			continue
		}
		e.claimed(db, session.Claims{Got: []driver.Task{{Key: channels.Key{DB: "prod", UUID: "a"}}}})
		require.True(t, db.serving())
		require.Equal(t, DatabaseReady, db.state)
	}
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
