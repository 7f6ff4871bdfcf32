package channels

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRateInText: what is read is written again, and what is beyond a limit is a mistake.
func TestRateInText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rate{
		"5/s": {Starts: 5, Period: time.Second}, "10/m": {Starts: 10, Period: time.Minute},
		"100/h": {Starts: 100, Period: time.Hour}, "1000000/d": {Starts: RateLimit, Period: 24 * time.Hour},
	} {
		r, err := ParseRate(text)
		require.NoError(t, err)
		require.Equal(t, want, r)
		require.Equal(t, text, r.String())
	}
	for text, mistake := range map[string]string{
		"": "write it like", "5": "write it like", "5/w": "write it like", "x/s": "write it like", "-1/s": "write it like",
		"0/s": "must be 1 to 1000000", "1000001/s": "must be 1 to 1000000",
	} {
		_, err := ParseRate(text)
		require.ErrorContains(t, err, mistake, text)
	}
	r := Rate{Starts: 5, Period: 90 * time.Second, Burst: 1}
	require.Equal(t, "5/1m30s", r.String())
	r.Burst, r.PerDatabase = 2, true
	require.Equal(t, "5/1m30s burst 2 per database", r.String())
}

func TestRateAtItsLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rate    Rate
		mistake string
	}{
		{Rate{Starts: 1, Period: time.Second}, ""},
		{Rate{Starts: RateLimit, Period: 24 * time.Hour, Burst: RateLimit}, ""},
		{Rate{Period: time.Second}, "a rate of 0 jobs"},
		{Rate{Starts: RateLimit + 1, Period: time.Second}, "a rate of 1000001 jobs"},
		{Rate{Starts: 1, Period: time.Second - 1}, "must be 1s to 24h"},
		{Rate{Starts: 1, Period: 24*time.Hour + 1}, "must be 1s to 24h"},
		{Rate{Starts: 1, Period: time.Second, Burst: -1}, "a burst of -1"},
		{Rate{Starts: 1, Period: time.Second, Burst: RateLimit + 1}, "a burst of 1000001"},
	} {
		if err := c.rate.Validate(); c.mistake == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.mistake)
		}
	}
}

// TestBucket: a token comes to the microsecond, and however long nothing starts, no more come than fit.
func TestBucket(t *testing.T) {
	t.Parallel()
	b := newBucket(Rate{Starts: 1, Period: time.Second}, 0)
	b.refill(999_999)
	require.False(t, b.has(1))
	require.EqualValues(t, 1_000_000, b.due(1))
	b.refill(1_000_000)
	require.True(t, b.has(1))
	for _, later := range []int64{3 << 54, math.MaxInt64} { // times the number of starts, it overflows
		b = newBucket(Rate{Starts: RateLimit, Period: 24 * time.Hour}, 0)
		b.refill(later)
		require.True(t, b.has(1))
		require.False(t, b.has(2))
	}
}
