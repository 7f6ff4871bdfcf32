package driver

// Follower is implemented by sessions that depend on settings of their driver. A session outlives
// the configuration under which it was opened: before each [Session.Fingerprint] and
// [Session.Probe] it is told which driver is in force now. It is optional, and needs no declaration.
type Follower interface {
	Follow(d Driver)
}
