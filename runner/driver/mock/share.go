package mock

import (
	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Sharer = (*session)(nil)

// ReadKeys implements [driver.Sharer].
func (s *session) ReadKeys(keys driver.Keys) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.keys = keys
}

// told is the row of a job as this session reads it: the exception is that of a failure. The job is the
// caller's: a copy, or the world's while the caller holds its mutex.
func (s *session) told(j *Job) driver.Row {
	row := j.Row
	if !s.keys.Companies {
		row.Company = 0
	}
	if !s.keys.Identities {
		row.Identity = 0
	}
	if row.State != channels.Failed {
		row.Exception = ""
	}
	return row
}
