package channels

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func mustWindow(t testing.TB, line string) Window {
	t.Helper()
	f := strings.Fields(line)
	w, err := ParseWindow(f[0], f[1], f[2], f[3])
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return w
}

func windowsOf(t testing.TB, lines ...string) (list []Window) {
	t.Helper()
	for _, line := range lines {
		list = append(list, mustWindow(t, line))
	}
	return list
}

func TestParseWindow(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"1 mon-fri 08:00-20:00 Europe/Brussels", ""},
		{"0 sat,sun 00:00-24:00 UTC", "0 sat-sun 00:00-24:00 UTC"},
		{"3 fri-mon 22:00-06:00 America/New_York", "3 mon,fri-sun 22:00-06:00 America/New_York"},
		{"3 MON,wed,Fri 22:00-00:00 Asia/Tokyo", "3 mon,wed,fri 22:00-00:00 Asia/Tokyo"},
		{"3 mon-sun 22:00-06:00 UTC", "3 daily 22:00-06:00 UTC"},
		{"3 sun 00:59-23:59 UTC", ""},
	} {
		want := c.want
		if want == "" {
			want = c.in
		}
		w := mustWindow(t, c.in)
		if got := w.String(); got != want {
			t.Errorf("%s: got %s, want %s", c.in, got, want)
		}
		if again := mustWindow(t, w.String()); again.String() != want {
			t.Errorf("%s: read again it is %s", w, again)
		}
	}
}

func TestParseWindowMistakes(t *testing.T) {
	for in, want := range map[string]string{
		"x mon 08:00-20:00 UTC":          "capacity",
		"-1 mon 08:00-20:00 UTC":         "capacity",
		"1.5 mon 08:00-20:00 UTC":        "capacity",
		"1 monday 08:00-20:00 UTC":       "days",
		"1 mon-fry 08:00-20:00 UTC":      "days",
		"1 mon, 08:00-20:00 UTC":         "days",
		"1 mon 08:00 UTC":                "hours",
		"1 mon 8:00-20:00 UTC":           "8:00",
		"1 mon 08:00-24:01 UTC":          "\"24:01\" is not a time",
		"1 mon 08:60-20:00 UTC":          "08:60",
		"1 mon 08:0x-20:00 UTC":          "08:0x",
		"1 mon +8:00-20:00 UTC":          "+8:00",
		"1 mon 24:00-08:00 UTC":          "within a day",
		"1 mon 08:00-08:00 UTC":          "whole day is 00:00-24:00",
		"1 mon 08:00-20:00 Local":        "time zone",
		"1 mon 08:00-20:00 CEST":         "time zone",
		"1 mon 08:00-20:00 ../etc/hosts": "time zone",
	} {
		f := strings.Fields(in)
		if _, err := ParseWindow(f[0], f[1], f[2], f[3]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want something about %s", in, err, want)
		}
	}
	if _, err := ParseWindow("1", "mon", "08:00-20:00", ""); err == nil {
		t.Error("no zone was accepted")
	}
	for _, days := range []Days{0, 1 << 7, 1<<7 | 1} {
		if err := (Window{Days: days, Zone: time.UTC, To: 60}).Validate(); err == nil || !strings.Contains(err.Error(), "without days") {
			t.Errorf("days %b: %v", days, err)
		}
	}
}

// TestWindowExamples is what a person expects, written down by hand.
func TestWindowExamples(t *testing.T) {
	for _, c := range []struct{ line, open, shut string }{
		// An overnight window is that of the day on which it opens: Friday's goes on into Saturday.
		{"0 fri 22:00-06:00 Europe/Brussels", "2026-07-03T20:00:00Z", "2026-07-04T04:00:00Z"},
		// 02:30 does not exist on 29 March: the first instant that does is 03:00, or 01:00 UTC.
		{"0 sun 02:30-05:00 Europe/Brussels", "2026-03-29T01:00:00Z", "2026-03-29T03:00:00Z"},
		// It exists twice on 25 October; the first time counts, at 00:30 UTC.
		{"0 sun 02:30-05:00 Europe/Brussels", "2026-10-25T00:30:00Z", "2026-10-25T04:00:00Z"},
		{"0 sun 01:00-02:30 Europe/Brussels", "2026-10-24T23:00:00Z", "2026-10-25T00:30:00Z"},
		// Half an hour is what Lord Howe puts its clocks forward, at 02:00 on 4 October.
		{"0 sun 02:15-03:00 Australia/Lord_Howe", "2026-10-03T15:30:00Z", "2026-10-03T16:00:00Z"},
		{"0 daily 00:00-24:00 America/St_Johns", "2026-06-01T02:30:00Z", ""},
	} {
		w := mustWindow(t, c.line)
		open, err := time.Parse(time.RFC3339, c.open)
		if err != nil {
			t.Fatal(err)
		}
		if before := open.Add(-time.Microsecond); c.shut != "" && (w.open(before) || !w.edge(before).Equal(open)) {
			t.Errorf("%s is open before %s, or opens at %s", w, open, w.edge(before))
		}
		if !w.open(open) {
			t.Errorf("%s is shut at %s", w, open)
		}
		if c.shut == "" {
			continue
		}
		if got := w.edge(open).UTC().Format(time.RFC3339); got != c.shut {
			t.Errorf("%s closes at %s, want %s", w, got, c.shut)
		}
		if w.open(w.edge(open)) {
			t.Errorf("%s is open when it has closed", w)
		}
	}
}

// TestWindowGap: a window that lies in the hour that does not exist never opens that day.
func TestWindowGap(t *testing.T) {
	w := mustWindow(t, "0 daily 02:10-02:50 Europe/Brussels")
	for minute := range 24 * 60 {
		at := time.Date(2026, 3, 28, 23, minute, 0, 0, time.UTC)
		if w.open(at) {
			t.Fatalf("%s is open at %s", w, at)
		}
	}
}

// TestWindowSkippedDay: the clocks of Samoa had no 30 December 2011.
func TestWindowSkippedDay(t *testing.T) {
	w := mustWindow(t, "0 fri 08:00-20:00 Pacific/Apia")
	for hour := range 72 {
		at := time.Date(2011, 12, 29, hour, 0, 0, 0, time.UTC)
		if w.open(at) {
			t.Fatalf("%s is open at %s", w, at.In(w.Zone))
		}
	}
}

// TestWindowsReference goes through the minutes of a year in zones with every kind of rule, and
// compares with what the clocks show then.
func TestWindowsReference(t *testing.T) {
	for _, zone := range []string{
		"UTC", "Europe/Brussels", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Asia/Kolkata",
		"Pacific/Chatham", "Africa/Casablanca", "America/St_Johns", "Europe/Dublin", "Pacific/Kiritimati", "Asia/Gaza",
		"America/Nuuk", "Africa/Cairo", "Antarctica/Troll",
	} {
		t.Run(strings.ReplaceAll(zone, "/", "_"), func(t *testing.T) {
			t.Parallel()
			windows := windowsOf(t,
				"1 mon-fri 08:00-20:00 "+zone,
				"2 sat,sun 01:30-02:30 "+zone,
				"3 daily 00:10-03:10 "+zone,
				"4 fri 22:00-06:00 "+zone,
				"5 sun 02:45-02:15 "+zone,
				"6 wed 00:00-24:00 "+zone,
			)
			compareYear(t, windows, 2026)
		})
	}
}

// compareYear does it for one list of windows.
func compareYear(t *testing.T, windows []Window, year int) {
	t.Helper()
	begin := time.Date(year-1, 12, 28, 0, 0, 0, 0, time.UTC)
	minutes := int(time.Date(year+1, 1, 4, 0, 0, 0, 0, time.UTC).Sub(begin) / time.Minute)
	clocks := make([]int, minutes) // what they show at each minute, in minutes since 1970
	for minute := range clocks {
		at := begin.Add(time.Duration(minute) * time.Minute)
		_, offset := at.In(windows[0].Zone).Zone()
		clocks[minute] = int(at.Unix()+int64(offset)) / 60
	}
	open := make([][]bool, len(windows))
	for i := range windows {
		open[i] = slowlyOpen(&windows[i], clocks)
	}
	of := func(minute int) int { // the window in force
		for i := range open {
			if open[i][minute] {
				return i
			}
		}
		return -1
	}
	const margin = 3 * minutesOfDay // what began before is not known
	next, expected := time.Time{}, -1
	for minute := margin; minute < minutes-margin; minute++ {
		now := begin.Add(time.Duration(minute) * time.Minute)
		want := of(minute)
		if minute > margin && want != of(minute-1) && !next.Equal(now) {
			t.Fatalf("it changes at %s from window %d to %d, not at %s", now, of(minute-1), want, next)
		}
		if !now.Before(next) {
			got := inForce(windows, now)
			if want < 0 && got != nil || want >= 0 && got != &windows[want] {
				t.Fatalf("at %s window %v is in force, want number %d", now.In(windows[0].Zone), got, want)
			}
			if expected == want && !next.IsZero() {
				t.Fatalf("nothing changes at %s", now)
			}
			next, _ = nextChange(windows, now)
			expected = want
		}
	}
}

// slowlyOpen goes through the minutes and notes when the clocks first show a time, or a later one.
func slowlyOpen(w *Window, clocks []int) []bool {
	to := w.To
	if to < w.From {
		to += minutesOfDay
	}
	open := make([]bool, len(clocks))
	latest := 0
	opens := make(map[int]int) // by day, the minute
	for minute, shown := range clocks {
		latest = max(latest, shown)
		today := latest / minutesOfDay
		for day := today - 1; day <= today; day++ {
			if w.Days&(1<<((day+4)%7)) == 0 { // 1970 began on a Thursday
				continue
			}
			if _, ok := opens[day]; !ok && latest >= day*minutesOfDay+w.From {
				opens[day] = minute
			}
			if from, ok := opens[day]; ok && minute >= from && latest < day*minutesOfDay+to {
				open[minute] = true
			}
		}
	}
	return open
}

// TestWindowOfAWeek: the next change is found on whatever day of the week it is looked for.
func TestWindowOfAWeek(t *testing.T) {
	t.Parallel()
	windows := windowsOf(t, "1 sat 10:00-11:00 Europe/Brussels")
	begin := brussels(t, "2026-07-11 11:00:00") // a Saturday
	opens := brussels(t, "2026-07-18 10:00:00")
	for now := begin; now.Before(opens); now = now.Add(time.Hour) {
		at, changes := nextChange(windows, now)
		require.True(t, changes)
		require.Equal(t, opens.UTC(), at.UTC(), now)
		require.Nil(t, inForce(windows, now))
	}
	at, changes := nextChange(windows, opens)
	require.True(t, changes)
	require.Equal(t, opens.Add(time.Hour).UTC(), at.UTC())
}

// TestWindowCallsBack: what has passed a channel and waits further up does not start when a window has shut
// the channel meanwhile.
func TestWindowCallsBack(t *testing.T) {
	t.Parallel()
	m := loaded(t, 0, 1, "root:1")
	m.Govern(func(channel string) (r Rules) {
		if channel == "root.x" {
			r.Windows = windowsOf(t, "0 daily 10:00-11:00 Europe/Brussels")
		}
		return r
	})
	m.Set(Job{Key: key("runs"), ID: 1}, Started)
	m.Set(Job{Key: key("a"), Channel: "x", ID: 2}, Pending)
	require.Empty(t, m.Next(brussels(t, "2026-07-10 09:59:59"), 0))
	require.Equal(t, 1, m.root.ready.len())
	require.Empty(t, m.Next(brussels(t, "2026-07-10 10:00:00"), 0))
	require.Zero(t, m.root.ready.len())
	m.Remove(key("runs"))
	require.Empty(t, m.Next(brussels(t, "2026-07-10 10:59:59"), 0))
	require.Equal(t, []Key{key("a")}, m.Next(brussels(t, "2026-07-10 11:00:00"), 0))
}

// TestWindowOfPercents: where nothing but parts of capacities is configured, they follow a window, too.
func TestWindowOfPercents(t *testing.T) {
	t.Parallel()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "a", Percent: 50}}))
	m.Govern(func(channel string) (r Rules) {
		if channel == "root" {
			r.Windows = windowsOf(t, "10 daily 10:00-11:00 Europe/Brussels")
		}
		return r
	})
	m.Next(brussels(t, "2026-07-10 10:30:00"), 0)
	require.Equal(t, 5, m.find("root.a").slots())
}
