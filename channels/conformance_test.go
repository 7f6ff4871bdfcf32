package channels

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The vectors are facts about the scheduler of OCA's runner. testdata holds a copy;
// JOBRUNNER_VECTORS names another folder, or one file, to read instead.
const vectorsVariable = "JOBRUNNER_VECTORS"

// doubledNames are the names that OCA's runner gives to channels it creates itself below a
// configured one: it appends the full path once more. Here they hang under their own name;
// scheduling is the same.
var doubledNames = map[string]string{
	"root.sub.sub.not.configured": "root.sub.not.configured",
}

func vectorFiles(t *testing.T, pattern string) []string {
	t.Helper()
	path := os.Getenv(vectorsVariable)
	if path == "" {
		path = "testdata"
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	if !info.IsDir() {
		if ok, _ := filepath.Match(pattern, filepath.Base(path)); ok {
			return []string{path}
		}
		return nil
	}
	files, err := filepath.Glob(filepath.Join(path, pattern))
	require.NoError(t, err)
	return files
}

type vectorCase struct {
	Name   string
	Config string
	Ops    []vectorOp
}

type vectorOp struct {
	Op       string
	DB       string
	Channel  string // null gives the empty name, which means root as well
	UUID     string
	Seq      int64
	Created  float64
	Priority int32 // null gives 0
	ETA      float64
	State    string
	Now      float64
	Expect   json.RawMessage
}

func TestConformance(t *testing.T) {
	histories, configs := vectorFiles(t, "*.jsonl"), vectorFiles(t, "config*.json")
	require.NotEmpty(t, append(histories, configs...), "no vectors found")
	for _, file := range histories {
		t.Run(filepath.Base(file), func(t *testing.T) { testHistories(t, file) })
	}
	for _, file := range configs {
		t.Run(filepath.Base(file), func(t *testing.T) { testConfigVectors(t, file) })
	}
}

func testHistories(t *testing.T, file string) {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var c vectorCase
		require.NoError(t, json.Unmarshal(lines.Bytes(), &c))
		t.Run(c.Name, func(t *testing.T) {
			m := NewManager()
			cfgs, _, err := ParseConfigs(c.Config)
			require.NoError(t, err)
			require.NoError(t, m.Configure(cfgs))
			for step, op := range c.Ops {
				got, want := runStep(t, m, op)
				if got != want {
					t.Fatalf("case %s, step %d (%s at %v)\n got %s\nwant %s", c.Name, step, op.Op, op.Now, got, want)
				}
				checkInvariants(t, m)
			}
		})
	}
	require.NoError(t, lines.Err())
}

func micros(seconds float64) int64 { return int64(math.Round(seconds * 1e6)) }

func at(seconds float64) time.Time { return time.UnixMicro(micros(seconds)) }

// runStep applies one operation and returns what it gave and should have given.
func runStep(t *testing.T, m *Manager, op vectorOp) (got, want string) {
	switch op.Op {
	case "notify":
		m.Set(Job{
			Key: Key{DB: op.DB, UUID: op.UUID}, Channel: op.Channel, ID: op.Seq,
			Priority: op.Priority, Created: micros(op.Created), ETA: micros(op.ETA),
		}, ParseState(op.State))
		return "", ""
	case "run":
		var uuids []string
		for _, k := range m.Next(at(op.Now), 0) {
			uuids = append(uuids, k.UUID)
		}
		return fmt.Sprint(uuids), fmt.Sprint(expected[[]string](t, op))
	case "wakeup":
		wake := 0.0
		if w := m.Wakeup(); !w.IsZero() {
			wake = float64(w.UnixMicro()) / 1e6
		}
		return fmt.Sprint(wake), fmt.Sprint(expected[float64](t, op))
	case "dump":
		return dump(m), strings.Join(withoutDropped(m, expected[[]string](t, op)), "\n")
	case "remove":
		// OCA's runner knows a job by its uuid alone.
		for j := range m.Jobs("") {
			if j.UUID == op.UUID {
				m.Remove(j.Key)
			}
		}
		return "", ""
	case "remove_db":
		m.RemoveDB(op.DB)
		return "", ""
	}
	t.Fatalf("unknown operation %q", op.Op)
	return "", ""
}

func expected[T any](t *testing.T, op vectorOp) (want T) {
	t.Helper()
	require.NoError(t, json.Unmarshal(op.Expect, &want))
	return want
}

// dump spells an unlimited capacity as the vectors do.
func dump(m *Manager) string {
	var lines []string
	for _, s := range m.Channels() {
		lines = append(lines, strings.Replace(s.String(), "∞", "inf", 1))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// withoutDropped sorts the lines of an expected dump and leaves out channels that OCA's runner
// created for a job and keeps for ever, while this Manager drops them with their last job. They are
// unlimited and empty.
func withoutDropped(m *Manager, lines []string) []string {
	lines = slices.DeleteFunc(lines, func(line string) bool {
		name, empty := strings.CutSuffix(line, "(C:inf,Q:0,R:0,F:0)")
		return empty && m.find(name) == nil
	})
	slices.Sort(lines)
	return lines
}

type configVectors struct {
	Parse []struct {
		Input  string
		Output []map[string]any
		Error  string
	}
	Configure []struct {
		Input    string
		Channels []channelVector
		Error    string
	}
	Lookup []struct {
		Name     string
		Opts     struct{ Autocreate, ParentFallback bool }
		Fullname string
		Error    string
	}
}

type channelVector struct {
	Name       string `json:"name"`
	Capacity   *int   `json:"capacity"`
	Sequential bool   `json:"sequential"`
	Throttle   int    `json:"throttle"`
}

func testConfigVectors(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var v configVectors
	require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(string(data), "parent_fallback", "parentfallback")), &v))
	for i, c := range v.Parse {
		entries, err := ParseConfig(c.Input)
		if c.Error != "" {
			want := strings.Replace(c.Error, "ValueError: Invalid", "invalid", 1)
			require.EqualError(t, err, want, "parse %d: %q", i, c.Input)
			continue
		}
		require.NoError(t, err, "parse %d: %q", i, c.Input)
		require.Equal(t, c.Output, entryMaps(entries), "parse %d: %q", i, c.Input)
	}
	for i, c := range v.Configure {
		m := NewManager()
		cfgs, _, err := ParseConfigs(c.Input)
		if err == nil {
			err = m.Configure(cfgs)
		}
		if c.Error != "" {
			require.Error(t, err, "configure %d: %q", i, c.Input)
			continue
		}
		require.NoError(t, err, "configure %d: %q", i, c.Input)
		require.Equal(t, c.Channels, channelVectors(m), "configure %d: %q", i, c.Input)
	}
	m := NewManager()
	for i, c := range v.Lookup {
		find := m.find
		if c.Opts.Autocreate || c.Opts.ParentFallback {
			find = m.channel
		}
		got := find(c.Name)
		if c.Error != "" {
			require.Nil(t, got, "lookup %d: %q", i, c.Name)
			continue
		}
		want := c.Fullname
		if own, ok := doubledNames[want]; ok {
			want = own
		}
		require.NotNil(t, got, "lookup %d: %q", i, c.Name)
		require.Equal(t, want, got.name, "lookup %d: %q", i, c.Name)
	}
}

// entryMaps gives entries the shape they have in the vectors.
func entryMaps(entries []Entry) []map[string]any {
	result := make([]map[string]any, 0)
	for _, e := range entries {
		fields := map[string]any{"name": e.Name, "capacity": float64(e.Capacity)}
		for _, o := range e.Options {
			fields[o.Key] = o.Value
			if o.Bare {
				fields[o.Key] = true
			}
		}
		result = append(result, fields)
	}
	return result
}

func channelVectors(m *Manager) []channelVector {
	var result []channelVector
	for _, s := range m.Channels() {
		c := channelVector{Name: s.FullName, Sequential: s.Sequential, Throttle: int(s.Throttle / time.Second)}
		if s.Configured || s.Capacity != 0 {
			c.Capacity = &s.Capacity
		}
		result = append(result, c)
	}
	return result
}

// checkInvariants recomputes everything that is derived.
// active counts the jobs that run in a channel and below it.
func active(m *Manager, c *channel) (n int) {
	for _, d := range m.dbs {
		d.each(func(r *record) bool {
			if name := r.home.channel.name; r.location == inRunning && (name == c.name || strings.HasPrefix(name, c.name+".")) {
				n++
			}
			return true
		})
	}
	return n
}

func checkInvariants(t require.TestingT, m *Manager) {
	own, running := make(map[*channel]int), make(map[*channel]int)
	queued, jobs := 0, 0
	homes := make(map[*home]int)
	names := 0
	for _, d := range m.dbs {
		seen, parked := 0, make(map[*home]int)
		d.each(func(r *record) bool {
			jobs++
			homes[r.home]++
			c := r.home.channel
			require.Same(t, c, m.find(r.home.name))
			require.Same(t, d, r.home.db)
			n := newName(r.key().UUID)
			require.Same(t, r, d.find(&n))
			if r.snapshot == d.snapshot {
				seen++
			}
			if r.parked() {
				parked[r.home]++
			}
			own[c]++
			checkPlace(t, r, running)
			if r.location != inRunning && !r.parked() {
				queued++
			}
			return true
		})
		require.Len(t, d.oddNames, len(d.odd))
		checkIdentities(t, d)
		require.Equal(t, seen, d.seen)
		levels, sharing := 0, 0
		for _, h := range d.homes {
			levels += h.levels
			if h.shared {
				sharing += h.jobs
			}
			require.Equal(t, h.jobs, homes[h])
			require.Equal(t, parked[h], h.ready.len()+h.eta.len())
			checkHeap(t, h.ready.items, readyOrder{})
			checkHeap(t, h.eta.items, etaOrder{})
			require.Positive(t, h.jobs)
		}
		require.Equal(t, levels, d.names)
		require.LessOrEqual(t, levels, m.names.each)
		require.Equal(t, sharing, d.sharing)
		require.Equal(t, d.unwanted || d.displaced, d.suspended)
		names += d.names
	}
	require.LessOrEqual(t, names, m.names.used, "many trees may share an allowance")
	require.LessOrEqual(t, m.names.used, m.names.all)
	require.Equal(t, m.Len(), jobs)

	var timers, dirty int
	for _, c := range m.root.tree(nil) {
		require.Equal(t, own[c], c.own, c.name)
		require.Equal(t, running[c], c.running, c.name)
		require.Equal(t, active(m, c), c.active, c.name)
		queued -= c.ready.len() + c.eta.len() + c.failed.len()
		checkChannel(t, m, c)
		if c.timer != never {
			timers++
		}
		if c.dirtyIndex >= 0 {
			dirty++
		}
	}
	require.Zero(t, queued, "every job that waits or failed is in exactly one heap")
	require.Equal(t, m.timers.len(), timers)
	require.Equal(t, m.dirtyCount, dirty)
	require.Equal(t, m.Pending(), dirty > 0)
	checkHeap(t, m.timers.items, timerOrder{})
}

func checkPlace(t require.TestingT, r *record, running map[*channel]int) {
	c := r.home.channel
	switch {
	case r.location == inRunning:
		require.True(t, r.state.Running())
		for ; c != nil; c = c.parent {
			running[c]++
		}
	case r.location == inFailed:
		require.Equal(t, Failed, r.state)
		require.Same(t, r, c.failed.items[r.index])
	case r.parked() && r.location == inETAQueue:
		require.Equal(t, Pending, r.state)
		require.NotZero(t, r.eta)
		require.Same(t, r, r.home.eta.items[r.index])
	case r.parked():
		require.Equal(t, Pending, r.state)
		require.Equal(t, inOwnQueue, r.location)
		require.Zero(t, r.eta)
		require.Same(t, r, r.home.ready.items[r.index])
	case r.location == inETAQueue:
		require.Equal(t, Pending, r.state)
		require.False(t, r.home.db.suspended)
		require.NotZero(t, r.eta)
		require.Same(t, r, c.eta.items[r.index])
	default:
		require.Equal(t, Pending, r.state)
		require.False(t, r.home.db.suspended)
		for range r.location {
			running[c]++
			c = c.parent
		}
		requireQueued(t, r, c)
	}
}

func checkChannel(t require.TestingT, m *Manager, c *channel) {
	checkTallies(t, m, c)
	checkTolls(t, m, c)
	_, listed := m.configured[c]
	require.Equal(t, listed, c.configured, c.name)
	require.True(t, c.parent == nil || c.configured || c.own > 0 || len(c.children) > 0, "%s is useless", c.name)
	if !c.configured {
		require.Equal(t, c.unconfigured(), c.limits, c.name)
	}
	checkHeap(t, c.ready.items, readyOrder{})
	if q := c.ready.shared; q != nil {
		require.Empty(t, c.ready.items)
		checkSharedQueue(t, m, q)
	}
	checkHeap(t, c.eta.items, etaOrder{})
	checkHeap(t, c.failed.items, readyOrder{})
	checkHeap(t, c.wakes.items, wakeOrder{})

	require.Equal(t, c.canYield(), c.dirtyIndex >= 0, c.name)
	if c.dirtyIndex >= 0 {
		require.Same(t, c, m.dirty[c.depth][c.dirtyIndex])
	}
	require.Equal(t, c.timer != never, c.timerIndex >= 0, c.name)
	require.Equal(t, slowWake(m, c), c.wake, c.name)
	if c.parent != nil {
		require.Equal(t, c.wake != never, c.wakeIndex >= 0, c.name)
		require.Same(t, c, c.parent.children[c.segment])
	}
}

// slowWake is docs/contract.md 2.6 without any heap, and then what rules and rates add to it.
func slowWake(m *Manager, c *channel) int64 {
	wake := ungovernedWake(m, c)
	free := c.pausedUntil == 0 && c.hasCapacity()
	if g := c.ruling; g != nil && free && g.Rate != nil {
		switch due := slowDue(m, &g.bucket, c.running-c.active+1); {
		case due <= m.clock.wall:
		case c.ready.len() > 0:
			wake = due // whatever comes up before cannot pass
		case wake != never:
			wake = max(wake, due)
		}
	}
	if g := c.ruling; g != nil && len(g.Windows) > 0 {
		if g.until <= m.clock.wall {
			return min(wake, g.until) // a pass is due, which finds out what is in force
		}
		change, _ := nextChange(g.Windows, time.UnixMicro(m.clock.wall))
		wake = min(wake, change.UnixMicro())
	}
	if c.tolls != nil && free {
		for _, t := range c.tolls.of {
			if t.toll.shut && len(t.waiting) > 0 {
				wake = min(wake, slowDue(m, &t.toll.bucket, t.running-t.toll.active+1))
			}
		}
	}
	return wake
}

// slowDue returns when a bucket will have so many tokens, if none is taken.
func slowDue(m *Manager, b *bucket, need int) int64 {
	if need > b.rate.Burst {
		return never
	}
	const horizon = 2 << 40 // microseconds, 25 days; a token takes a day at most
	return m.clock.wall + int64(sort.Search(horizon, func(later int) bool {
		since := m.clock.now + int64(later) - b.at
		return since/86_400_000_000 > int64(need) || b.level+since*int64(b.rate.Starts) >= int64(need)*b.rate.Period.Microseconds()
	}))
}

func ungovernedWake(m *Manager, c *channel) int64 {
	switch {
	case !c.hasCapacity():
		return never
	case c.pausedUntil != 0:
		return c.pausedUntil
	}
	wake := int64(never)
	for _, r := range c.eta.items {
		wake = min(wake, r.eta)
	}
	for child := range maps.Values(c.children) {
		wake = min(wake, slowWake(m, child))
	}
	return wake
}

func checkHeap[T any, O order[T]](t require.TestingT, items []T, o O) {
	for i := 1; i < len(items); i++ {
		require.False(t, o.before(items[i], items[(i-1)/2]))
	}
}
