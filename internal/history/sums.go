package history

import (
	"time"
	"unicode/utf8"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// Outcome is how an attempt at a job ended.
type Outcome uint8

// The outcomes, in the order in which files have them.
const (
	Done Outcome = iota
	Failed
	Retried
	NotRun
	Rescued
	Gone
	outcomes
)

// outcomeOf is that of an event, false for one that ends no attempt.
func outcomeOf(kind runner.EventKind) (Outcome, bool) {
	switch kind {
	case runner.EventJobDone:
		return Done, true
	case runner.EventJobFailed:
		return Failed, true
	case runner.EventJobRetried:
		return Retried, true
	case runner.EventJobNotRun:
		return NotRun, true
	case runner.EventJobRescued:
		return Rescued, true
	case runner.EventJobGone:
		return Gone, true
	default:
		return 0, false
	}
}

// Series is what attempts have in common that are counted together.
type Series struct{ Database, Channel, Model, Method string }

// Function is the model and the method; empty if the database does not tell them.
func (s *Series) Function() string {
	switch {
	case s.Model == "":
		return s.Method
	case s.Method == "":
		return s.Model
	}
	return s.Model + "." + s.Method
}

const (
	// Other is the name under which attempts are counted that have no series of their own.
	Other = "other"
	// seriesLimit bounds the series of one interval, and seriesQuota those of one database, because
	// each name comes from a database that may belong to anyone.
	seriesLimit = 5000
	seriesQuota = 300
	// databaseLimit bounds the databases that have, beyond that, one series for what is folded.
	databaseLimit = 2000
	// nameLimit bounds the length of a name, in bytes. What is longer, or no UTF-8, is folded.
	nameLimit = 200
)

// permitted reports whether names can be kept.
func permitted(names ...string) bool {
	for _, name := range names {
		if len(name) > nameLimit || !utf8.ValidString(name) {
			return false
		}
	}
	return true
}

// Sums is what is known of the attempts of one series in one interval.
type Sums struct {
	// Outcomes counts attempts by [Outcome].
	Outcomes [outcomes]uint64
	// Wait is of the attempts that were sent: the time from a job's creation, or its eta, to its request.
	// Run is of those that ended done, failed or retried.
	Wait, Run Latencies
	// WaitTotal and RunTotal are sums of these times, RunMost the longest run.
	WaitTotal, RunTotal, RunMost time.Duration
}

// Attempts is how many ended.
func (s *Sums) Attempts() uint64 {
	total := uint64(0)
	for _, n := range s.Outcomes {
		total = plus(total, n)
	}
	return total
}

// Merge adds what another one knows.
func (s *Sums) Merge(o *Sums) {
	for i, n := range o.Outcomes {
		s.Outcomes[i] = plus(s.Outcomes[i], n)
	}
	s.Wait.merge(&o.Wait)
	s.Run.merge(&o.Run)
	s.WaitTotal = longer(s.WaitTotal, o.WaitTotal)
	s.RunTotal = longer(s.RunTotal, o.RunTotal)
	s.RunMost = max(s.RunMost, o.RunMost)
}

// longer adds and does not overflow.
func longer(a, b time.Duration) time.Duration {
	if sum := a + b; sum >= a {
		return sum
	}
	return 1<<63 - 1
}

// note is the end of one attempt.
type note struct {
	at      int64 // nanoseconds since the Unix epoch
	outcome Outcome
	series  Series
	// wait and run are 0 if they are not known.
	wait, run time.Duration
	priority  int32
	// exception is of what failed.
	exception string
}

func (s *Sums) add(n *note) {
	s.Outcomes[n.outcome]++
	if n.wait > 0 {
		s.Wait.Add(n.wait)
		s.WaitTotal = longer(s.WaitTotal, n.wait)
	}
	if n.run > 0 && n.outcome <= Retried {
		s.Run.Add(n.run)
		s.RunTotal = longer(s.RunTotal, n.run)
		s.RunMost = max(s.RunMost, n.run)
	}
}

// table is the series of one interval, of which there are never more than seriesLimit and databaseLimit.
type table struct {
	series map[Series]*Sums
	quota
	// attempts counts those that are in a series for the rest.
	attempts uint64

	failures failures
}

func newTable() *table {
	return &table{series: make(map[Series]*Sums), quota: quota{limit: seriesLimit, each: seriesQuota}}
}

// place returns the sums of a series, or of what it is folded into, and whether it was.
func (t *table) place(s Series) (sums *Sums, folded bool) {
	if sums = t.series[s]; sums != nil {
		return sums, s.rest()
	}
	at := s
	if folded = !t.admit(s, len(t.series)); folded {
		at = t.fold(s, func(rest Series) bool { return t.series[rest] != nil })
	}
	if t.series[at] == nil {
		t.series[at] = new(Sums)
	}
	return t.series[at], folded
}

func (t *table) add(n *note) {
	sums, folded := t.place(n.series)
	sums.add(n)
	if folded {
		t.attempts++
	}
	if n.outcome == Failed {
		t.failures.add(Failure{n.series, n.exception}, 1)
	}
}

// take adds what a block has, up to the first mistake in it, and returns how many attempts of that have
// lost their names before.
func (t *table) take(block []byte) (folded uint64, err error) {
	return decode(block, func(s Series, sums *Sums) {
		into, _ := t.place(s)
		into.Merge(sums)
	}, t.failures.add)
}

// merge adds the series of another table, in any order: what does not fit is folded.
func (t *table) merge(o *table) {
	for s, sums := range o.series {
		into, folded := t.place(s)
		into.Merge(sums)
		if folded && !s.rest() {
			t.attempts = plus(t.attempts, sums.Attempts())
		}
	}
	t.attempts = plus(t.attempts, o.attempts)
	t.failures.merge(&o.failures)
}
