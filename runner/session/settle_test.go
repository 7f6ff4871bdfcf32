package session

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// newborn is a database that is being made by those that at names.
type newborn struct {
	faulty

	at    func(age time.Duration) (who string, sure bool)
	began time.Time
	looks int
	count int
	// patience is how long the last look might have taken.
	patience time.Duration
}

func (d *newborn) Unsettled(ctx context.Context) (who string, sure bool, err error) {
	d.looks++
	if deadline, ok := ctx.Deadline(); ok {
		d.patience = time.Until(deadline)
	}
	who, sure = d.at(time.Since(d.began))
	return who, sure, d.errs["Unsettled"]
}

func (d *newborn) Count(context.Context) (channels.Count, error) {
	d.count++
	return channels.Count{Pending: 7}, d.errs["Count"]
}

// midwife is a clerk that is told how many jobs there are, and of upgrades.
type midwife struct{ clerk }

func (m *midwife) Counted(c channels.Count)   { m.tell(fmt.Sprintf("%d jobs", c.Pending)) }
func (m *midwife) Upgrading(u driver.Upgrade) { m.tell("upgrade: " + u.Description) }

func newbornOf(errs map[string]error, at func(time.Duration) (string, bool)) (*newborn, *midwife, *Session) {
	out := &midwife{}
	f, s := faultyOf(out, errs)
	d := &newborn{faulty: *f, at: at, began: time.Now()}
	s.conn = d
	return d, out, s
}

// A new database is served once nobody has been seen at work in it for a while. Users cannot put that
// off for long, and a tool that fills databases can for as long as it works.
func TestNewDatabaseIsLeftInPeace(t *testing.T) {
	for name, c := range map[string]struct {
		at    func(age time.Duration) (who string, sure bool)
		waits time.Duration
	}{
		"nobody": {func(time.Duration) (string, bool) { return "", false }, settleQuiet},
		"a user for a moment": {
			func(age time.Duration) (string, bool) {
				if age == 5*time.Second {
					return "a user", false
				}
				return "", false
			}, 5*time.Second + settleQuiet,
		},
		"users all the time": {func(time.Duration) (string, bool) { return "a user", false }, settleLimit},
		"a tool for a minute": {
			func(age time.Duration) (string, bool) {
				if age <= time.Minute {
					return "pg_restore", true
				}
				return "", false
			}, time.Minute + settleQuiet,
		},
		"a tool, and users after it": {
			func(age time.Duration) (string, bool) { return "somebody", age <= time.Minute }, time.Minute + settleLimit,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, out, s := newbornOf(nil, c.at)
				s.Expect()
				_, err := s.prepare(t.Context())
				require.NoError(t, err)
				require.Equal(t, c.waits, time.Since(d.began))
				require.EqualValues(t, c.waits/settleInterval, d.looks)
				require.Equal(t, 5*time.Second, d.patience)
				require.Equal(t, []string{"found healthy", "found healthy"}, out.told, "it is examined again")
				require.Equal(t, 1, d.listened)
				states, detail := out.seen()
				require.Len(t, states, d.looks)
				require.Equal(t, Settling, states[0])
				require.Contains(t, detail, "nobody has been at work in it for 10s")
				who, _ := c.at(c.waits - settleInterval)
				if who != "" {
					require.Contains(t, detail, "(seen: "+who+")")
				} else {
					require.NotContains(t, detail, "seen")
				}

				looks := d.looks
				_, err = s.prepare(t.Context())
				require.NoError(t, err)
				require.Equal(t, looks, d.looks, "it is new once")
			})
		})
	}
}

// A database that is not new is not waited for, nor is one of a driver that cannot tell.
func TestOldDatabaseIsServedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, s := newbornOf(nil, func(time.Duration) (string, bool) { return "a user", true })
		_, err := s.prepare(t.Context())
		require.NoError(t, err)
		require.Zero(t, d.looks)
		s.Expect()
		s.conn = &d.faulty
		_, err = s.prepare(t.Context())
		require.NoError(t, err)
		require.Equal(t, d.began, time.Now())
	})
}

// What cannot be found out about a new database ends the connection, and so does the end of the session.
// Neither makes the database an old one, nor does a mark that keeps its jobs from running.
func TestNewDatabaseStaysNew(t *testing.T) {
	quiet := func(time.Duration) (string, bool) { return "", false }
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("failed")
		d, out, s := newbornOf(map[string]error{"Unsettled": failed}, quiet)
		s.Expect()
		_, err := s.prepare(t.Context())
		require.ErrorIs(t, err, failed)
		require.ErrorContains(t, err, "wait for a new database")
		require.Empty(t, out.states)
		require.Zero(t, d.listened)
		require.True(t, s.young)

		d, _, s = newbornOf(nil, quiet)
		s.Expect()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.prepare(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, d.listened)
		require.True(t, s.young)

		d, out, s = newbornOf(nil, quiet)
		s.Expect()
		d.at = func(time.Duration) (string, bool) {
			d.found.Health = driver.Neutralized // at its end
			return "", false
		}
		found, err := s.prepare(t.Context())
		require.NoError(t, err)
		require.Equal(t, driver.Neutralized, found.Health)
		require.Equal(t, []string{"found healthy", "found neutralized", "running"}, out.told)
		require.Zero(t, d.listened)
		require.True(t, s.young)
	})
}

// What comes where nothing was is new, and so is what was unhealthy before it has ever been served.
func TestWhatIsNew(t *testing.T) {
	for name, c := range map[string]struct {
		health       driver.Health
		young, known bool
		want         bool
	}{
		"undetected":               {driver.Undetected, false, true, true},
		"unhealthy from the start": {driver.Unhealthy, false, false, true},
		"unhealthy later":          {driver.Unhealthy, false, true, false},
		"unhealthy and new":        {driver.Unhealthy, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			d, _, s := newbornOf(nil, nil)
			d.found.Health, s.young = c.health, c.young
			if c.known {
				s.pulse.synced.Store(1)
			}
			_, err := s.prepare(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.want, s.young)
			require.Zero(t, d.listened)
		})
	}
}

// The jobs of a database that cannot be served are counted once in a while, rarely where that fails, and
// not at all where there are none.
func TestCountOfAnUnhealthyDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, out, s := newbornOf(nil, nil)
		d.found.Health = driver.Unhealthy
		examined := func(after time.Duration, counts int) {
			t.Helper()
			timing.Sleep(t.Context(), after)
			_, err := s.prepare(t.Context())
			require.NoError(t, err)
			require.Equal(t, counts, d.count)
		}
		examined(0, 0) // there is no generation, so there is no table
		d.found.Generation = "17.0"
		examined(0, 1)
		require.Equal(t, []string{"found unhealthy", "found unhealthy", "7 jobs"}, out.told)
		examined(countInterval-1, 1)
		d.errs = map[string]error{"Count": errors.New("failed")}
		examined(1, 2)
		require.Equal(t, "found unhealthy", out.told[len(out.told)-1], "their number stays what it was")
		examined(countInterval, 2)
		examined(countRetry-countInterval-1, 2)
		examined(1, 3)
	})
}
