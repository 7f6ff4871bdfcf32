package channels

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate limits how many jobs of a channel, and of those below it, start in a time: a token bucket. It
// is empty in the beginning.
type Rate struct {
	// Starts is how many may start in each Period, evenly spread. At most RateLimit.
	Starts int
	// Period is 1 s to 24 h.
	Period time.Duration
	// Burst is how many may start at once after a time in which none has. Default: 1. At most
	// RateLimit.
	Burst int
	// PerDatabase counts the jobs of each database separately. Only a [Share] has such a rate.
	PerDatabase bool
}

// RateLimit bounds the numbers of a [Rate].
const RateLimit = 1_000_000

var ratePeriods = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// ParseRate reads how many jobs may start in a second, a minute, an hour or a day: `5/s`, `100/h`.
func ParseRate(s string) (r Rate, err error) {
	number, unit, _ := strings.Cut(s, "/")
	starts, err := strconv.ParseUint(number, 10, 32)
	period, ok := ratePeriods[unit]
	if err != nil || !ok {
		return r, fmt.Errorf("rate %q: write it like 5/s, 10/m, 100/h or 1000/d", s)
	}
	r = Rate{Starts: int(starts), Period: period}
	return r, r.Validate()
}

// Validate reports what makes the rate meaningless.
func (r Rate) Validate() error {
	switch {
	case r.Starts < 1 || r.Starts > RateLimit:
		return fmt.Errorf("a rate of %d jobs: it must be 1 to %d", r.Starts, RateLimit)
	case r.Period < time.Second || r.Period > 24*time.Hour:
		return fmt.Errorf("a rate by %s: it must be 1s to 24h", r.Period)
	case r.Burst < 0 || r.Burst > RateLimit:
		return fmt.Errorf("a burst of %d: it must be 1 to %d", r.Burst, RateLimit)
	}
	return nil
}

// String returns the rate as a policy has it: 100/h burst 20.
func (r Rate) String() string {
	s := fmt.Sprintf("%d/%s", r.Starts, r.Period)
	for unit, period := range ratePeriods {
		if period == r.Period {
			s = fmt.Sprintf("%d/%s", r.Starts, unit)
		}
	}
	if r.Burst > 1 {
		s += fmt.Sprintf(" burst %d", r.Burst)
	}
	if r.PerDatabase {
		s += " per database"
	}
	return s
}

// bucket holds the tokens of a rate. Its numbers are whole, so that no token is lost or won by
// rounding: each microsecond adds as many parts as jobs may start in a period, and a token has as many
// parts as the period has microseconds.
type bucket struct {
	rate  Rate
	level int64 // in parts
	at    int64 // of the steady clock, when it was that full
}

// newBucket returns one that was empty at a time of the steady clock.
func newBucket(rate Rate, empty int64) bucket {
	rate.Burst = max(rate.Burst, 1)
	return bucket{rate: rate, at: empty}
}

func (b *bucket) token() int64 { return b.rate.Period.Microseconds() }
func (b *bucket) full() int64  { return int64(b.rate.Burst) * b.token() }

// refill adds what has come until a time.
func (b *bucket) refill(steady int64) {
	if steady <= b.at {
		return
	}
	n := int64(b.rate.Starts)
	if missing := b.full() - b.level; steady-b.at >= missing/n+1 {
		b.level += missing
	} else {
		b.level = min(b.level+(steady-b.at)*n, b.full())
	}
	b.at = steady
}

// has reports whether there are so many tokens.
func (b *bucket) has(tokens int) bool { return b.level >= int64(tokens)*b.token() }

// due returns when there will be.
func (b *bucket) due(tokens int) int64 {
	n := int64(b.rate.Starts)
	return b.at + max(int64(tokens)*b.token()-b.level+n-1, 0)/n
}

// add adds tokens, or takes them if their number is negative.
func (b *bucket) add(tokens int) { b.level = min(b.level+int64(tokens)*b.token(), b.full()) }

// become returns the bucket of another rate. Whole tokens stay what they are, as many as fit.
func (b *bucket) become(rate Rate, steady int64) bucket {
	fresh := newBucket(rate, steady)
	if fresh.rate == b.rate {
		return *b
	}
	b.refill(steady)
	fresh.level = min(max(b.level, 0)/b.token()*fresh.token(), fresh.full())
	return fresh
}
