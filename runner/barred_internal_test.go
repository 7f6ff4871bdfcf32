package runner

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// A pause may end when the session has found nothing else to do, and has not said so yet: then it does
// not carry orders out any more.
func TestUnbarredBeforeItSleeps(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			e := dozing(began, began, "prod")
			defer e.stopSession(e.databases.get("prod"))
			db := e.databases.get("prod")
			delete(e.rotation.asleep, db)
			db.stage = stageServed
			e.databases.served[db] = struct{}{}
			e.put("root.a", time.Unix(0, 0), channels.Pending)
			e.control(Controls{Pauses: []Pause{{Channel: "root.a"}}})
			db.barred = barred{uuids: []string{"root.a"}, opens: never}
			if ends {
				e.control(Controls{})
			}
			e.asleep(db, driver.Rest{})
			require.Equal(t, ends, len(awakeNow(e, "prod")) == 1)
		})
	}
}

// A database that sleeps is woken for a pending job that can start within the time for which it would
// stay connected, and for no other.
func TestUnbarred(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	soon := now.Add(session.SleepHorizon)
	for name, c := range map[string]struct {
		state channels.State
		until time.Time
		want  bool
	}{
		"pending, at once":     {channels.Pending, now, true},
		"pending, soon":        {channels.Pending, soon.Add(-time.Microsecond), true},
		"pending, not so soon": {channels.Pending, soon, false},
		"failed":               {channels.Failed, now, false},
		"started":              {channels.Started, now, false},
		"unknown":              {channels.Unknown, now, false},
	} {
		e := dozing(now, now, "prod")
		db := e.databases.get("prod")
		e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: "a"}, Channel: "root.a"}, c.state)
		e.controls = Controls{Pauses: []Pause{{Channel: "root.a", Until: c.until}}}
		e.tree.Pause("root.a", true)
		db.barred = barred{uuids: []string{"a"}, opens: never}
		require.Equal(t, c.want, e.unbarred(db, now), name)
	}
}
