// Package histogram reads times that were counted by bucket, each so many times as long as the one before.
package histogram

import "math"

// Quantile returns what a share of the times, 0 to 1, does not exceed, as a multiple of the upper bound of
// the first bucket; false if nothing was counted. ratio is that of the bounds of two neighbours. Within a
// bucket it goes by ratio, as if that were filled evenly; the last one has no bound and counts like the
// others.
func Quantile[N uint32 | uint64](counts []N, ratio, share float64) (multiple float64, ok bool) {
	total := 0.0
	for _, n := range counts {
		total += float64(n)
	}
	if total == 0 {
		return 0, false
	}
	rank, seen := share*total, 0.0
	i := 0
	for ; i < len(counts)-1 && seen+float64(counts[i]) < rank; i++ {
		seen += float64(counts[i])
	}
	part := min((rank-seen)/float64(max(counts[i], 1)), 1)
	return math.Pow(ratio, float64(i)-1+part), true
}
