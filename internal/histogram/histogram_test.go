package histogram

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	for name, c := range map[string]struct {
		counts []uint64
		share  float64
		want   float64
		ok     bool
	}{
		"nothing":                {[]uint64{0, 0, 0}, .5, 0, false},
		"all in the first":       {[]uint64{4, 0, 0}, 1, 1, true},
		"half of a bucket":       {[]uint64{0, 4, 0}, .5, math.Sqrt2, true},
		"all of a bucket":        {[]uint64{0, 4, 0}, 1, 2, true},
		"between buckets":        {[]uint64{2, 2, 0}, .5, 1, true},
		"the last":               {[]uint64{0, 0, 3}, 1, 4, true},
		"more than can be added": {[]uint64{0, math.MaxUint64, math.MaxUint64}, .5, 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Quantile(c.counts, 2, c.share)
			require.Equal(t, c.ok, ok)
			require.InDelta(t, c.want, got, 1e-9)
		})
	}
}
