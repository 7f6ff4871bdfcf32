package channels

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestConfigAtItsLimits: what is at a limit is no mistake, and what is beyond it is.
func TestConfigAtItsLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config  Config
		mistake string
	}{
		{Config{Name: "a", Percent: 1}, ""},
		{Config{Name: "a", Percent: 100}, ""},
		{Config{Name: "a", Percent: -1}, "must be 1% to 100%"},
		{Config{Name: "a", Percent: 101}, "must be 1% to 100%"},
		{Config{Name: "a", Percent: 1, Capacity: 1}, "exclude each other"},
		{Config{Name: "root", Percent: 1}, "no parent"},
		{Config{Name: "root", Capacity: 1, Auto: true}, ""},
		{Config{Name: "root", Auto: true}, "at least 1"},
		{Config{Name: "a", Capacity: 1, Auto: true}, "only root"},
		{Config{Name: "a", Capacity: 2, Min: 2}, ""},
		{Config{Name: "a", Capacity: 2, Min: 3}, "more than its capacity"},
		{Config{Name: "a", Min: 3}, ""},
		{Config{Name: "a", Min: -1}, "must not be negative"},
		{Config{Name: "root", Min: 1}, "there is none"},
		{Config{Name: "a", Capacity: 1, Sequential: true}, ""},
		{Config{Name: "a", Capacity: 2, Sequential: true}, "must have a capacity of 1"},
		{Config{Name: "root", Capacity: 1, Auto: true, Sequential: true}, "must have a capacity of 1"},
		{Config{Name: "a", CapacityDefault: 1, SequentialDefault: true}, ""},
		{Config{Name: "a", SequentialDefault: true}, "requires a capacity_default of 1"},
	} {
		err := c.config.Validate()
		if c.mistake == "" {
			require.NoError(t, err, "%+v", c.config)
		} else {
			require.ErrorContains(t, err, c.mistake, "%+v", c.config)
		}
	}
}

// TestPercentOfAChannelThatIsNotConfigured: root has a capacity all the same, and so has a channel whose
// parent hands one out.
func TestPercentOfAChannelThatIsNotConfigured(t *testing.T) {
	t.Parallel()
	half := Config{Name: "a.b", Percent: 50}
	require.NoError(t, NewManager().Configure([]Config{{Name: "a", Percent: 50}}))
	require.NoError(t, NewManager().Configure([]Config{{Name: "root", Capacity: 4, CapacityDefault: 2}, half}))
	require.ErrorContains(t, NewManager().Configure([]Config{half}), "50% of the capacity of root.a, which has no limit")
}

// TestResize: only a root that is Auto changes its capacity so, and where each database has its own tree,
// none does.
func TestResize(t *testing.T) {
	t.Parallel()
	for _, auto := range []bool{false, true} {
		f := NewForest()
		require.NoError(t, f.Configure([]Config{{Name: "root", Capacity: 4, Auto: auto}}))
		for _, c := range []struct{ to, want int }{{1, 1}, {0, 1}, {-1, 1}, {9, 9}} {
			f.Resize(c.to)
			if !auto {
				c.want = 4
			}
			require.Equal(t, c.want, f.shared.root.slots())
		}
		f.ConfigureDatabases(Capacities{Max: 3})
		f.Resize(2)
		require.Equal(t, 3, f.capacities.Max)
	}
}
