package channels

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClocksThatAreSet: that the clocks of the system have been set is noticed once, beyond a little, and
// that time goes by is not taken for it.
func TestClocksThatAreSet(t *testing.T) {
	t.Parallel()
	var k clock
	now := time.Unix(1_700_000_000, 0)
	k.set(now)
	require.True(t, k.stepped(), "there was no time before")
	for _, goes := range []time.Duration{0, time.Hour, time.Second} {
		now = now.Add(goes)
		k.set(now)
		require.False(t, k.stepped(), goes)
	}
	require.Equal(t, now.UnixMicro()+5, k.wallAt(k.now+5))
	for _, step := range []int64{clockStep, -clockStep} {
		k.wall += step
		require.False(t, k.stepped(), step)
		k.wall += step / clockStep
		require.True(t, k.stepped(), step)
		require.False(t, k.stepped(), step)
	}
	k.set(now.Add(-time.Hour))
	require.True(t, k.stepped())
}

// TestSchedulesAreKept: what windows mean is found out when it may have changed, and when the clocks have
// been set, but not each time.
func TestSchedulesAreKept(t *testing.T) {
	t.Parallel()
	var k clock
	night := windowsOf(t, "2 daily 00:00-06:00 UTC")
	midnight := time.Unix(1_700_006_400, 0)
	of := func(at time.Time) schedule {
		k.set(at)
		k.stepped()
		return k.schedule(night)
	}
	first := of(midnight)
	require.Same(t, &night[0], first.window)
	require.Equal(t, first, of(midnight.Add(6*time.Hour-time.Microsecond)))
	day := of(midnight.Add(6 * time.Hour))
	require.Nil(t, day.window)
	require.Equal(t, day, of(midnight.Add(7*time.Hour)))
	require.Same(t, &night[0], of(midnight.Add(24*time.Hour)).window)
	require.Nil(t, of(midnight.Add(12*time.Hour)).window, "the clocks have been put back")
	back := of(midnight.Add(12*time.Hour - 10*time.Millisecond))
	require.Equal(t, midnight.Add(12*time.Hour-10*time.Millisecond).UnixMicro(), back.from, "by a little")
}
