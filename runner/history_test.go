package runner_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	histories = flag.Int("histories", 0, "how many `histories` TestHistories makes; 0 is what fits into make test")
	firstSeed = flag.Uint64("history-seed", 0, "the `seed` of the first history")
	shrink    = flag.Bool("history-shrink", true, "make a history that fails smaller")
	replay    = flag.String("history", "", "a history to run, as `JSON` from the output of a run that failed")
)

// historiesInTest is how many histories fit into the time of a run of all tests with the race detector.
const historiesInTest = 300

// history is a random sequence of what can happen, made of a seed. Whatever the seed did not decide,
// the jitter of the engine and the order of goroutines decide, so that a history may need a few runs
// to fail again.
type history struct {
	Seed uint64
	// Databases are the generations of the databases.
	Databases []generation
	Nodes     int
	Root, Sub int
	// Trees is set where each database has its own channels.
	Trees bool
	// Limited is set where jobs have a time limit, and Retried where those that were ended are tried
	// again.
	Limited, Retried bool
	// Crowded is set where one database at a time has a connection, and Drowsy where databases
	// without jobs sleep.
	Crowded, Drowsy bool
	// Broken is a database that is repaired last: the others must not need it. -1 is none.
	Broken int
	Steps  []historyStep
}

// generation is what a database does about two requests for one job.
type generation int

const (
	withLocks generation = iota
	withoutLocks
	unguarded
)

// historyStep is something that happens, and the time that passes afterwards. Dice decides what the
// other fields do not.
type historyStep struct {
	What     string
	DB, Node int
	Dice     uint64
	Wait     time.Duration
}

// Whatever happens, and in whatever order: no job runs twice at once by our doing, no channel exceeds
// its capacity, no slot is held that nothing justifies, and when it is over, every job ends and nothing
// is left behind.
func TestHistories(t *testing.T) {
	if *replay != "" {
		var h history
		if err := json.Unmarshal([]byte(*replay), &h); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := h.run(t); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	n := *histories
	if n == 0 {
		n = historiesInTest
	}
	var next atomic.Uint64
	var failed atomic.Bool
	began := time.Now()
	t.Run("workers", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for !failed.Load() {
					i := next.Add(1) - 1
					if i >= uint64(n) {
						return
					}
					h := newHistory(*firstSeed + i)
					if err := h.run(t); err != nil && failed.CompareAndSwap(false, true) {
						t.Errorf("history of seed %d, the %d. of this run: %v", h.Seed, i+1, err)
						if !*shrink {
							return
						}
						small, err := h.shrunk(t, err)
						t.Errorf("shrunk: %v\n%s", err, small)
					}
				}
			})
		}
	})
	t.Logf("%d histories in %s; the longest time in which nothing happened before all jobs had ended was %s", n,
		time.Since(began).Round(time.Millisecond), time.Duration(longestStill.Load()).Round(time.Second))
}

// The generator finds a mistake, and shrinks the history that shows it.
func TestHistoriesFindAndShrink(t *testing.T) {
	h := newHistory(1)
	h.Steps = append(h.Steps, historyStep{What: "test: nonsense", Wait: time.Second})
	err := h.run(t)
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Fatalf("not found: %v", err)
	}
	small, err := h.shrunk(t, err)
	if err == nil || len(small.Steps) != 1 {
		t.Fatalf("not shrunk: %s", small)
	}
}

// String is what a test prints: the steps, and the history for the flag.
func (h *history) String() string {
	var b strings.Builder
	for _, s := range h.Steps {
		fmt.Fprintf(&b, "  %s, database %d, node %d, dice %d, then %s\n", s.What, s.DB, s.Node, s.Dice, s.Wait)
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err.Error()
	}
	fmt.Fprintf(&b, "go test ./runner -run '^TestHistories$' -history '%s'", text)
	return b.String()
}

// newHistory makes a history of a seed.
func newHistory(seed uint64) *history {
	dice := rand.New(rand.NewPCG(seed, 18))
	h := &history{Seed: seed, Nodes: 1 + dice.IntN(2), Root: 1 + dice.IntN(4), Sub: 1 + dice.IntN(2), Trees: dice.IntN(4) == 0, Broken: -1}
	for range 1 + dice.IntN(3) {
		h.Databases = append(h.Databases, []generation{withLocks, withLocks, withoutLocks, unguarded}[dice.IntN(4)])
	}
	if len(h.Databases) > 1 && dice.IntN(2) == 0 {
		h.Broken = dice.IntN(len(h.Databases))
	}
	for range 4 + dice.IntN(16) {
		s := historyStep{
			What: whatHappens[dice.IntN(len(whatHappens))],
			DB:   dice.IntN(len(h.Databases)), Node: dice.IntN(h.Nodes), Dice: dice.Uint64(),
			Wait: time.Duration(dice.ExpFloat64() * float64(1500*time.Millisecond)).Truncate(time.Millisecond),
		}
		switch dice.IntN(8) {
		case 0:
			s.Wait = 0
		case 1:
			s.Wait *= 10
		}
		h.Steps = append(h.Steps, s)
	}
	h.Limited, h.Retried = dice.IntN(2) == 0, dice.IntN(2) == 0
	h.Crowded, h.Drowsy = dice.IntN(3) == 0, dice.IntN(3) == 0
	return h
}

// run runs it in a bubble. The error says what did not hold, with what had happened before.
func (h *history) run(t *testing.T) (err error) {
	t.Helper()
	synctest.Test(t, func(*testing.T) { err = newPlay(h).play() })
	return err
}

// shrinkRuns is how often a smaller history is run before it counts as one that does not fail.
const shrinkRuns = 4

// shrunk returns a smaller history that fails, and how.
func (h *history) shrunk(t *testing.T, err error) (*history, error) {
	t.Helper()
	fails := func(small *history) error {
		for range shrinkRuns {
			if err := small.run(t); err != nil {
				return err
			}
		}
		return nil
	}
	until := time.Now().Add(time.Minute)
	best := h
	try := func(change func(*history)) bool {
		small := *best
		small.Steps, small.Databases = slices.Clone(best.Steps), slices.Clone(best.Databases)
		change(&small)
		if time.Now().After(until) {
			return false
		}
		if e := fails(&small); e != nil {
			best, err = &small, e
			return true
		}
		return false
	}
	for size := len(best.Steps); size > 0; {
		done := false
		for at := 0; at < len(best.Steps); {
			if !try(func(h *history) { h.Steps = slices.Delete(h.Steps, at, min(at+size, len(h.Steps))) }) {
				at += size
				continue
			}
			done = true
		}
		if !done || size > 1 {
			size /= 2
		}
	}
	for i := range best.Steps {
		try(func(h *history) { h.Steps[i].Wait = 0 })
	}
	try(func(h *history) { h.Nodes = 1 })
	try(func(h *history) { h.Trees = false })
	try(func(h *history) { h.Limited = false })
	try(func(h *history) { h.Crowded = false })
	try(func(h *history) { h.Drowsy = false })
	return best, err
}

// chronicle is what happened, for the one who reads a failure.
type chronicle struct {
	mu    sync.Mutex // guards the following
	began time.Time
	lines []string
}

// full is set to keep the log of the engines, too.
var full = os.Getenv("JOBRUNNER_HISTORY_LOG") != ""

func (c *chronicle) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, fmt.Sprintf("%10s ", time.Since(c.began).Truncate(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (c *chronicle) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n")
}
