package history

import (
	"math"
	"math/bits"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/histogram"
)

const (
	// A time falls into one of latencyBuckets, each 2^(1/latencyParts) times as long as the one before,
	// from latencyLeast on: up to seven weeks.
	latencyBuckets = 96
	latencyParts   = 3
	latencyLeast   = time.Millisecond
)

// latencyRatio is how many times as long a bucket is as the one before.
var latencyRatio = math.Exp2(1. / latencyParts)

// Latencies counts times by bucket. Whatever the number of times, it has the same size.
type Latencies [latencyBuckets]uint64

// bucket returns where a time belongs.
func bucket(d time.Duration) int {
	i := int(math.Ceil(latencyParts * math.Log2(float64(max(d, latencyLeast))/float64(latencyLeast))))
	return min(i, latencyBuckets-1)
}

// Add counts a time.
func (l *Latencies) Add(d time.Duration) { l[bucket(d)]++ }

// merge adds what another one has counted.
func (l *Latencies) merge(o *Latencies) {
	for i, n := range o {
		l[i] = plus(l[i], n)
	}
}

// Quantile returns the time that a share of them, 0 to 1, does not exceed; false if there are none. It is
// off by a quarter at most, which is how wide a bucket is.
func (l *Latencies) Quantile(share float64) (time.Duration, bool) {
	multiple, ok := histogram.Quantile(l[:], latencyRatio, share)
	return time.Duration(float64(latencyLeast) * multiple), ok
}

// Above is how many of them were longer than a time, as far as the buckets tell: those of the time's own
// bucket count as shorter.
func (l *Latencies) Above(d time.Duration) uint64 {
	total := uint64(0)
	for _, n := range l[bucket(d)+1:] {
		total = plus(total, n)
	}
	return total
}

// plus adds and does not overflow: what is read from a file can be anything.
func plus(a, b uint64) uint64 {
	sum, carry := bits.Add64(a, b, 0)
	if carry != 0 {
		return math.MaxUint64
	}
	return sum
}
