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
