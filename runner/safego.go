package runner

import (
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"time"

	"go.uber.org/zap"
)

// safely runs f and turns a panic into a log entry: a mistake here must never
// take the web server down (caddy.md 1.6). It reports whether f returned.
func safely(log func() *zap.Logger, name string, f func()) (returned bool) {
	defer func() {
		if r := recover(); r != nil {
			log().Error("panic in "+name, zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
		}
	}()
	f()
	return true
}

// backoff counts attempts and gives the pause before the next one: from first,
// doubled each time, up to limit, each with 20 % of jitter so that many
// sessions do not come back at the same moment.
type backoff struct {
	first, limit time.Duration
	attempts     int
}

func (b *backoff) next() time.Duration {
	d := b.limit
	if b.attempts < 16 {
		d = min(b.first<<b.attempts, b.limit)
	}
	b.attempts++
	return jitter(d)
}

func (b *backoff) reset() { b.attempts = 0 }

// jitter spreads d by up to 20 % in both directions.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// printable returns text of a row for a log message, quoted if it could break the
// line: encoders of log messages for terminals write it as it is.
func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
