package doctor

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	OK      Severity = "ok"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Finding is one thing that the doctor found, in one sentence with the remedy.
type Finding struct {
	Severity Severity `json:"severity"`
	// Code names the finding for scripts; it is one of [Codes].
	Code string `json:"code"`
	// Check is what was checked: postgres, pooler, connections, databases, database, rival,
	// lock, channels, upstreams, upstream, route, capacity, policies or odoo_config.
	Check string `json:"check"`
	// Runner is the name of the runner. Database and Upstream are empty if the
	// finding is about no particular one.
	Runner   string `json:"runner"`
	Database string `json:"database,omitempty"`
	Upstream string `json:"upstream,omitempty"`
	Message  string `json:"message"`
}

// kind is what findings of one kind have in common.
type kind struct {
	severity    Severity
	check, code string
}

// The kinds of findings. A code is for good: scripts compare it.
var (
	foundRunnerOn      = kind{Warning, "odoo_config", "odoo_runner_on"}
	foundServerWide    = kind{Warning, "odoo_config", "server_wide_modules"}
	foundFilter        = kind{Warning, "odoo_config", "dbfilter_not_used"}
	foundPooler        = kind{Error, "pooler", "transaction_pooler"}
	foundNoWay         = kind{Error, "pooler", "pooler_unreachable"}
	foundRefused       = kind{Error, "pooler", "pooler_refuses"}
	foundNoPooler      = kind{Warning, "pooler", "pooler_is_none"}
	foundBlind         = kind{Warning, "pooler", "pooler_not_counted"}
	foundUnreachable   = kind{Error, "postgres", "postgres_unreachable"}
	foundPostgres      = kind{OK, "postgres", "postgres"}
	foundRights        = kind{Warning, "postgres", "role_rights"}
	foundConnections   = kind{Warning, "connections", "too_few_connections"}
	foundOverLimit     = kind{Warning, "connections", "connections_above_limit"}
	foundUncounted     = kind{Warning, "connections", "hibernate_not_counted"}
	foundNoList        = kind{Error, "databases", "databases_not_listed"}
	foundNoDatabase    = kind{Error, "databases", "no_database"}
	foundMissing       = kind{Warning, "databases", "database_missing"}
	foundNothing       = kind{Error, "databases", "no_jobs"}
	foundNoExamination = kind{Error, "database", "database_not_examined"}
	foundUndetected    = kind{OK, "database", "database_undetected"}
	foundNeutralized   = kind{Warning, "database", "database_neutralized"}
	foundUnhealthy     = kind{Error, "database", "database_unhealthy"}
	foundHealthy       = kind{OK, "database", "database"}
	foundRival         = kind{Warning, "rival", "rival"}
	foundLockFree      = kind{OK, "lock", "lock_free"}
	foundLockOurs      = kind{OK, "lock", "lock_of_caddy"}
	foundLockOther     = kind{Warning, "lock", "lock_of_another_caddy"}
	foundLockForeign   = kind{Error, "lock", "lock_of_another_runner"}
	foundNoUpstream    = kind{Error, "upstreams", "no_upstream"}
	foundBusy          = kind{Warning, "upstream", "upstream_busy"}
	foundDown          = kind{Error, "upstream", "upstream_down"}
	foundUp            = kind{OK, "upstream", "upstream"}
	foundRoute         = kind{OK, "route", "route"}
	foundRouteRefused  = kind{Error, "route", "route_refused"}
	foundRouteBroken   = kind{Error, "route", "route_broken"}
	foundOpenRoute     = kind{Warning, "route", "route_public"}
	foundUnlimited     = kind{Warning, "capacity", "capacity_unlimited"}
	foundCapacity      = kind{Warning, "capacity", "capacity_above_workers"}
	foundOneAtATime    = kind{Warning, "capacity", "no_channels"}
	foundNoRoot        = kind{Warning, "capacity", "no_root_channel"}
	foundNoCapacity    = kind{Warning, "capacity", "capacity_zero"}
	foundFiles         = kind{Warning, "capacity", "file_limit"}
	foundLateTimeout   = kind{Warning, "policies", "timeout_above_limit_time_real"}
	foundEarlyRescue   = kind{Warning, "policies", "rescue_before_timeout"}
	foundNoCancel      = kind{Warning, "policies", "timeout_cannot_cancel"}
	foundNoRescue      = kind{Warning, "policies", "timeout_without_rescue"}
	foundCollector     = kind{Warning, "rival", "garbage_collector_early"}
	foundUpgrading     = kind{Warning, "database", "database_upgrading"}
	foundIdlePolicy    = kind{Warning, "policies", "policy_never_counts"}
	foundWorkers       = kind{Warning, "capacity", "workers_differ"}
	foundChannels      = kind{OK, "channels", "channels"}
	foundBadChannels   = kind{Error, "channels", "channels_unusable"}
	foundIgnored       = kind{Warning, "channels", "channel_option_ignored"}
	foundStopped       = kind{Warning, "channels", "channels_stopped"}
)

// kinds are all of them.
var kinds = []kind{
	foundRunnerOn, foundServerWide, foundFilter, foundPooler, foundNoWay, foundRefused, foundNoPooler, foundBlind, foundUnreachable, foundPostgres, foundRights,
	foundConnections, foundOverLimit, foundUncounted, foundNoList,
	foundNoDatabase, foundMissing,
	foundNothing, foundNoExamination, foundUndetected, foundNeutralized, foundUnhealthy, foundHealthy, foundRival,
	foundLockFree, foundLockOurs, foundLockOther, foundLockForeign, foundNoUpstream, foundBusy, foundDown, foundUp, foundRoute,
	foundRouteRefused, foundRouteBroken, foundOpenRoute, foundUnlimited, foundCapacity, foundOneAtATime, foundNoRoot, foundNoCapacity,
	foundFiles, foundLateTimeout, foundEarlyRescue, foundNoCancel, foundNoRescue, foundCollector, foundUpgrading, foundIdlePolicy,
	foundWorkers, foundChannels, foundBadChannels, foundIgnored, foundStopped,
}

// Codes returns the codes of everything that the doctor can find.
func Codes() []string {
	var codes []string
	for _, k := range kinds {
		codes = append(codes, k.code)
	}
	return codes
}
