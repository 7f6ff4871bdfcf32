package command

import (
	"fmt"
	"regexp"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// resume is the command that ends a pause.
func resume(runner string, p *api.Pause) string {
	text := "caddy jobrunner resume "
	switch p.Scope {
	case "database":
		text += "--database " + p.Database
	case "channel":
		text += "--channel " + p.Channel
	default:
		text += "--all"
	}
	return text + ofRunner(runner)
}

// undrain is the command that ends a drain.
func undrain(runner, server string) string {
	return "caddy jobrunner undrain " + server + ofRunner(runner)
}

// ofRunner is the flag that names a runner, which actions need where there are several; nothing for the
// only one of a configuration that names none.
func ofRunner(runner string) string {
	if runner == "" || runner == "default" {
		return ""
	}
	return " --runner " + runner
}

// remedy says what to do for a job that does not run, where that is a command; empty if it is not.
func remedy(v *api.Why) string {
	switch {
	case v.Pause != nil:
		return "to end that: " + resume(v.Runner, v.Pause)
	case v.Why == "upstreams_drained":
		return "to end that: caddy jobrunner undrain SERVER; caddy jobrunner upstreams lists them"
	case v.Why == "no_upstream":
		return "start Odoo, or correct its address; caddy jobrunner doctor examines it"
	case v.Why == "database_standby":
		return "if that is Odoo's own runner, switch it off with channels = root:0 in [queue_job] and restart Odoo"
	case v.Why == "database_waiting":
		return "more connections would help: raise connections of the jobrunner block, or CONNECTION LIMIT of the role or max_connections of PostgreSQL"
	case v.Why == "database_asleep":
		return "the database has just been woken, ask again in a moment"
	case v.Why == "no_leader":
		return "check that PostgreSQL runs, and postgres, postgres_password and pg_hba.conf; caddy jobrunner doctor examines them"
	case v.Why == "sequential_failed" && v.Blocker != "":
		database := v.Database
		if m := regexp.MustCompile(`\bjob (\S+)/` + regexp.QuoteMeta(v.Blocker)).FindStringSubmatch(v.Text); m != nil {
			database = m[1] // databases can share a channel
		}
		return fmt.Sprintf("to go on: caddy jobrunner requeue --database %s %s%s, or cancel, or set-done", database, v.Blocker, ofRunner(v.Runner))
	case v.Why == "database_upgrading":
		return "the job starts by itself after the upgrade; if that was forgotten, finish it, or cancel it in Odoo's Apps"
	case v.Why == "failed", v.Why == "quarantined":
		return fmt.Sprintf("to run it again: caddy jobrunner requeue --database %s %s%s", v.Database, v.UUID, ofRunner(v.Runner))
	}
	return ""
}
