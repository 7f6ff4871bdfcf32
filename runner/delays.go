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
	// stray is set if a request for one of them may still be read, because its connection broke. It runs
	// the job if it is read once the job has been claimed anew; the next request is answered then.
	stray bool
}

// add counts an attempt that came to nothing and keeps the job back for a while.
func (d delays) add(key channels.Key, first, limit time.Duration) {
	b := timing.Backoff{First: first, Limit: limit, Attempts: d[key].attempts}
	until := time.Now().Add(b.Next())
	d[key] = delay{attempts: b.Attempts, until: until.UnixMicro(), stray: d[key].stray}
}

// strays notes that a request for the job may still be read.
func (d delays) strays(key channels.Key) {
	delay := d[key]
	delay.stray = true
	d[key] = delay
}

// postpone makes a delayed job wait, whatever brings its row.
func (d delays) postpone(row *driver.Row) {
	if d, ok := d[row.Key]; ok && row.State == channels.Pending {
		row.ETA = max(row.ETA, d.until)
	}
}
