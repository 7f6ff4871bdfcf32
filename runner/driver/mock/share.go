package mock

import "github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"

var _ driver.Sharer = (*session)(nil)

// ReadCompanies implements [driver.Sharer]. Rows tell the company always.
func (s *session) ReadCompanies(bool) {}
