package api

// The fields of the answers are in the order of their names, as they always were.

// Statuses is the answer of GET /jobrunner/status.
type Statuses struct {
	Runners []Status `json:"runners"`
}

// Databases is the answer of GET /jobrunner/databases: a page of them.
type Databases struct {
	Databases []Database `json:"databases"`
	Rest
}

// Channels is the answer of GET /jobrunner/channels: a page of them.
type Channels struct {
	Channels []Channel `json:"channels"`
	Rest
}

// Upstreams is the answer of GET /jobrunner/upstreams.
type Upstreams struct {
	Upstreams []Upstream `json:"upstreams"`
}

// Tasks is the answer of GET /jobrunner/tasks: a page of them.
type Tasks struct {
	Tasks []Task `json:"tasks"`
	Rest
}

// Rest is what follows a page of a list.
type Rest struct {
	// More is how many there are after those of the page. Next is the offset of the next page, 0 on
	// the last one.
	More int `json:"more,omitempty"`
	Next int `json:"next_offset,omitempty"`
}

// JobPage is the answer of GET /jobrunner/jobs.
type JobPage struct {
	Jobs []Job `json:"jobs"`
	// Next is the cursor of the next page, empty on the last one.
	Next string `json:"next,omitempty"`
	// Partial is set when the page ended before it was full, because looking for jobs took its time:
	// there may be more, and Next goes on.
	Partial bool `json:"partial,omitempty"`
	// Left counts the databases that Next goes on with.
	Left int `json:"databases_left,omitempty"`
	// Problems are the databases that could not be read.
	Problems []string `json:"problems,omitempty"`
	// Warning says, where nothing was found, that there is no such channel.
	Warning string `json:"warning,omitempty"`
}

// Liveness is the answer of GET /jobrunner/live.
type Liveness struct {
	Live bool `json:"live"`
}

// Readiness is the answer of GET /jobrunner/ready, with status 200 if Ready is
// set, else with 503.
type Readiness struct {
	// Problems says why not.
	Problems []string `json:"problems,omitempty"`
	Ready    bool     `json:"ready"`
	// State is the worst of the runners: ready, degraded or not_ready.
	State string `json:"state"`
}

// OrderAnswer is the answer to pause, resume, drain and undrain.
type OrderAnswer struct {
	// Changed is 0 if everything was already as ordered.
	Changed int     `json:"changed"`
	Drains  []Drain `json:"drains"`
	Pauses  []Pause `json:"pauses"`
	Runner  string  `json:"runner"`
	// Stored is false if the order is in force but would not survive a restart,
	// which Warning says, too.
	Stored    bool       `json:"stored"`
	Upstreams []Upstream `json:"upstreams"`
	Warning   string     `json:"warning,omitempty"`
}

// ChangeAnswer is the answer to the actions on jobs.
type ChangeAnswer struct {
	// Changed counts the jobs that were changed, or would be in a dry run, and
	// Followed those that depend on them and changed with them.
	Changed  int  `json:"changed"`
	DryRun   bool `json:"dry_run"`
	Followed int  `json:"followed"`
	// Jobs are the first of those that were changed.
	Jobs []JobKey `json:"jobs"`
	// More is set if the limit was reached, Partial if a dry run ended before that, because looking for jobs
	// took its time: there may be more than Changed.
	More    bool `json:"more"`
	Partial bool `json:"partial,omitempty"`
	// Problems are the databases in which it failed.
	Problems []string `json:"problems,omitempty"`
	// Warning says, where nothing was found, that there is no such channel.
	Warning string `json:"warning,omitempty"`
	Runner  string `json:"runner"`
}

// JobKey names a job.
type JobKey struct {
	Database string `json:"database"`
	UUID     string `json:"uuid"`
}

// ResyncAnswer is the answer to resync.
type ResyncAnswer struct {
	// Databases counts those that are read anew.
	Databases int    `json:"databases"`
	Runner    string `json:"runner"`
}

// CapacityAnswer is the answer to a change of a channel's capacity.
type CapacityAnswer struct {
	Runner  string `json:"runner"`
	Channel string `json:"channel"`
	// Before and After are the capacities.
	Before int `json:"before"`
	After  int `json:"after"`
	// Path is where the configuration has it, Line what keeps it in a Caddyfile.
	Path string `json:"path"`
	Line string `json:"line"`
}

// ErrorAnswer is the answer to a request that failed.
type ErrorAnswer struct {
	Error string `json:"error"`
}
