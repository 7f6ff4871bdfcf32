package fault

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// report is what became of the jobs: one line of the suite's output.
type report struct {
	name string
	// jobs is the number of jobs whose commit Odoo confirmed, or whose row exists.
	jobs int
	// lost are those that are not done in the end, and do not run either.
	lost int
	// overlaps are executions of a job that began while another one of it ran.
	overlaps int
	// twice are jobs that were done more than once.
	twice int
	// above is by how many jobs channels exceeded their capacities.
	above int
	// left are jobs that stay enqueued or started although nobody runs them.
	left int
	// served is the time from the end of the cause until new jobs have run in
	// every database, repaired until no attempt is left of those that were under
	// way at the end of the cause. The later of both is the recovery, and must
	// be within bound.
	served, repaired, bound time.Duration
}

// header names the columns of a report's line.
const header = "fault                                                    jobs  lost overlaps twice above  left   served repaired    bound"

// String is the line.
func (r report) String() string {
	return fmt.Sprintf("%-54s %6d %5d %8d %5d %5d %5d %7.1fs %7.1fs %7.1fs", r.name,
		r.jobs, r.lost, r.overlaps, r.twice, r.above, r.left, r.served.Seconds(), r.repaired.Seconds(), r.bound.Seconds())
}

// broken lists the promises that were not kept.
func (r report) broken() []string {
	var list []string
	for _, promise := range []struct {
		what  string
		count int
	}{
		{"jobs lost", r.lost},
		{"overlapping executions", r.overlaps},
		{"jobs done twice", r.twice},
		{"jobs above capacity", r.above},
		{"jobs left behind", r.left},
	} {
		if promise.count != 0 {
			list = append(list, fmt.Sprintf("%d %s", promise.count, promise.what))
		}
	}
	if recovery := max(r.served, r.repaired); recovery > r.bound {
		list = append(list, fmt.Sprintf("recovery took %.1f s, longer than %.0f s", recovery.Seconds(), r.bound.Seconds()))
	}
	return list
}

// over says that the cause has ended: the clock of the recovery starts.
func (tb *testBed) over() {
	tb.Helper()
	tb.since = time.Now()
	tb.hit = make(map[string][]attempt)
	for _, db := range tb.Databases() {
		var running []attempt
		tb.until("the running jobs are known", func() bool {
			var err error
			running, err = tb.running(db)
			return err == nil
		})
		tb.hit[db] = running
	}
}

// running returns the attempts under way.
func (tb *testBed) running(db string) ([]attempt, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	rows, err := tb.Pool(db).Query(ctx, `SELECT uuid, coalesce(date_enqueued, '-infinity') FROM queue_job WHERE state IN ('enqueued', 'started')`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (a attempt, err error) {
		return a, row.Scan(&a.uuid, &a.enqueued)
	})
}

// measure measures how long it takes until all is as before.
func (tb *testBed) measure(r *report) {
	tb.Helper()
	give := r.bound + 30*time.Second
	markers := make(map[string][]string)
	for _, db := range tb.Databases() {
		tb.until("a new job can be committed", func() bool {
			jobs := []odoostub.JobSpec{{Priority: new(int32(0))}}
			if tb.load.channel != nil {
				jobs[0].Channel = new(tb.load.channel(db))
			}
			if !tb.load.enqueue(db, jobs...) {
				return false
			}
			markers[db] = []string{jobs[0].UUID}
			return true
		})
	}
	testbed.Within(time.Until(tb.since.Add(give)), func() bool {
		if r.served == 0 && tb.every(markers, func(db string, uuids []string) (bool, error) {
			n, err := tb.count(db, "SELECT count(*) FROM queue_job WHERE uuid = ANY($1) AND state = 'done'", uuids)
			return n == len(uuids), err
		}) {
			r.served = time.Since(tb.since)
		}
		if r.repaired == 0 && tb.nothingHit() {
			r.repaired = time.Since(tb.since)
		}
		return r.served != 0 && r.repaired != 0
	})
	for _, d := range []*time.Duration{&r.served, &r.repaired} {
		if *d == 0 {
			*d = give
		}
	}
}

// every reports whether something holds for the jobs of all databases.
func (tb *testBed) every(jobs map[string][]string, holds func(db string, uuids []string) (bool, error)) bool {
	for db, uuids := range jobs {
		if ok, err := holds(db, uuids); err != nil || !ok {
			return false
		}
	}
	return true
}

// nothingHit reports whether all attempts of then have ended.
func (tb *testBed) nothingHit() bool {
	for db, attempts := range tb.hit {
		if len(attempts) == 0 || tb.Pool(db) == nil {
			continue
		}
		now, err := tb.running(db)
		if err != nil {
			return false
		}
		still := make(map[attempt]bool, len(now))
		for _, a := range now {
			still[a] = true
		}
		for _, a := range attempts {
			if still[a] {
				return false
			}
		}
	}
	return true
}

// unfinished counts the jobs that are still to be done; -1 means that nobody
// knows.
func (tb *testBed) unfinished() int {
	n, err := tb.total("SELECT count(*) FROM queue_job WHERE state NOT IN ('done', 'failed', 'cancelled')")
	if err != nil {
		return -1
	}
	return n
}

// judge counts what became of the jobs.
func (tb *testBed) judge(r *report) {
	tb.Helper()
	for db, jobs := range tb.load.books() {
		states := tb.jobStates(db)
		for uuid, sure := range jobs {
			state, exists := states[uuid]
			if !exists && !sure {
				continue // never committed
			}
			r.jobs++
			switch state {
			case "done":
			case "enqueued", "started":
				r.left++
			default:
				r.lost++
			}
		}
	}
	r.overlaps = len(tb.Recorder.Overlaps())
	r.twice = len(tb.Recorder.Duplicates())
	promised := capacities
	if tb.fault.capacities != nil {
		promised = tb.fault.capacities
	}
	for _, v := range tb.Recorder.Violations(promised) {
		r.above += v.Max - v.Capacity
	}
}

// jobStates returns the states of all jobs of a database that the users made.
func (tb *testBed) jobStates(db string) map[string]string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rows, err := tb.Pool(db).Query(ctx, "SELECT uuid, state FROM queue_job WHERE name <> 'bulk'")
	require.NoError(tb, err)
	states := make(map[string]string)
	var uuid, state string
	_, err = pgx.ForEachRow(rows, []any{&uuid, &state}, func() error {
		states[uuid] = state
		return nil
	})
	require.NoError(tb, err)
	return states
}

// details tells more about what went wrong.
func (tb *testBed) details() string {
	var b strings.Builder
	fmt.Fprintf(&b, "jobs: %s\n", tb.states())
	for _, o := range tb.Recorder.Overlaps() {
		fmt.Fprintf(&b, "overlap: %s\n", o)
	}
	for _, d := range tb.Recorder.Duplicates() {
		fmt.Fprintf(&b, "done twice: %s\n", d)
	}
	for _, v := range tb.Recorder.Violations(capacities) {
		fmt.Fprintf(&b, "%s\n", v)
	}
	for _, n := range tb.nodes {
		fmt.Fprintf(&b, "--- the end of %s's log\n%s\n", n.name, n.Tail())
	}
	return b.String()
}
