package runner_test

import (
	"encoding/base64"
	"testing"
	"time"

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
			})
		})
	}
}
