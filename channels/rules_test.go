package channels

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestGovernedManagerIsTheReference compares Manager with the reference model over random histories
// in which rules and capacities in percent come and go, jobs are given back, leaders change, and the
// clock is set back.
func TestGovernedManagerIsTheReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := &governed{comparison{m: NewManager(), ref: newReference(), now: 1000}}
		s.configure(t)
		s.govern(t)
		t.Repeat(map[string]func(*rapid.T){
			"":              s.check,
			"configure":     s.configure,
			"govern":        s.govern,
			"share":         s.shareRates,
			"resize":        s.resize,
			"set":           s.set,
			"set again":     s.set,
			"set the same":  s.setSame,
			"next":          s.next,
			"next later":    s.next,
			"clock set":     s.clockSet,
			"refund":        s.refund,
			"empty":         s.empty,
			"remove":        s.remove,
			"remove some":   s.removeSome,
			"suspend":       s.suspend,
			"resume":        s.resume,
			"snapshot same": s.snapshotSame,
		})
	})
}

type governed struct{ comparison }

var (
	drawWindow = rapid.Custom(func(t *rapid.T) Window {
		from := rapid.IntRange(0, 90).Draw(t, "from")
		to := rapid.IntRange(0, 90).Filter(func(to int) bool { return to != from }).Draw(t, "to")
		return Window{
			Capacity: rapid.IntRange(0, 3).Draw(t, "capacity"), Days: allDays, From: from, To: to, Zone: time.UTC,
		}
	})
	drawRate = rapid.Custom(func(t *rapid.T) Rate {
		return Rate{
			Starts: rapid.IntRange(1, 70).Draw(t, "starts"),
			Period: rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour}).Draw(t, "period"),
			Burst:  rapid.IntRange(0, 3).Draw(t, "burst"),
		}
	})
)

// drawRules gives some of the channels rules.
func drawRules(t *rapid.T) map[string]Rules {
	rules := make(map[string]Rules)
	for _, name := range []string{"root", "root.A", "root.A.x", "root.B", "root.auto", "root.auto.deep", "root.S"} {
		var r Rules
		switch rapid.IntRange(0, 4).Draw(t, "rules of "+name) {
		case 0:
			r.Windows = rapid.SliceOfN(drawWindow, 1, 2).Draw(t, "windows")
		case 1, 2:
			r.Rate = new(drawRate.Draw(t, "rate"))
		case 3:
			r.Windows, r.Rate = rapid.SliceOfN(drawWindow, 1, 2).Draw(t, "windows"), new(drawRate.Draw(t, "rate"))
		}
		r.WindowsOf, r.RateOf = "the policy", "the policy"
		if !r.empty() {
			rules[name] = r
		}
	}
	return rules
}

func (s *governed) govern(t *rapid.T) {
	rules := drawRules(t)
	s.m.Govern(func(channel string) Rules { return rules[channel] })
	if s.m.shares != nil {
		s.ref.gather()
	}
	s.ref.govern(rules)
}

// shareRates gives databases limits and rates.
func (s *governed) shareRates(t *rapid.T) {
	var shares Shares
	if rapid.IntRange(0, 5).Draw(t, "shares") > 0 {
		list := shareList(drawShares.Draw(t, "list"))
		for i := range list {
			if kind := rapid.IntRange(0, 2).Draw(t, "kind"); kind > 0 {
				rate := drawRate.Draw(t, "rate")
				rate.PerDatabase = true
				list[i].share.Rate = &rate
				if kind > 1 {
					list[i].share.Limit = 0
				}
			}
		}
		shares = list
	}
	s.apply(shares)
}

// configure may give capacities in percent.
func (s *governed) configure(t *rapid.T) {
	cfgs := drawConfigs.Draw(t, "configuration")
	for i := range cfgs {
		if cfgs[i].Name != "root" && !cfgs[i].Sequential && rapid.IntRange(0, 2).Draw(t, "percent") == 0 {
			cfgs[i].Capacity, cfgs[i].Percent = 0, rapid.IntRange(1, 100).Draw(t, "part")
		}
	}
	for i := range cfgs {
		if cfgs[i].Name == "root" && cfgs[i].Capacity > 0 {
			cfgs[i].Auto = rapid.Bool().Draw(t, "auto")
		}
	}
	before, told := s.m.wanted, s.m.shares != nil
	if s.m.Configure(cfgs) != nil {
		return
	}
	require.NoError(t, s.ref.configure(cfgs))
	if (told || s.m.shares != nil) && !maps.Equal(before, s.m.wanted) {
		s.ref.gather()
	}
}

// resize changes the capacity of root.
func (s *governed) resize(t *rapid.T) {
	if !s.m.wanted["root"].Auto || s.m.root.sequential {
		return // its capacity does not change
	}
	n := rapid.IntRange(1, 6).Draw(t, "capacity")
	s.m.Resize(n)
	s.ref.root.limits.capacity = n
	s.ref.recall(s.ref.shift(false))
}

func (s *governed) next(t *rapid.T) {
	s.now += rapid.SampledFrom([]int64{0, 1, 2, 4, 30, 60, 300, 3600}).Draw(t, "seconds later")
	wake := s.m.Wakeup()
	s.pass(t, s.m.Pending() || !wake.IsZero() && !wake.After(time.Unix(s.now, 0)))
}

// clockSet sets the clock back.
func (s *governed) clockSet(t *rapid.T) {
	s.now = max(s.now-rapid.SampledFrom([]int64{1, 60, 1800}).Draw(t, "seconds back"), 1000)
	s.pass(t, true)
}

func (s *governed) pass(t *rapid.T, due bool) {
	limit := rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "limit")
	now := time.Unix(s.now, 0)
	s.ref.advance(now.UnixMicro())
	keys := s.m.Next(now, limit)
	require.Equal(t, s.ref.next(now.UnixMicro(), limit), keys)
	require.True(t, due || len(keys) == 0, "neither Pending nor Wakeup announced this pass")
}

// refund gives a running job back.
func (s *governed) refund(t *rapid.T) {
	j, state := s.known(t)
	if !state.Running() {
		return
	}
	s.m.Refund(j.Key)
	s.ref.refund(j.Key)
	s.m.Set(j, Pending)
	s.ref.set(j, Pending)
}

func (s *governed) empty(*rapid.T) {
	now := time.Unix(s.now, 0)
	s.ref.advance(now.UnixMicro())
	s.m.EmptyBuckets(now)
	s.ref.empty()
	// Windows open and shut in passes only.
	s.m.Next(now, 1)
	s.ref.next(now.UnixMicro(), 1)
}

func (s *governed) check(t *rapid.T) {
	checkInvariants(t, s.m)
	s.checkShares(t)
	var lines []string
	for _, c := range s.m.Channels() {
		lines = append(lines, c.String())
	}
	slices.Sort(lines)
	require.Equal(t, s.ref.status(), lines)
	for j, state := range s.m.Jobs("") {
		require.Equal(t, s.ref.jobs[j.Key].state, state)
		s.checkExplanation(t, j.Key, state)
	}
}

// BenchmarkWindows: a window that opens or closes for all of very many channels.
func BenchmarkWindows(b *testing.B) {
	m := NewManager()
	windows := windowsOf(b, "0 mon-fri 08:00-20:00 Europe/Brussels", "1 sat,sun 08:00-20:00 Europe/Brussels")
	m.Govern(func(string) Rules { return Rules{Windows: windows} })
	for i := range 10_000 {
		m.Set(Job{Key: Key{DB: fmt.Sprint("db", i/1000), UUID: fmt.Sprint(i)}, ID: int64(i), Channel: fmt.Sprintf("root.c%d", i)}, Started)
	}
	now := time.Date(2026, 7, 10, 0, 0, 0, 0, time.UTC)
	for b.Loop() {
		m.Next(now, 0)
		now = m.Wakeup()
	}
}

// TestRateNeverExceeded: in no stretch of time do more jobs start than the burst and what the rate
// adds in it, whatever else holds jobs up; and while jobs wait and there is a slot, a token that is due
// is used.
func TestRateNeverExceeded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := drawRate.Draw(t, "rate")
		m := NewManager()
		capacity := rapid.IntRange(1, 5).Draw(t, "capacity")
		require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: capacity}}))
		m.Govern(func(channel string) Rules {
			if channel != "root.A" {
				return Rules{}
			}
			return Rules{Rate: &rate}
		})
		now, jobs := int64(1_000_000_000), 0
		var starts []int64
		var running []Key
		m.Next(time.UnixMicro(now), 0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "more jobs") {
				jobs++
				m.Set(Job{Key: Key{DB: "db", UUID: fmt.Sprint("job ", jobs)}, Channel: "root.A.x"}, Pending)
			}
			if len(running) > 0 && rapid.Bool().Draw(t, "one ends") {
				m.Remove(running[0])
				running = running[1:]
			}
			if wake := m.Wakeup(); !wake.IsZero() && rapid.Bool().Draw(t, "just in time") {
				now = max(now, wake.UnixMicro())
			} else {
				now += rapid.Int64Range(0, 3*rate.Period.Microseconds()/int64(rate.Starts)).Draw(t, "later")
			}
			keys := m.Next(time.UnixMicro(now), 0)
			running = append(running, keys...)
			for range keys {
				starts = append(starts, now)
			}
			if waiting := jobs - len(starts); waiting > 0 && len(running) < capacity {
				require.False(t, m.find("root.A").affords(), "a job waits, a slot is free, and there is a token")
			}
		}
		token := rate.Period.Microseconds()
		for i := range starts {
			for k := i; k < len(starts); k++ {
				allowed := int64(max(rate.Burst, 1))*token + (starts[k]-starts[i])*int64(rate.Starts)
				require.LessOrEqual(t, int64(k-i+1)*token, allowed, "%d jobs from %d to %d", k-i+1, starts[i], starts[k])
			}
		}
	})
}

// TestRulesOfDatabases plays random histories with a tree for each database, and rules and rates of some:
// nothing that may start waits for a pass that is not announced.
func TestRulesOfDatabases(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f, now := NewForest(), int64(1000)
		f.ConfigureDatabases(Capacities{Max: 3})
		f.Next(time.Unix(now, 0), 0)
		dbs := []string{"one", "two", "three"}
		draw := func() string { return rapid.SampledFrom(dbs).Draw(t, "database") }
		for _, db := range dbs {
			require.NoError(t, f.ConfigureDatabase(db, []Config{{Name: "root", Capacity: 4}, {Name: "root.A", Percent: 50}}))
		}
		running := map[Key]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				wake := f.Wakeup()
				if f.Pending() || !wake.IsZero() && !wake.After(time.Unix(now, 0)) {
					return
				}
				for _, tree := range f.trees {
					for j := range tree.Jobs("") {
						e, _ := f.Explain(j.Key, time.Unix(now, 0))
						require.NotEqual(t, ReasonReady, e.Reason, e.String())
					}
				}
			},
			"govern": func(t *rapid.T) {
				rules, of := drawRules(t), draw()
				f.Govern(func(db, channel string) Rules {
					if db != of {
						return Rules{}
					}
					return rules[channel]
				})
			},
			"share": func(t *rapid.T) {
				rate := drawRate.Draw(t, "rate")
				f.SetShares(shareList{{"root*", draw(), Share{Rate: &rate}}})
			},
			"set": func(t *rapid.T) {
				j := Job{Key: Key{DB: draw(), UUID: drawUUID.Draw(t, "uuid")}, Channel: drawChannel.Draw(t, "channel")}
				f.Set(j, Pending)
				delete(running, j.Key)
			},
			"next": func(t *rapid.T) {
				now += rapid.SampledFrom([]int64{0, 1, 2, 30, 60, 3600}).Draw(t, "seconds later")
				for _, k := range f.Next(time.Unix(now, 0), rapid.IntRange(0, 2).Draw(t, "limit")) {
					running[k] = true
				}
			},
			"end": func(*rapid.T) {
				for k := range running {
					f.Remove(k)
					delete(running, k)
				}
			},
			"refund": func(*rapid.T) {
				for k := range running {
					j, _, _ := f.Lookup(k)
					f.Refund(k)
					f.Set(j, Pending)
					delete(running, k)
				}
			},
			"empty": func(*rapid.T) { f.EmptyBuckets(time.Unix(now, 0)) },
		})
	})
}

// TestRefundOfTrees: a token that is given back serves the next job, and one of nobody is none.
func TestRefundOfTrees(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 9}, "root:9", "db")
	f.Govern(func(string, string) Rules { return Rules{Rate: &Rate{Starts: 1, Period: time.Minute}} })
	fill(f, "db", "", 2)
	require.Empty(t, f.Next(at(1000), 0))
	started := f.Next(at(1060), 0)
	require.Len(t, started, 1)
	j, _, _ := f.Lookup(started[0])
	f.Refund(key("unknown"))
	f.Refund(Key{"unknown", "x"})
	f.Set(j, Pending)
	require.Empty(t, f.Next(at(1060), 0))
	f.Refund(started[0])
	require.Equal(t, started, f.Next(at(1060), 0))
}
