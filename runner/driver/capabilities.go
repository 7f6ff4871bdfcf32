package driver

// Capabilities are what a driver can do beyond [Driver], and how it wants its application to be
// called.
type Capabilities struct {
	// Application is the name of what runs the tasks, as log lines and reasons spell it, for
	// example "Odoo". It must not be empty.
	Application string

	// DatabaseChannels is set when sessions implement [ChannelReader], so that each database can
	// have its own channel tree. Default: false, a configuration that wants that is refused.
	DatabaseChannels bool

	// Operations is set when the driver implements [Operator], so that jobs can be listed and
	// changed by hand. Default: false, they cannot.
	Operations bool

	// Examination is set when the driver implements [Examiner]. Default: false, those who set a
	// runner up learn no more than what a [Fingerprint] says.
	Examination bool

	// Stopping is set when sessions implement [Stopper], so that attempts that run can be ended.
	// Default: false, a configuration that wants that is refused.
	Stopping bool

	// Upgrades is set when sessions implement [Upgrader], so that nothing is started while the
	// application is being changed. Default: false, a configuration that wants that is refused.
	Upgrades bool

	// Releases is set when sessions implement [Releaser], so that tasks are released that a worker has
	// left waiting. Default: false, a configuration that wants that is refused.
	Releases bool

	// Quarantine is set when sessions implement [Quarantiner], so that jobs that do harm can be
	// failed. Default: false, a configuration that wants that is refused.
	Quarantine bool

	// VacantClaims is set when sessions implement [VacantClaimer], so that a task for which a slot is
	// free is claimed by the statement that reads it. Default: false, it takes two.
	VacantClaims bool

	// Companies is set when sessions implement [Sharer], so that the jobs of a company can be counted.
	// Default: false, a configuration that wants that is refused.
	Companies bool

	// Identities is set when sessions implement [Sharer], so that jobs with one identity key can be
	// kept from running at the same time. Default: false, a configuration that wants that is refused.
	Identities bool

	// Poolers is set when the driver implements [PoolDriver], so that sessions can go through a
	// connection pooler. Default: false, a configuration that wants that is refused.
	Poolers bool
}

// AsOperator returns the driver's operations, and false if it does not declare or does not have
// them.
func AsOperator(d Driver) (Operator, bool) {
	if !d.Capabilities().Operations {
		return nil, false
	}
	o, ok := d.(Operator)
	return o, ok
}

// AsExaminer returns the driver's examination, and false if it does not declare or does not have
// it.
func AsExaminer(d Driver) (Examiner, bool) {
	if !d.Capabilities().Examination {
		return nil, false
	}
	x, ok := d.(Examiner)
	return x, ok
}
