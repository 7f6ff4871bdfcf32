//go:build fault && soak

package fault

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	sleepers = 24
	// sleepOptions have databases sleep as soon as they may. Between two faults, only what PostgreSQL
	// counts wakes one: the next check is far away. Up to PostgreSQL 14, an idle backend may never tell
	// what it wrote, so that the check is what bounds the wait.
	sleepOptions    = "hibernate 10s {\npoll 1s\ncheck %s\n}"
	sleepCheck      = 30 * time.Minute
	sleepCheckTo14  = 30 * time.Second
	reportsWhenIdle = 15
	// sleepEpoch is the time between two faults.
	sleepEpoch = 75 * time.Second
	// lastStatistics is after how long PostgreSQL has certainly counted what was written, and what is
	// woken in vain has slept for as long as it may: ten seconds and a minute, and what it takes to connect.
	lastStatistics = 80 * time.Second
)

// sleepFaults happen to databases of which most sleep.
var sleepFaults = map[string]func(*testBed, string){
	"PostgreSQL restarted": func(tb *testBed, _ string) { require.NoError(tb, tb.Postgres.Restart(tb.Context(), pgtest.Fast)) },
	"PostgreSQL aborted": func(tb *testBed, _ string) {
		require.NoError(tb, tb.Postgres.Restart(tb.Context(), pgtest.Immediate))
	},
	"statistics reset": func(tb *testBed, db string) {
		tb.until("the statistics are reset", func() bool {
			return tb.Postgres.Exec(tb.Context(), db, "SELECT pg_stat_reset()") == nil
		})
	},
	"sessions ended": func(tb *testBed, _ string) { tb.terminate(tb.nodes[0], "true") },
	"node killed":    func(tb *testBed, _ string) { tb.nodes[0].Kill(); tb.nodes[0].start() },
	"node stopped":   func(tb *testBed, _ string) { require.NoError(tb, tb.nodes[0].Stop()); tb.nodes[0].start() },
	"reloaded":       func(tb *testBed, _ string) { tb.nodes[0].reload() },
	"dropped, and made again": func(tb *testBed, db string) {
		tb.Leave(db)
		tb.load.forget(db)
		tb.change(db, "DROP DATABASE "+db)
		tb.createDatabase(db)
	},
	"renamed, and back": func(tb *testBed, db string) {
		other := tb.ID + "_other"
		tb.Leave(db)
		tb.change(db, "ALTER DATABASE "+db+" RENAME TO "+other)
		tb.load.rename(db, other)
		tb.adopt(other)
		tb.load.enqueue(other, odoostub.JobSpec{})
		tb.until("a job of the renamed database is done", func() bool { return tb.openIn(other) == 0 })
		tb.Leave(other)
		tb.change(other, "ALTER DATABASE "+other+" RENAME TO "+db)
		tb.load.rename(other, db)
		tb.adopt(db)
	},
	"copied": func(tb *testBed, db string) {
		tb.Leave(db)
		copied := fmt.Sprintf("%s_copy%d", tb.ID, len(tb.Databases()))
		tb.change(db, "CREATE DATABASE "+copied+" TEMPLATE "+db)
		tb.adopt(copied)
		tb.load.adopt(copied, openJobs(tb, copied))
		tb.adopt(db)
	},
}

// apart are the faults while which nobody may use the database.
var apart = map[string]bool{"dropped, and made again": true, "renamed, and back": true, "copied": true}

// openIn counts the jobs of a database that are still to be done; 1 if that cannot be read.
func (tb *testBed) openIn(db string) int {
	n, err := tb.count(db, "SELECT count(*) FROM queue_job WHERE state <> 'done'")
	if err != nil {
		return 1
	}
	return n
}

// edge inserts jobs into databases about when they fall asleep: ten seconds after their last job, and
// up to seven later. Other jobs come at once, or after a good sleep.
type edge struct {
	tb     *testBed
	random *rand.Rand

	mu  sync.Mutex // guards the following, and is held while jobs are inserted
	due map[string]time.Time
	n   int
}

// insert inserts the jobs that are due.
func (e *edge) insert() {
	if !e.mu.TryLock() { // not now, and perhaps never again
		return
	}
	defer e.mu.Unlock()
	now := time.Now()
	for _, db := range slices.Sorted(maps.Keys(e.due)) {
		if now.Before(e.due[db]) {
			continue
		}
		e.n++
		e.tb.load.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 5}})
		e.plan(db)
	}
}

// plan says when the next job of a database comes.
func (e *edge) plan(db string) {
	ms := func(n int) time.Duration { return time.Duration(e.random.IntN(n)) * time.Millisecond }
	wait := 10*time.Second + ms(7000)
	switch e.random.IntN(5) {
	case 0:
		wait = ms(2000)
	case 1:
		wait = ms(60_000)
	}
	e.due[db] = time.Now().Add(wait)
}

// start inserts jobs until the function that it returns is called.
func (e *edge) start() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				e.insert()
			case <-end:
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(end); <-ended })
}

// TestSleepSoak inserts jobs at the edge of sleep for long, while PostgreSQL, Caddy and the databases
// suffer what they may. A job that nothing wakes its database for is found: it does not run within the
// time after which PostgreSQL has counted it.
func TestSleepSoak(t *testing.T) {
	fmt.Fprintf(os.Stdout, "soak of sleeping databases for %s with -seed %d, PostgreSQL %s\n", *soakTime, *soakSeed, serverVersion(t))
	tb := newTestBed(t, fault{
		name: "asleep", databases: sleepers, unserved: true,
		cluster: &pgtest.Options{Settings: map[string]string{"max_connections": "200"}},
		runners: func(tb *testBed) []testbed.Runner {
			return []testbed.Runner{{Databases: tb.ID + "_*", Channels: "root:8"}}
		},
		capacities: map[string]int{"root": 8},
	})
	check := sleepCheck
	if major, _, _ := strings.Cut(serverVersion(t), "."); len(major) < 2 || major < strconv.Itoa(reportsWhenIdle) {
		check = sleepCheckTo14
	}
	tb.more = fmt.Sprintf(sleepOptions, check)
	tb.addNode()
	tb.nodes[0].start()
	e := &edge{tb: tb, random: rand.New(rand.NewPCG(*soakSeed, 1)), due: make(map[string]time.Time)}
	for _, db := range tb.Databases() {
		e.plan(db)
	}
	t.Cleanup(e.start())
	faults, random := slices.Sorted(maps.Keys(sleepFaults)), rand.New(rand.NewPCG(*soakSeed, 2))
	began, worst := time.Now(), time.Duration(0)
	for time.Since(began) < *soakTime {
		epoch := time.Now()
		tb.wait(sleepEpoch)
		late := e.quiet(epoch)
		worst = max(worst, late)
		name, db := faults[random.IntN(len(faults))], tb.Databases()[random.IntN(len(tb.Databases()))]
		fmt.Fprintf(os.Stdout, "%6.0fs  %6d jobs, the longest waited %5.1fs, %3d asleep; %s: %s\n", time.Since(began).Seconds(), e.n, late.Seconds(), tb.asleep(), name, db)
		e.resume(db, apart[name])
		tb.wait(time.Duration(random.IntN(20_000)) * time.Millisecond) // about when some fall asleep
		sleepFaults[name](tb, db)
		e.admit(db)
	}
	late := e.quiet(time.Now())
	r := report{name: "all of them", bound: lastStatistics}
	tb.judge(&r)
	require.Zero(t, r.lost+r.left+r.twice+r.overlaps+r.above, "%+v\n%s", r, tb.details())
	fmt.Fprintf(os.Stdout, "%d jobs, the longest waited %s\n", r.jobs, max(worst, late))
}

// quiet stops the inserts, requires that all jobs are done in time, and returns how long the one that
// waited longest of those since a moment did.
func (e *edge) quiet(since time.Time) (longest time.Duration) {
	tb := e.tb
	tb.Helper()
	e.mu.Lock() // until resume
	require.True(tb, testbed.Within(lastStatistics, func() bool {
		return !slices.ContainsFunc(tb.Databases(), func(db string) bool { return tb.openIn(db) > 0 })
	}), "jobs are not done\n%s", tb.details())
	const sql = `SELECT coalesce(max(extract(epoch FROM date_done - date_created)), 0)::int FROM queue_job
		WHERE date_created > $1`
	for _, db := range tb.Databases() {
		n, err := tb.count(db, sql, since.UTC())
		require.NoError(tb, err)
		longest = max(longest, time.Duration(n)*time.Second)
	}
	return longest
}

// resume goes on with the inserts, in new databases, too; not yet in one to which something happens that
// its users must be away for.
func (e *edge) resume(db string, apart bool) {
	for _, db := range e.tb.Databases() {
		e.plan(db)
	}
	if apart {
		delete(e.due, db)
	}
	e.mu.Unlock()
}

// admit lets the users of a database come back.
func (e *edge) admit(db string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.plan(db)
}

// asleep counts the databases that sleep.
func (tb *testBed) asleep() (n int) {
	states, err := tb.nodes[0].Databases(tb.Context())
	require.NoError(tb, err)
	for _, state := range states {
		if state == "asleep" {
			n++
		}
	}
	return n
}
