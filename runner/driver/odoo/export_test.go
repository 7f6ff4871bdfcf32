package odoo

// The limits of looks at jobs that wait.
const (
	ReleaseLimit      = releaseLimit
	ReleaseLimitOfOne = releaseLimitOfOne
	WaitingLimit      = waitingLimit
)
