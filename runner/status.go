package runner

import (
	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// DatabaseState is how far a database is from being served.
type DatabaseState uint8

const (
	// DatabaseConnecting: a connection is being made.
	DatabaseConnecting DatabaseState = iota
	// DatabaseUnreachable: the last connection failed; it is tried again.
	DatabaseUnreachable
	// DatabaseUndetected: there is nothing to run, and no connection is kept.
	DatabaseUndetected
	// DatabaseUnhealthy: the add-on is there but cannot be served now.
	DatabaseUnhealthy
	// DatabaseStandby: another runner serves it.
	DatabaseStandby
	// DatabaseLoading: its jobs are being read.
	DatabaseLoading
	// DatabaseReady: its jobs are run.
	DatabaseReady
	// DatabaseHeld: its jobs wait, because Odoo did not run the last ones.
	DatabaseHeld
	// DatabaseYielding: somebody drops, renames or copies it.
	DatabaseYielding
)

var databaseStateNames = [...]string{
	DatabaseConnecting:  "connecting",
	DatabaseUnreachable: "unreachable",
	DatabaseUndetected:  "undetected",
	DatabaseUnhealthy:   "unhealthy",
	DatabaseStandby:     "standby",
	DatabaseLoading:     "loading",
	DatabaseReady:       "ready",
	DatabaseHeld:        "held",
	DatabaseYielding:    "yielding",
}

// String returns the word.
func (s DatabaseState) String() string {
	if int(s) < len(databaseStateNames) {
		return databaseStateNames[s]
	}
	return "invalid"
}

// Status is what a runner is doing.
type Status struct {
	// Leader is true when this process leads the runner, and may claim jobs.
	Leader bool
	// LeaderDetail says who leads instead, or why it is not known.
	LeaderDetail string
	Databases    []DatabaseStatus
	Upstreams    []UpstreamStatus
	Channels     []channels.Status
	// Claiming, Open and Watched count the tasks being claimed, those whose
	// request is open, and those that run without a request of ours.
	Claiming, Open, Watched int
}

// DatabaseStatus is what is known of one database.
type DatabaseStatus struct {
	Name   string
	State  DatabaseState
	Detail string
	// Fingerprint is what the driver found last.
	Fingerprint driver.Fingerprint
}
