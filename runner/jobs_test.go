package runner_test

import (
	"context"
	"encoding/base64"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// failed puts so many failed jobs into a database.
func (b *bench) failed(db string, n int) {
	var list []mock.Job
	for range n {
		j := mock.NewJob(db, "f"+time.Duration(len(list)+1).String())
		j.State = channels.Failed
		list = append(list, j)
	}
	b.Insert(list...)
}

// Pages bring each job once, database after database, the newest first, however long they are.
func TestPages(t *testing.T) {
	inBubble(t, func(b *bench) {
		names := b.many(25)
		for _, name := range names {
			b.failed(name, 3)
		}
		r := b.start(b.config("root:1"))
		b.settle(time.Second)
		for limit, pages := range map[int][]int{
			1000: {60, 15}, 3: nil, 4: nil, 7: nil, 1: nil,
		} {
			var got []driver.Detail
			var lengths []int
			q := runner.JobQuery{Limit: limit}
			for more := true; more; more = q.Cursor != "" {
				page, err := r.Jobs(b.Context(), q)
				require.NoError(b, err)
				require.Empty(b, page.Problems)
				require.LessOrEqual(b, len(page.Jobs), limit)
				got, lengths, q.Cursor = append(got, page.Jobs...), append(lengths, len(page.Jobs)), page.Next
				require.Equal(b, len(names)-len(got)/3, page.Left)
				require.Equal(b, page.Next != "" && len(page.Jobs) < limit, page.Partial)
			}
			require.Len(b, got, 75, limit)
			for i := range got {
				require.Equal(b, names[i/3], got[i].DB)
				if i%3 > 0 {
					require.Less(b, got[i].ID, got[i-1].ID)
				}
			}
			if pages != nil {
				require.Equal(b, pages, lengths, "so many databases are asked for one page")
			}
		}
	})
}

// A page has a hundred jobs, or as many as are wanted, up to a thousand.
func TestLengthOfAPage(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.failed("prod", 1001)
		r := b.start(b.config("root:1"))
		b.settle(time.Second)
		for limit, want := range map[int]int{0: 100, -1: 100, 1: 1, 1000: 1000, 1001: 1000, 5000: 1000} {
			page, err := r.Jobs(b.Context(), runner.JobQuery{Database: "prod", Limit: limit})
			require.NoError(b, err)
			require.Len(b, page.Jobs, want, limit)
			require.NotEmpty(b, page.Next)
		}
		for _, cursor := range []string{"!", "x prod", "-1 prod", "1x prod", ""} {
			if cursor != "!" {
				cursor = base64.RawURLEncoding.EncodeToString([]byte(cursor))
			}
			_, err := r.Jobs(b.Context(), runner.JobQuery{Cursor: cursor})
			if cursor == "" {
				require.NoError(b, err)
				continue
			}
			require.ErrorIs(b, err, runner.ErrBadCursor)
		}
		page, err := r.Jobs(b.Context(), runner.JobQuery{Cursor: base64.RawURLEncoding.EncodeToString([]byte("0 prod"))})
		require.NoError(b, err)
		require.Len(b, page.Jobs, 100)
	})
}

// slowOperations takes its time for each window, of which a database has several.
type slowOperations struct {
	driver.Operations
	takes time.Duration
	left  int
}

func (o *slowOperations) List(ctx context.Context, f driver.Filter, _ int64, limit int) (driver.Listed, error) {
	<-time.After(o.takes) // of the bubble
	if o.left > 0 {
		o.left--
		return driver.Listed{Next: int64(1000 + o.left)}, nil
	}
	out, err := o.Operations.List(ctx, f, 0, limit)
	out.Next = 0
	return out, err
}

// Change takes as long, and one more job follows those that it changes.
func (o *slowOperations) Change(ctx context.Context, a driver.Change, f driver.Filter, after int64, limit int, dryRun bool) (driver.Changed, error) {
	out, err := o.Operations.Change(ctx, a, f, after, limit, dryRun)
	if !dryRun {
		<-time.After(o.takes)
		out.Followed = 1
	}
	return out, err
}

// slowOperator opens such operations, which begin where the last ones ended.
type slowOperator struct {
	driver.Operator
	takes   time.Duration
	windows int
	asked   map[string]*slowOperations
}

func (o *slowOperator) OpenOperations(ctx context.Context, pg *pgx.ConnConfig, database string) (driver.Operations, error) {
	ops, err := o.Operator.OpenOperations(ctx, pg, database)
	if o.asked[database] == nil {
		o.asked[database] = &slowOperations{Operations: ops, takes: o.takes, left: o.windows}
	}
	return o.asked[database], err
}

// startSlow starts a runner with operations that take their time, and returns those of the databases that
// are asked, too.
func (b *bench) startSlow(takes time.Duration, windows int) (*runner.Runner, map[string]*slowOperations) {
	cfg := b.config("root:1")
	asked := map[string]*slowOperations{}
	cfg.Driver = &struct {
		fakeDriver
		driver.Operator
	}{fakeDriver{Driver: cfg.Driver}, &slowOperator{cfg.Driver.(driver.Operator), takes, windows, asked}}
	return b.start(cfg), asked
}

// A page ends when its time is over, says how many databases it has left, and the next one goes on there
// until all jobs have been found.
func TestPagesTakeTheirTime(t *testing.T) {
	for name, c := range map[string]struct {
		takes    time.Duration
		windows  int
		patience time.Duration
		left     []int
	}{
		"nothing is slow":                {0, 0, 0, []int{0}},
		"databases are slow":             {60 * time.Millisecond, 0, 0, []int{3, 1, 0}},
		"tables are large":               {60 * time.Millisecond, 3, 0, []int{5, 4, 4, 3, 3, 2, 2, 1, 1, 0}},
		"there is time for all":          {60 * time.Millisecond, 3, time.Minute, []int{0}},
		"a database is slower than that": {time.Second, 0, 0, []int{4, 3, 2, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				names := b.many(5)
				for _, name := range names {
					b.failed(name, 1)
				}
				r, _ := b.startSlow(c.takes, c.windows)
				b.settle(time.Second)
				var left []int
				found := 0
				q := runner.JobQuery{Patience: c.patience}
				for more := true; more; more = q.Cursor != "" {
					page, err := r.Jobs(b.Context(), q)
					require.NoError(b, err)
					require.Equal(b, page.Next != "", page.Partial)
					require.Equal(b, page.Next != "", page.Left > 0)
					found, left, q.Cursor = found+len(page.Jobs), append(left, page.Left), page.Next
				}
				require.Equal(b, 5, found)
				require.Equal(b, c.left, left)
			})
		})
	}
}

// A dry run ends when its time is over, and says that there may be more; the action itself finds all.
func TestDryRunsTakeTheirTime(t *testing.T) {
	for name, c := range map[string]struct {
		takes, patience time.Duration
		windows         int
		want            runner.ChangeResult
	}{
		"nothing is slow":                {0, 0, 3, runner.ChangeResult{Changed: 5}},
		"databases are slow":             {time.Second, 1500 * time.Millisecond, 0, runner.ChangeResult{Changed: 2, Partial: true}},
		"tables are large":               {time.Second, 6 * time.Second, 3, runner.ChangeResult{Changed: 1, Partial: true}},
		"five seconds are what it takes": {time.Second, 0, 20, runner.ChangeResult{Partial: true}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				for _, name := range b.many(5) {
					b.failed(name, 1)
				}
				r, _ := b.startSlow(c.takes, c.windows)
				b.settle(time.Second)
				change := runner.JobChange{Change: driver.Change{Action: driver.Cancel}, Patience: c.patience, DryRun: true}
				began := time.Now()
				got, err := r.Change(b.Context(), change)
				require.NoError(b, err)
				require.Len(b, got.Jobs, got.Changed)
				got.Jobs = nil
				require.Equal(b, c.want, got)
				require.LessOrEqual(b, time.Since(began), 7*time.Second)
				change.DryRun = false
				got, err = r.Change(b.Context(), change)
				require.NoError(b, err)
				require.Equal(b, []int{5, 5}, []int{got.Changed, got.Followed})
				require.False(b, got.Partial)
			})
		})
	}
}

// A dry run counts what the action permits, and no more than it may.
func TestDryRunsCount(t *testing.T) {
	for limit, want := range map[int]runner.ChangeResult{
		0: {Changed: 1400}, 1: {Changed: 1, More: true}, 700: {Changed: 700, More: true}, 1401: {Changed: 1400},
	} {
		inBubble(t, func(b *bench) {
			b.AddDatabase("one", "two")
			b.failed("one", 700)
			b.failed("two", 700)
			r := b.start(b.config("root:1"))
			b.settle(time.Second)
			change := runner.JobChange{Change: driver.Change{Action: driver.Cancel}, Limit: limit, DryRun: true}
			got, err := r.Change(b.Context(), change)
			require.NoError(b, err)
			require.Len(b, got.Jobs, min(want.Changed, 100))
			got.Jobs = nil
			require.Equal(b, want, got, limit)
			change.States = []channels.State{channels.Started}
			got, err = r.Change(b.Context(), change)
			require.NoError(b, err)
			require.Zero(b, got, "no action permits that state")
			require.Zero(b, b.Count("one", channels.Cancelled))
		})
	}
}

// Once as many jobs are changed as may be, no other database is asked for more.
func TestChangeEndsAtItsLimit(t *testing.T) {
	inBubble(t, func(b *bench) {
		for _, name := range b.many(3) {
			b.failed(name, 600)
		}
		r, asked := b.startSlow(0, 0)
		b.settle(time.Second)
		got, err := r.Change(b.Context(), runner.JobChange{Change: driver.Change{Action: driver.Cancel}, Limit: 500})
		require.NoError(b, err)
		require.Equal(b, 500, got.Changed)
		require.Len(b, asked, 1)
	})
}

// As many jobs are changed as may be, and the first of them are named.
func TestHowManyJobsAreChanged(t *testing.T) {
	for limit, want := range map[int]runner.ChangeResult{
		0: {Changed: 1400}, 1: {Changed: 1, More: true}, 700: {Changed: 700, More: true}, 1399: {Changed: 1399, More: true}, 1401: {Changed: 1400},
	} {
		inBubble(t, func(b *bench) {
			b.AddDatabase("one", "two")
			b.failed("one", 700)
			b.failed("two", 700)
			r := b.start(b.config("root:1"))
			b.settle(time.Second)
			got, err := r.Change(b.Context(), runner.JobChange{Change: driver.Change{Action: driver.Cancel}, Limit: limit})
			require.NoError(b, err)
			require.Len(b, got.Jobs, min(want.Changed, 100))
			got.Jobs = nil
			require.Equal(b, want, got, limit)
			require.Equal(b, want.Changed, b.Count("one", channels.Cancelled)+b.Count("two", channels.Cancelled))
		})
	}
}

// What is postponed waits from that moment on, also if its notification comes after the end of a pause;
// what would be is not touched.
func TestPostponed(t *testing.T) {
	for name, dry := range map[string]bool{"postponed": false, "dry run": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				r := b.prod("root:9", sessions(func(s driver.Session) driver.Session {
					n := 0
					return &fakeSession{Session: s, wait: func(told driver.Notifications) driver.Notifications {
						if n += len(told.Changed); n > 1 {
							return driver.Notifications{} // none but the first is heard
						}
						return told
					}}
				}))
				b.control(r, runner.Pause{})
				k := b.one("prod", "a")
				b.settle(time.Second)
				until := time.Now().Add(time.Minute)
				result, err := r.Change(b.Context(), runner.JobChange{
					Change: driver.Change{Action: driver.Postpone, Until: until}, DryRun: dry,
				})
				require.NoError(b, err)
				require.Equal(b, 1, result.Changed)
				b.control(r)
				b.settle(50 * time.Second)
				require.Len(b, b.RunsOf(k), map[bool]int{false: 0, true: 1}[dry])
				b.settle(11 * time.Second)
				require.Len(b, b.RunsOf(k), 1)
				require.Zero(b, b.logs.FilterMessage("the engine hears of postponed jobs by notification").Len())
			})
		})
	}
}
