package runner_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// refuses has claims wait for a lock until they give up, as PostgreSQL does.
func refuses(f *mock.Faults) { f.SlowClaim, f.ClaimErr = 4*time.Second, errLocked }

// untilHeld waits until a database has just begun to be held back.
func (b *bench) untilHeld(r *runner.Runner, db string) {
	for _, held := range []bool{false, true} {
		for range 60 {
			if state, _ := b.state(r, db); (state == runner.DatabaseHeld) == held {
				break
			}
			b.settle(time.Second)
		}
	}
	b.requireState(r, db, runner.DatabaseHeld)
}

// A database whose jobs cannot be claimed, because its table is locked, takes few of the slots that it shares
// with others, and says so.
func TestRefusedClaimsLeaveSlotsToOthers(t *testing.T) {
	for capacity, share := range map[int]int{1: 80, 4: 92} {
		t.Run(fmt.Sprint(capacity), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod", "other")
				b.SetPlan(mock.Plan{RunFor: 200 * time.Millisecond})
				b.Fault("prod", refuses)
				r := b.start(b.config(fmt.Sprintf("root:%d", capacity)))
				locked := b.jobs("prod", "root", "a", 60)
				b.settle(20 * time.Second)
				most := 0
				b.jobs("other", "root", "b", capacity*5*60*5)
				for range 5 * 60 * 4 {
					b.settle(250 * time.Millisecond)
					most = max(most, b.status(r).Claiming)
				}
				require.LessOrEqual(b, most, 2, "one of them, and one of the others")
				done := b.Count("other", channels.Done)
				require.Greater(b, done, capacity*5*60*5*share/100)
				b.untilHeld(r, "prod")
				st := b.status(r)
				for i := range st.Databases {
					if db := &st.Databases[i]; db.Name == "prod" {
						require.Contains(b, db.Obstacle(time.Now()), "is held back: another transaction has locked the table of jobs")
						require.Contains(b, db.Obstacle(time.Now()), "; pg_locks and pg_stat_activity tell which")
					}
				}
				b.Fault("prod", func(f *mock.Faults) { f.SlowClaim, f.ClaimErr = 0, nil })
				b.settle(time.Minute)
				b.requireState(r, "prod", runner.DatabaseReady)
				b.settle(5 * time.Minute)
				b.requireRanOnce(locked...)
				b.requireIdle(r)
			})
		})
	}
}

// When somebody writes to the table, the lock has ended.
func TestWhatIsWrittenEndsTheWaitForALock(t *testing.T) {
	for _, writes := range []bool{true, false} {
		inBubble(t, func(b *bench) {
			b.AddDatabase("prod")
			b.Fault("prod", refuses)
			r := b.start(b.config("root:1"))
			k := b.one("prod", "a")
			b.settle(2 * time.Minute)
			b.untilHeld(r, "prod")
			b.Fault("prod", func(f *mock.Faults) { f.SlowClaim, f.ClaimErr = 0, nil })
			if writes {
				b.one("prod", "b")
			}
			b.settle(time.Second)
			b.requireState(r, "prod", map[bool]runner.DatabaseState{true: runner.DatabaseReady, false: runner.DatabaseHeld}[writes])
			b.settle(time.Minute)
			b.requireRanOnce(k)
			b.requireIdle(r)
		})
	}
}
