package supervisor

// StopGrace is how long an engine may take beyond its time.
const StopGrace = stopGrace

// New returns a supervisor outside the process's pool.
func New(exiting func() bool) *Supervisor {
	s := newSupervisor()
	s.exiting = exiting
	return s
}

// Lock keeps everything that asks the supervisor waiting until the returned function is called.
func Lock(s *Supervisor) (unlock func()) {
	s.mu.Lock()
	return s.mu.Unlock
}
