package channels

import "time"

// Config configures one channel.
type Config struct {
	// Name is the full name; "root" may be left out.
	Name string
	// Capacity is the number of jobs that may run at once in the channel and
	// below it. 0 is unlimited; a negative capacity never has room.
	Capacity int
	// Sequential lets one job run after the other and stops at a failed one.
	// It requires capacity 1.
	Sequential bool
	// Throttle is the least time between two jobs that leave the channel. Default: none.
	Throttle time.Duration
	// Paused channels yield nothing, and neither does what is below them.
	Paused bool
}
