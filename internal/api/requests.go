package api

import "time"

// Actor is the part that the bodies of all actions have.
type Actor struct {
	// Runner is the runner's name. It may be left out if there is only one.
	Runner string `json:"runner,omitempty"`
	// By is who the client says it acts for, Note why. Both are one line of up to
	// 200 bytes.
	By   string `json:"by,omitempty"`
	Note string `json:"note,omitempty"`
}

// PauseRequest is the body of POST /jobrunner/pause and /jobrunner/resume.
type PauseRequest struct {
	Actor
	// Database, Channel or All say what: exactly one of them.
	Database string `json:"database,omitempty"`
	Channel  string `json:"channel,omitempty"`
	All      bool   `json:"all,omitempty"`
	// For, a duration such as 90s, 36h or 2d, or Until end the pause by itself.
	// Resume takes neither.
	For   string    `json:"for,omitempty"`
	Until time.Time `json:"until,omitzero"`
}

// DrainRequest is the body of POST /jobrunner/drain and /jobrunner/undrain.
type DrainRequest struct {
	Actor
	// Upstream is the server's name as GET /jobrunner/upstreams lists it.
	Upstream string `json:"upstream"`
}

// JobFilter is the part of a request that selects jobs.
type JobFilter struct {
	Database string `json:"database,omitempty"`
	// UUIDs may be cut to their first letters, as long as they select one job each.
	UUIDs  []string `json:"uuids,omitempty"`
	States []string `json:"states,omitempty"`
	// Channel selects those of the channels below it, too.
	Channel   string `json:"channel,omitempty"`
	Exception string `json:"exception,omitempty"`
	// OlderThan and NewerThan are durations such as 90s, 36h or 2d, since a job was created.
	OlderThan string `json:"older_than,omitempty"`
	NewerThan string `json:"newer_than,omitempty"`
	// Function is what a job calls: model and method with a dot between them, or one of the two.
	Function string `json:"function,omitempty"`
	// Name is a part of the job's description, in any case of letters.
	Name string `json:"name,omitempty"`
	// Identity is the exact identity key.
	Identity string `json:"identity,omitempty"`
}

// ChangeRequest is the body of the actions on jobs: POST /jobrunner/requeue,
// /jobrunner/cancel, /jobrunner/set-done and /jobrunner/postpone.
type ChangeRequest struct {
	Actor
	JobFilter
	// All is required to select jobs by nothing at all.
	All bool `json:"all,omitempty"`
	// Limit bounds the number of jobs; 0 means all that match.
	Limit int `json:"limit,omitempty"`
	// DryRun only counts.
	DryRun bool `json:"dry_run,omitempty"`
	// Until or For, a duration, are the new eta of postponed jobs. No other action
	// takes them.
	Until time.Time `json:"until,omitzero"`
	For   string    `json:"for,omitempty"`
}

// CapacityRequest is the body of the dashboard's POST capacity.
type CapacityRequest struct {
	Actor
	// Channel is one that the configuration names.
	Channel string `json:"channel"`
	// Capacity is how many of its jobs may run at once, at least 1.
	Capacity int `json:"capacity"`
	// DryRun only tells what would be changed.
	DryRun bool `json:"dry_run,omitempty"`
}

// ResyncRequest is the body of POST /jobrunner/resync.
type ResyncRequest struct {
	Actor
	// Database is one, empty for all.
	Database string `json:"database,omitempty"`
}
