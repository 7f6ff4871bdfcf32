package runner

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// What is kept is bounded: by database, by the texts of others, and altogether.
func TestSetbacksAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var s setbacks
	note := func(db, uuid string, at time.Time) {
		s.add(channels.Key{DB: db, UUID: uuid}, Setback{Database: db, UUID: uuid, At: at}, time.Hour)
	}
	note("other", "first", now)
	for i := range 2 * databaseSetbacks {
		note("flood", fmt.Sprint(i), now.Add(time.Duration(i)))
	}
	require.Len(t, s.list(), databaseSetbacks+1)
	require.Len(t, s.of[channels.Key{DB: "other", UUID: "first"}], 1, "a database has no say over others")
	require.NotContains(t, s.of, channels.Key{DB: "flood", UUID: fmt.Sprint(databaseSetbacks - 1)}, "the oldest go first")
	require.Contains(t, s.of, channels.Key{DB: "flood", UUID: fmt.Sprint(databaseSetbacks)})
	for i := range setbacksLimit + 10 {
		note(fmt.Sprint(i), "a", now.Add(time.Second))
	}
	require.Len(t, s.list(), setbacksLimit)
	require.NotContains(t, s.of, channels.Key{DB: "other", UUID: "first"})

	s = setbacks{}
	note("prod", strings.Repeat("a", uuidLimit+1), now)
	require.Empty(t, s.of)
	for i := range 3 {
		note("prod", "a", now.Add(time.Duration(i)*30*time.Minute))
	}
	require.Len(t, s.list(), 2, "what does not count any more goes")
}

// What a former leader left could be anything.
func TestSetbacksThatAreLeft(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key := channels.Key{DB: "prod", UUID: "a"}
	of := func(at time.Time) Setback { return Setback{Database: "prod", UUID: "a", At: at} }
	var s setbacks
	s.add(channels.Key{DB: "prod", UUID: "b"}, Setback{Database: "prod", UUID: "b", At: now}, time.Hour)
	s.restore([]Setback{of(now.Add(-time.Minute)), of(now.Add(-time.Hour)), of(now.Add(time.Hour)), of(now.Add(-2 * time.Minute))}, now, time.Hour)
	require.Equal(t, map[channels.Key][]Setback{key: {of(now.Add(-2 * time.Minute)), of(now.Add(-time.Minute))}}, s.of)
	require.False(t, s.changed)

	var flood []Setback
	for i := range 3 * setbacksLimit {
		flood = append(flood, Setback{Database: fmt.Sprint(i % 10), UUID: fmt.Sprint(i), At: now})
	}
	s.restore(flood, now, time.Hour)
	require.Len(t, s.list(), setbacksLimit)
	s.restore(nil, now, time.Hour)
	require.Empty(t, s.of)
}

// A job begins anew when it has ended, or somebody has set it right.
func TestSetbacksAreForgotten(t *testing.T) {
	t.Parallel()
	key := channels.Key{DB: "prod", UUID: "a"}
	for _, test := range []struct {
		state   channels.State
		retry   int32
		forgets bool
	}{
		{channels.Pending, 1, false}, {channels.Pending, 0, true}, {channels.Enqueued, 0, false}, {channels.Started, 0, false},
		{channels.Done, 1, true}, {channels.Failed, 1, true}, {channels.Cancelled, 1, true}, {channels.Unknown, 0, false},
	} {
		var s setbacks
		s.add(key, Setback{At: time.Now(), Retry: 1}, time.Hour)
		s.changed = false
		s.seen(key, test.state, test.retry)
		require.Equal(t, test.forgets, len(s.of) == 0, "%+v", test)
		require.Equal(t, test.forgets, s.changed)
	}
	var s setbacks
	s.add(key, Setback{At: time.Now()}, time.Hour)
	s.seen(key, channels.Pending, 0)
	require.Len(t, s.of, 1, "its counter has never been raised")
}

func TestQuarantineSpelling(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		72 * time.Hour: "72h", time.Minute: "1m", 90 * time.Minute: "1h30m", 30 * time.Second: "30s", 0: "0s", time.Hour + time.Second: "1h0m1s",
	} {
		require.Equal(t, want, spell(d))
	}
}
