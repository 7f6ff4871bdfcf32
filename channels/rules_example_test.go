package channels

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// requireWritten compares with the document that has the examples, in which lines are wrapped.
func requireWritten(t *testing.T, words string) {
	t.Helper()
	requireWrittenIn(t, "docs/policies-rates.md", words)
}

func requireWrittenIn(t *testing.T, document, words string) {
	t.Helper()
	text, err := os.ReadFile("../" + document)
	require.NoError(t, err)
	require.Contains(t, strings.Join(strings.Fields(string(text)), " "), words)
}

// brussels reads a time as the clocks of Brussels show it in the example.
func brussels(t *testing.T, s string) time.Time {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Brussels")
	require.NoError(t, err)
	at, err := time.ParseInLocation(time.DateTime, s, zone)
	require.NoError(t, err)
	return at
}

// documented is the configuration at the top of the document.
func documented(t *testing.T) *Manager {
	t.Helper()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 8}, {Name: "root.export", Capacity: 4}, {Name: "root.mail", Capacity: 4}}))
	lines := []string{"0 mon-fri 08:00-20:00 Europe/Brussels", "1 sat,sun 08:00-20:00 Europe/Brussels"}
	for _, line := range append([]string{"rate 100/h burst 20"}, lines...) {
		requireWritten(t, line)
	}
	rate, err := ParseRate("100/h")
	require.NoError(t, err)
	rate.Burst = 20
	m.Govern(func(channel string) Rules {
		return map[string]Rules{
			"root.export": {Windows: windowsOf(t, lines...), WindowsOf: "policy root.export"},
			"root.mail":   {Rate: &rate, RateOf: "policy root.mail"},
		}[channel]
	})
	return m
}

// enqueue makes jobs wait in a channel.
func enqueue(m *Manager, channel string, n int) {
	for i := range n {
		m.Set(Job{Key: Key{DB: "prod", UUID: fmt.Sprint(channel, " ", i)}, ID: int64(i), Channel: channel}, Pending)
	}
}

// saidOf returns the reason of a job of a channel, and the sentence without its beginning.
func saidOf(t *testing.T, m *Manager, channel string, i int, now time.Time) (reason, sentence string) {
	t.Helper()
	e, ok := m.Explain(Key{DB: "prod", UUID: fmt.Sprint(channel, " ", i)}, now)
	require.True(t, ok)
	_, sentence, _ = strings.Cut(e.String(), " waits: ")
	return e.Reason.String(), sentence
}

// TestExampleOfWindows: exports that take half an hour each.
func TestExampleOfWindows(t *testing.T) {
	for _, c := range []struct {
		queued string
		starts []string // when, and how many
		at     string
		reason string
		says   string
	}{
		{
			"2026-07-10 19:00:00", []string{"07-10 20:00 4", "07-10 20:30 4", "07-10 21:00 2"}, "2026-07-10 19:00:00", "capacity_window",
			"policy root.export lets no job of channel root.export start until Fri 10 Jul 20:00 Europe/Brussels",
		},
		{
			"2026-07-11 07:45:00", []string{"07-11 07:45 4", "07-11 08:15 1", "07-11 08:45 1", "07-11 09:15 1"}, "2026-07-11 08:15:00", "capacity_window",
			"policy root.export lets 1 job of channel root.export run at once until Sat 11 Jul 20:00 Europe/Brussels (1 running)",
		},
	} {
		m := documented(t)
		now := brussels(t, c.queued)
		enqueue(m, "root.export", 10)
		ends := map[string]time.Time{}
		var starts []string
		for len(starts) < len(c.starts) {
			for uuid, end := range ends {
				if !end.After(now) {
					m.Remove(Key{DB: "prod", UUID: uuid})
					delete(ends, uuid)
				}
			}
			keys := m.Next(now, 0)
			for _, k := range keys {
				ends[k.UUID] = now.Add(30 * time.Minute)
			}
			if len(keys) > 0 {
				starts = append(starts, now.Format("01-02 15:04 ")+fmt.Sprint(len(keys)))
			}
			if now.Equal(brussels(t, c.at)) {
				reason, says := saidOf(t, m, "root.export", 9, now)
				require.Equal(t, c.reason, reason)
				require.Equal(t, c.says, says[:min(len(says), len(c.says))])
				requireWritten(t, c.says)
			}
			now = now.Add(time.Minute)
		}
		require.Equal(t, c.starts, starts)
	}
}

// TestExampleOfRate: mails that are sent at once.
func TestExampleOfRate(t *testing.T) {
	m := documented(t)
	begin := brussels(t, "2026-07-10 12:00:00")
	var starts []time.Time
	run := func(from, to time.Duration) {
		for later := from; later <= to; later += time.Second {
			now := begin.Add(later)
			for keys := m.Next(now, 0); len(keys) > 0; keys = m.Next(now, 0) {
				for _, k := range keys {
					starts = append(starts, now)
					m.Remove(k)
				}
			}
		}
	}
	enqueue(m, "root.mail", 30)
	run(0, 10*time.Second)
	reason, says := saidOf(t, m, "root.mail", 1, begin.Add(10*time.Second))
	require.Equal(t, "rate", reason)
	require.Equal(t, "policy root.mail lets 100 jobs in an hour, 20 of them at once, of channel root.mail start, and this one not before 2026-07-10T10:01:12Z, and 1 job goes before it", says)
	requireWritten(t, says)
	run(11*time.Second, time.Hour-time.Second)
	require.Len(t, starts, 30)
	for i, at := range starts {
		require.Equal(t, begin.Add(time.Duration(i+1)*36*time.Second), at)
	}
	require.Equal(t, begin.Add(18*time.Minute), starts[29])
	enqueue(m, "root.mail", 50)
	run(time.Hour, 2*time.Hour)
	require.Len(t, starts, 30+50)
	require.Equal(t, begin.Add(time.Hour), starts[30+19], "20 at once")
	require.Equal(t, begin.Add(time.Hour+36*time.Second), starts[30+20])
}

// TestExampleOfRatePerDatabase: with a job of prod_a behind a slot that others need.
func TestExampleOfRatePerDatabase(t *testing.T) {
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 8}, {Name: "root.mail", Capacity: 2}}))
	begin := brussels(t, "2026-07-10 12:00:00")
	m.Next(begin, 0)
	all := &Rate{Starts: 100, Period: time.Minute}
	m.Govern(func(channel string) Rules {
		if channel != "root.mail" {
			return Rules{}
		}
		return Rules{Rate: all, RateOf: "policy root.mail"}
	})
	m.SetShares(shareList{{"root.mail", "prod_*", Share{Rate: &Rate{Starts: 10, Period: time.Minute, Burst: 5, PerDatabase: true}}}})
	requireWritten(t, "rate 10/m burst 5 per database")
	addTo(m, "prod_a", "root.mail", "a1", "a2", "a3", "a4", "a5", "a6")
	addTo(m, "prod_b", "root.mail", "b1")
	started := map[string]string{}
	for later := time.Duration(0); later < time.Minute; later += 100 * time.Millisecond {
		now := begin.Add(later)
		for _, k := range m.Next(now, 0) {
			started[k.UUID] = now.Truncate(time.Second).Format(time.TimeOnly)
			m.Remove(k)
		}
		if later == 7*time.Second {
			e, _ := m.Explain(Key{DB: "prod_a", UUID: "a3"}, now)
			require.Equal(t, ReasonRate, e.Reason)
			require.Equal(t, begin.Add(18*time.Second), e.Until.In(begin.Location()))
		}
	}
	require.Equal(t, map[string]string{
		"a1": "12:00:06", "b1": "12:00:06", "a2": "12:00:12", "a3": "12:00:18", "a4": "12:00:24", "a5": "12:00:30", "a6": "12:00:36",
	}, started)
	for _, words := range []string{"| 12:00:06 | the first mails", "| 12:00:12 | the second", "| 12:00:36 | the sixth", "not before 12:00:18"} {
		requireWritten(t, words)
	}
}

// TestExampleOfPercent: by day and by night.
func TestExampleOfPercent(t *testing.T) {
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 8}, {Name: "root.mail", Percent: 25}, {Name: "root.mail.bulk", Percent: 50}}))
	const line = "16 daily 20:00-06:00 Europe/Brussels"
	requireWritten(t, "capacity "+line)
	m.Govern(func(channel string) (r Rules) {
		if channel == "root" {
			r.Windows = windowsOf(t, line)
		}
		return r
	})
	slots := map[string][]int{}
	for _, now := range []string{"2026-07-10 19:59:59", "2026-07-10 20:00:00", "2026-07-11 05:59:59", "2026-07-11 06:00:00"} {
		m.Next(brussels(t, now), 0)
		for _, c := range m.Channels() {
			slots[c.FullName] = append(slots[c.FullName], m.find(c.FullName).slots())
		}
	}
	for name, want := range map[string][]int{"root": {8, 16}, "root.mail": {2, 4}, "root.mail.bulk": {1, 2}} {
		require.Equal(t, []int{want[0], want[1], want[1], want[0]}, slots[name], name)
		requireWritten(t, fmt.Sprintf("| `%s` | %d | %d |", name, want[0], want[1]))
	}
}

// TestExampleOfAuto: three servers with five jobs each, and then two.
func TestExampleOfAuto(t *testing.T) {
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 15, Auto: true}, {Name: "root.mail", Percent: 25}}))
	requireWrittenIn(t, "docs/policies-servers.md", "| three that are up | 15 | 3 |")
	require.Equal(t, 3, m.find("root.mail").slots())
	m.Resize(10)
	requireWrittenIn(t, "docs/policies-servers.md", "more than 30 seconds | 10 | 2 |")
	require.Equal(t, 10, m.root.slots())
	require.Equal(t, 2, m.find("root.mail").slots())
}

// TestExamplesOfClocks: the table of times around changes of the clocks.
func TestExamplesOfClocks(t *testing.T) {
	for _, c := range []struct{ line, open, shut string }{
		{"0 fri 22:00-06:00 Europe/Brussels", "2026-07-03 22:00", "2026-07-04 06:00"},
		{"0 sun 02:30-05:00 Europe/Brussels", "2026-03-29 03:00", "2026-03-29 05:00"},
		{"0 sun 02:30-05:00 Europe/Brussels", "2026-10-25 02:30", "2026-10-25 05:00"},
		{"0 sun 01:00-02:30 Europe/Brussels", "2026-10-25 01:00", "2026-10-25 02:30"},
	} {
		requireWritten(t, fmt.Sprintf("| `%s` | %s | %s |", c.line, c.open, c.shut))
		w := mustWindow(t, c.line)
		open := w.edge(brussels(t, c.open+":00").Add(-10 * time.Hour))
		require.Equal(t, c.open, open.In(w.Zone).Format("2006-01-02 15:04"))
		require.Equal(t, c.shut, w.edge(open).In(w.Zone).Format("2006-01-02 15:04"))
	}
}
