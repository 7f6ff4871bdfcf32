package jobrunner

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// severity says how bad a finding is.
type severity string

const (
	severityOK      severity = "ok"
	severityWarning severity = "warning"
	severityError   severity = "error"
)

// finding is one thing that the doctor found, in one sentence with the remedy.
type finding struct {
	Severity severity `json:"severity"`
	// Code names the finding for scripts; it is one of [DoctorCodes].
	Code string `json:"code"`
	// Check is what was looked at: postgres, pooler, databases, database, rival,
	// lock, channels, upstreams, upstream, route, capacity or odoo_config.
	Check    string `json:"check"`
	Runner   string `json:"runner"`
	Database string `json:"database,omitempty"`
	Upstream string `json:"upstream,omitempty"`
	Message  string `json:"message"`
}

// kind is what findings of one kind have in common.
type kind struct {
	severity    severity
	check, code string
}

// The kinds of findings. A code is for good: scripts compare it.
var (
	foundRunnerOn      = kind{severityWarning, "odoo_config", "odoo_runner_on"}
	foundServerWide    = kind{severityWarning, "odoo_config", "server_wide_modules"}
	foundPooler        = kind{severityError, "pooler", "transaction_pooler"}
	foundUnreachable   = kind{severityError, "postgres", "postgres_unreachable"}
	foundPostgres      = kind{severityOK, "postgres", "postgres"}
	foundNoList        = kind{severityError, "databases", "databases_not_listed"}
	foundNoDatabase    = kind{severityError, "databases", "no_database"}
	foundNothing       = kind{severityError, "databases", "no_jobs"}
	foundNoExamination = kind{severityError, "database", "database_not_examined"}
	foundUndetected    = kind{severityOK, "database", "database_undetected"}
	foundNeutralized   = kind{severityWarning, "database", "database_neutralized"}
	foundUnhealthy     = kind{severityError, "database", "database_unhealthy"}
	foundHealthy       = kind{severityOK, "database", "database"}
	foundRival         = kind{severityWarning, "rival", "rival"}
	foundLockFree      = kind{severityOK, "lock", "lock_free"}
	foundLockOurs      = kind{severityOK, "lock", "lock_of_caddy"}
	foundLockForeign   = kind{severityError, "lock", "lock_of_another_runner"}
	foundNoUpstream    = kind{severityError, "upstreams", "no_upstream"}
	foundBusy          = kind{severityWarning, "upstream", "upstream_busy"}
	foundDown          = kind{severityError, "upstream", "upstream_down"}
	foundUp            = kind{severityOK, "upstream", "upstream"}
	foundRoute         = kind{severityOK, "route", "route"}
	foundRouteRefused  = kind{severityError, "route", "route_refused"}
	foundRouteBroken   = kind{severityError, "route", "route_broken"}
	foundUnlimited     = kind{severityWarning, "capacity", "capacity_unlimited"}
	foundCapacity      = kind{severityWarning, "capacity", "capacity_above_workers"}
	foundNoCapacity    = kind{severityWarning, "capacity", "capacity_zero"}
	foundChannels      = kind{severityOK, "channels", "channels"}
	foundBadChannels   = kind{severityError, "channels", "channels_unusable"}
	foundStopped       = kind{severityWarning, "channels", "channels_stopped"}
)

// doctorKinds are all of them.
var doctorKinds = []kind{
	foundRunnerOn, foundServerWide, foundPooler, foundUnreachable, foundPostgres, foundNoList, foundNoDatabase,
	foundNothing, foundNoExamination, foundUndetected, foundNeutralized, foundUnhealthy, foundHealthy, foundRival,
	foundLockFree, foundLockOurs, foundLockForeign, foundNoUpstream, foundBusy, foundDown, foundUp, foundRoute,
	foundRouteRefused, foundRouteBroken, foundUnlimited, foundCapacity, foundNoCapacity,
	foundChannels, foundBadChannels, foundStopped,
}

// DoctorCodes returns the codes of everything that the doctor can find.
func DoctorCodes() []string {
	var codes []string
	for _, k := range doctorKinds {
		codes = append(codes, k.code)
	}
	return codes
}

// report prints findings and returns the exit status.
func report(w io.Writer, found []finding, asJSON bool) (int, error) {
	status := 0
	if slices.ContainsFunc(found, func(f finding) bool { return f.Severity == severityError }) {
		status = exitNotReady
	}
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return status, enc.Encode(map[string]any{"findings": found})
	}
	for _, f := range found {
		where := []string{f.Runner}
		for _, s := range []string{f.Database, f.Upstream} {
			if s != "" {
				where = append(where, s)
			}
		}
		if _, err := fmt.Fprintf(w, "%-8s%s: %s\n", f.Severity, strings.Join(where, ", "), f.Message); err != nil {
			return 1, err
		}
	}
	return status, nil
}
