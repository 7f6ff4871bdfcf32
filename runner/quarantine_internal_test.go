package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each mistake has its sentence, and what is at a limit is none.
func TestQuarantineMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		q    Quarantine
		want string
	}{
		{Quarantine{Attempts: 0, Within: time.Hour}, "the number of attempts must be between 1 and 100"},
		{Quarantine{Attempts: 101, Within: time.Hour}, "the number of attempts must be between 1 and 100"},
		{Quarantine{Attempts: 1, Within: time.Minute}, ""},
		{Quarantine{Attempts: 100, Within: time.Minute}, ""},
		{Quarantine{Attempts: 3}, "the time within which attempts count is missing"},
		{Quarantine{Attempts: 3, Within: 72}, `the time must be at least 1m, it is 72ns; write it with a unit, such as "72h", because a bare number counts nanoseconds in JSON`},
		{Quarantine{Attempts: 3, Within: time.Millisecond - 1}, `the time must be at least 1m, it is 999.999µs; write it with a unit, such as "72h", because a bare number counts nanoseconds in JSON`},
		{Quarantine{Attempts: 3, Within: time.Millisecond}, "the time must be at least 1m, it is 1ms"},
		{Quarantine{Attempts: 3, Within: time.Minute - 1}, "the time must be at least 1m, it is 59.999999999s"},
		{Quarantine{Attempts: 3, Within: -time.Hour}, "the time must be at least 1m, it is -1h"},
	} {
		err := c.q.Validate()
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, c.want)
	}
}
