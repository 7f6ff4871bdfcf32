package runner

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// retryFirst and retryLimit bound the pause before a job is sent again that was answered for
	// without having been run.
	retryFirst = time.Second
	retryLimit = time.Minute
	// skipFirst and skipLimit bound the pause before a job is claimed again whose row was locked.
	skipFirst = 100 * time.Millisecond
	skipLimit = 5 * time.Second
)

// delays are the pauses of jobs whose last attempts came to nothing.
type delays map[channels.Key]delay

// delay is the pause of a job before its next attempt.
type delay struct {
	// attempts counts those in a row that came to nothing.
	attempts int
	// until is the end of the pause, in microseconds since the Unix epoch.
	until int64
}

// add counts an attempt that came to nothing and keeps the job back for a while.
func (d delays) add(key channels.Key, first, limit time.Duration) {
	b := timing.Backoff{First: first, Limit: limit, Attempts: d[key].attempts}
	until := time.Now().Add(b.Next())
	d[key] = delay{attempts: b.Attempts, until: until.UnixMicro()}
}

// postpone makes a delayed job wait, whatever brings its row.
func (d delays) postpone(row *driver.Row) {
	if d, ok := d[row.Key]; ok && row.State == channels.Pending {
		row.ETA = max(row.ETA, d.until)
	}
}
