package channels

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFullByAWindow: a window is the reason only where the channel would have a slot without it.
func TestFullByAWindow(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		own     int
		window  string
		running bool
		want    Reason
		words   string
	}{
		"fewer than its own": {2, "1", true, ReasonWindow, "lets 1 job of channel root.x run at once until Fri 10 Jul 11:00 Europe/Brussels (1 running)"},
		"as many":            {1, "1", true, ReasonChannelFull, "channel root.x is full (1 running, capacity 1)"},
		"without its own":    {0, "1", true, ReasonWindow, "run at once"},
		"none":               {1, "0", true, ReasonWindow, "lets no job of channel root.x start until Fri 10 Jul 11:00 Europe/Brussels (1 running)"},
		"none, and none did": {1, "0", false, ReasonWindow, "lets no job of channel root.x start until Fri 10 Jul 11:00 Europe/Brussels"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := NewManager()
			require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 9}, {Name: "x", Capacity: c.own}}))
			m.Govern(func(channel string) (r Rules) {
				if channel == "root.x" {
					r.Windows = windowsOf(t, c.window+" daily 10:00-11:00 Europe/Brussels")
				}
				return r
			})
			if c.running {
				m.Set(Job{Key: key("runs"), Channel: "x", ID: 1}, Started)
			}
			m.Set(Job{Key: key("job"), Channel: "x", ID: 2}, Pending)
			now := brussels(t, "2026-07-10 10:30:00")
			require.Empty(t, m.Next(now, 0))
			e, _ := m.Explain(key("job"), now)
			require.Equal(t, c.want, e.Reason)
			require.Contains(t, e.String(), c.words)
			if !c.running {
				require.NotContains(t, e.String(), "running")
			}
		})
	}
}

// TestTokensInAStatus: what has passed a channel counts against its tokens before it starts, and the next
// token is told unless there is no room for one.
func TestTokensInAStatus(t *testing.T) {
	t.Parallel()
	m := loaded(t, 0, 1, "root:1")
	m.Next(at(1000), 0)
	m.Govern(func(channel string) (r Rules) {
		if channel == "root.x" {
			r.Rate = &Rate{Starts: 1, Period: time.Minute, Burst: 3}
		}
		return r
	})
	m.Set(Job{Key: key("runs"), Channel: "x", ID: 1}, Started) // it has paid
	m.Set(Job{Key: key("a"), Channel: "x", ID: 2}, Failed)
	tokens := func(now float64, want int, next float64) {
		t.Helper()
		require.Empty(t, m.Next(at(now), 0))
		st, ok := m.Channel("x")
		require.True(t, ok)
		require.False(t, st.Windows)
		require.Equal(t, want, st.Tokens)
		if next == 0 {
			require.Zero(t, st.NextToken)
			return
		}
		require.Equal(t, at(next).UTC(), st.NextToken)
	}
	tokens(1000, 0, 1060)
	tokens(1060, 1, 1120)
	m.Set(Job{Key: key("a"), Channel: "x", ID: 2}, Pending)
	tokens(1061, 0, 1120)
	m.Set(Job{Key: key("a"), Channel: "x", ID: 2}, Failed)
	tokens(1120, 2, 1180)
	tokens(1200, 3, 0)
}

// TestRatedAfterAStart: what has started has paid for itself.
func TestRatedAfterAStart(t *testing.T) {
	t.Parallel()
	m := loaded(t, 0, 1, "root:9")
	m.Next(at(1000), 0)
	m.Govern(func(string) Rules { return Rules{Rate: &Rate{Starts: 1, Period: time.Minute}} })
	addTo(m, "db", "", "a", "b")
	require.Len(t, m.Next(at(1060), 0), 1)
	e, _ := m.Explain(key("b"), at(1060))
	require.Equal(t, ReasonRate, e.Reason)
	require.Equal(t, at(1120).UTC(), e.Until)
}

// TestRatesInWords: as a person would say them.
func TestRatesInWords(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]Rate{
		"1 job in a second": {Starts: 1, Period: time.Second, Burst: 1}, "2 jobs in a minute": {Starts: 2, Period: time.Minute},
		"3 jobs in an hour, 2 of them at once,": {Starts: 3, Period: time.Hour, Burst: 2},
		"4 jobs of each database in a day":      {Starts: 4, Period: 24 * time.Hour, PerDatabase: true},
		"5 jobs in 1m30s":                       {Starts: 5, Period: 90 * time.Second},
	} {
		require.Equal(t, want, r.spell())
	}
}

// TestLimitedBy: a policy is named where jobs are queued that it holds back.
func TestLimitedBy(t *testing.T) {
	t.Parallel()
	window, rate := &Window{Capacity: 2}, &Rate{Starts: 1, Period: time.Second}
	for _, c := range []struct {
		status Status
		by     string
		until  time.Time
	}{
		{Status{Rated: 1, RatedUntil: at(1)}, "rate", at(1)},
		{Status{Queued: 1}, "", time.Time{}},
		{Status{Window: window, Running: 2, WindowUntil: at(2)}, "", time.Time{}},
		{Status{Queued: 1, Window: window, Running: 2, WindowUntil: at(2)}, "window", at(2)},
		{Status{Queued: 1, Window: window, Running: 3, WindowUntil: at(2)}, "window", at(2)},
		{Status{Queued: 1, Window: window, Running: 1, WindowUntil: at(2)}, "", time.Time{}},
		{Status{Queued: 1, Rate: rate, NextToken: at(3)}, "rate", at(3)},
		{Status{Queued: 1, Rate: rate, Tokens: 1, NextToken: at(3)}, "", time.Time{}},
	} {
		by, until := c.status.LimitedBy()
		require.Equal(t, c.by, by, "%+v", c.status)
		require.Equal(t, c.until, until, "%+v", c.status)
	}
}

// TestStatusOfWindows: the status is right although no pass has come since another window is in force, and
// knows no end of one that has none.
func TestStatusOfWindows(t *testing.T) {
	t.Parallel()
	m := loaded(t, 0, 1, "root:1")
	m.Govern(func(channel string) (r Rules) {
		switch channel {
		case "root.x":
			r.Windows = windowsOf(t, "0 daily 10:00-11:00 Europe/Brussels")
		case "root.never":
			r.Windows = windowsOf(t, "0 daily 00:00-24:00 Europe/Brussels")
		}
		return r
	})
	m.Set(Job{Key: key("a"), Channel: "x"}, Started)
	m.Set(Job{Key: key("b"), Channel: "never"}, Started)
	m.Next(brussels(t, "2026-07-10 09:59:00"), 0)
	require.Nil(t, statusOf(m, "root.x").Window)
	require.Equal(t, brussels(t, "2026-07-10 10:00:00").UTC(), statusOf(m, "root.x").WindowUntil)
	m.Observe(brussels(t, "2026-07-10 10:00:00"))
	require.NotNil(t, statusOf(m, "root.x").Window)
	require.Equal(t, brussels(t, "2026-07-10 11:00:00").UTC(), statusOf(m, "root.x").WindowUntil)
	require.NotNil(t, statusOf(m, "root.never").Window)
	require.Zero(t, statusOf(m, "root.never").WindowUntil)
}
