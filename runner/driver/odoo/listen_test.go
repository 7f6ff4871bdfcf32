package odoo

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

func TestIsReload(t *testing.T) {
	for payload, want := range map[string]bool{
		uuid.NewString():                         false,
		"6BA7B810-9DAD-11D1-80B4-00C04FD430C8":   false,
		"6ba7b8109dad11d180b400c04fd430c8":       true,
		"{6ba7b810-9dad-11d1-80b4-00c04fd430c8}": true,
		"6ba7b810-9dad-11d1-80b4-00c04fd430cx":   true,
		"reload":                                 true,
		"":                                       true,
	} {
		require.Equal(t, want, isReload([]byte(payload)), payload)
	}
}

// Whatever arrives is told once, to the right side, in order.
func TestInboxProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &inbox{own: 1}
		payloads := []string{"", "reload", "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"}
		var changed, echoes []string
		reload := false
		add := func(list []string, p string) []string {
			if slices.Contains(list, p) {
				return list
			}
			return append(list, p)
		}
		for range rapid.IntRange(0, 50).Draw(t, "n") {
			if rapid.IntRange(0, 9).Draw(t, "take") == 0 {
				require.Equal(t, len(changed)+len(echoes) == 0, b.empty())
				require.Equal(t, driver.Notifications{Changed: changed, Echoes: echoes, Reload: reload}, b.take())
				changed, echoes, reload = nil, nil, false
				continue
			}
			p := rapid.SampledFrom(payloads).Draw(t, "payload")
			if rapid.Bool().Draw(t, "own") {
				b.put(1, []byte(p))
				echoes = add(echoes, p)
			} else {
				b.put(2, []byte(p))
				changed = add(changed, p)
				reload = reload || len(p) != 36
			}
		}
	})
}

func FuzzClassify(f *testing.F) {
	for _, status := range []int{200, 299, 300, 399, 404, 408, 429, 500, 504, 519, 520, 527, 528} {
		f.Add(status, []byte(""))
		f.Add(status, []byte("<html>"))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		outcome, err := classify(status, body)
		require.Contains(t, []driver.Outcome{driver.Answered, driver.Refused, driver.Unavailable, driver.Broken}, outcome)
		require.Equal(t, outcome == driver.Answered, err == nil)
		require.Equal(t, outcome == driver.Broken, gaveUp(status))
		if status >= 500 && !unavailable(status) && !gaveUp(status) || status == 200 && len(body) == 0 {
			require.Equal(t, driver.Answered, outcome)
		}
	})
}

// better is a strict order, so that the choice among several rows of one uuid does not depend on
// the order in which they are read.
func TestBetterIsAnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) driver.Row {
			r := driver.Row{State: channels.State(rapid.IntRange(0, int(channels.Failed)).Draw(t, name+" state"))}
			r.ID = rapid.Int64Range(1, 3).Draw(t, name+" id")
			return r
		}
		a, b, c := draw("a"), draw("b"), draw("c")
		require.False(t, better(a, a))
		if a.ID != b.ID {
			require.NotEqual(t, better(a, b), better(b, a))
		}
		if better(a, b) && better(b, c) {
			require.True(t, better(a, c))
		}
	})
}

func TestJudge(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for enqueued, want := range map[int64]driver.Verdict{
		0:             driver.Uncertain, // not claimed
		math.MaxInt64: driver.Dead, math.MinInt64: driver.Dead,
		now.Add(time.Hour).UnixMicro():            driver.Dead, // no claim has written that
		now.Add(Grace).UnixMicro():                driver.Uncertain,
		now.Add(-Grace).UnixMicro():               driver.Uncertain,
		now.Add(-Grace - time.Second).UnixMicro(): driver.Dead,
	} {
		e := evidence{row: driver.Row{State: channels.Started, Enqueued: enqueued}, now: now}
		require.Equal(t, want, judge(e, true).Verdict, enqueued)
		require.Equal(t, driver.Uncertain, judge(e, false).Verdict)
		e.held, e.pid = true, 7
		require.Equal(t, driver.Alive, judge(e, true).Verdict, "a lock is a lock")
	}
}

// An inbox keeps so many jobs and no more, and names that are as long as one may be.
func TestLimitsOfAnInbox(t *testing.T) {
	t.Parallel()
	b := inbox{own: 1}
	longest := strings.Repeat("x", UUIDLimit)
	b.put(2, []byte(longest))
	require.Equal(t, []string{longest}, b.take().Changed)
	b.put(2, []byte(longest+"x"))
	n := b.take()
	require.Empty(t, n.Changed)
	require.True(t, n.Reload)

	for i := range inboxLimit {
		b.put(2, fmt.Append(nil, i))
	}
	require.False(t, b.overflow, "they are just not too many")
	b.put(2, []byte("one more"))
	n = b.take()
	require.True(t, n.Overflow)
	require.Len(t, n.Changed, inboxLimit)
	require.True(t, b.empty())
}

// A trigger of others that notifies in our own statements finds the same limits.
func TestLimitsOfEchoes(t *testing.T) {
	t.Parallel()
	b := inbox{own: 1}
	longest := strings.Repeat("x", UUIDLimit)
	b.put(1, []byte(longest))
	b.put(1, []byte(longest+"x"))
	require.Equal(t, driver.Notifications{Echoes: []string{longest}}, b.take())
	for i := range inboxLimit {
		b.put(1, fmt.Append(nil, i))
	}
	require.False(t, b.overflow)
	b.put(1, []byte("one more"))
	n := b.take()
	require.True(t, n.Overflow)
	require.Len(t, n.Echoes, inboxLimit)
}

// A set remembers nothing of what was taken from it, and keeps the memory of few texts only.
func TestMemoryOfASet(t *testing.T) {
	t.Parallel()
	for number, kept := range map[int]bool{1: true, setFew: true, setFew + 1: false} {
		var s set
		for i := range number {
			s.add(fmt.Append(nil, i))
			s.add(fmt.Append(nil, i))
		}
		require.Len(t, s.take(), number)
		require.Equal(t, kept, s.seen != nil, number)
		require.Empty(t, s.seen)
		s.add([]byte("0"))
		require.Equal(t, []string{"0"}, s.take())
	}
}
