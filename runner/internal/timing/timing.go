// Package timing has what everything with a timer needs: pauses that grow, pauses that can be
// interrupted, and deadlines that say what they were for.
package timing

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Backoff counts attempts and gives the pause before the next one: from First, doubled each time,
// up to Limit, each with 20 % of jitter so that many connections do not come back at the same
// moment.
type Backoff struct {
	First, Limit time.Duration
	// Attempts is how many there have been. Default: none.
	Attempts int
}

// Next counts an attempt and returns the pause after it.
func (b *Backoff) Next() time.Duration {
	d := b.Limit
	if b.Attempts < 16 {
		d = min(b.First<<b.Attempts, b.Limit)
	}
	b.Attempts++
	return Jitter(d)
}

// Reset begins anew with First.
func (b *Backoff) Reset() { b.Attempts = 0 }

// Jitter spreads d by up to 20 % in both directions.
func Jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// Sleep waits for d or the end of ctx; it reports whether d passed.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Within runs f with a deadline. The error says so if the deadline has passed.
func Within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d, late(d))
	defer cancel()
	err := f(ctx)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

// late is the error of a deadline that has passed. It is made for each, and said of few.
type late time.Duration

func (d late) Error() string { return "no result within " + time.Duration(d).String() }

// Earliest returns the first of several moments.
func Earliest(first time.Time, others ...time.Time) time.Time {
	for _, t := range others {
		if t.Before(first) {
			first = t
		}
	}
	return first
}
