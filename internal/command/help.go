package command

import (
	"strings"

	"github.com/spf13/cobra"
)

// help is what a sub-command says of itself beside its flags.
type help struct {
	long string
	// examples are commands without "caddy jobrunner".
	examples []string
}

const (
	// stateWords say what the states of a job mean.
	stateWords = `States of a job: wait_dependencies (other jobs must be done first), pending (it
waits), enqueued (Odoo has been asked to run it), started (it runs), done, cancelled,
failed (nothing runs it unless it is requeued).`
	// uuidWords say how jobs are named.
	uuidWords = `A uuid may be cut to its first letters, at least four, where only one job begins
with them; if several do, they are listed.`
	// selectWords say how the actions on jobs select them.
	selectWords = `Name jobs by uuid, with --database, or select them as "jobs" does, or say --all. Jobs
that are enqueued or started are never touched. Exit status 4 if nothing was changed.

` + uuidWords
	// pauseWords say what a pause is.
	pauseWords = `Name exactly one of --channel (with those below it), --database and --all. A pause
never stops a job that runs. It survives reloads and restarts.`
)

// helps are the words of each sub-command; doctor has its own.
var helps = map[string]help{
	"status": {`Shows whether the runners can do their work, and if not, why.

State: ready (nothing is known that keeps jobs from running), degraded (a part of the
jobs does not run, or everything was stopped on purpose), not ready (no job runs).
Exit statuses: 0, 5 and 3 in this order.`, []string{"status", "status --watch", "status --json"}},
	"databases": {`Lists the databases, and says of each that is not served why.

States: ready (its jobs are run), connecting, loading (its jobs are being read),
waiting (no connection to PostgreSQL is free for it), asleep (it has nothing to do, so
that it needs no connection; it counts as served), unreachable (the connection failed,
and is tried again), held (Odoo does not run its jobs, and is asked now and then),
unhealthy (the add-on is there and cannot be served), standby (another runner serves
it), yielding (it is being dropped, renamed or copied), upgrading (modules are being
changed), neutralized (a copy, whose jobs must not run), undetected (no queue_job).
HEARD is how long PostgreSQL has been silent, ADD-ON how the add-on works.`, []string{"databases", "databases --wide", "databases --limit 100 --offset 100", "databases --state waiting,unreachable"}},
	"channels": {`Lists the channels, those below another after it. WAITING counts the jobs that wait
in the channel, for a slot or for their eta; OLDEST is for how long the oldest that
could run has waited. Jobs of a database that cannot be served count at root; where
they cannot even be counted, their number is unknown.`, []string{"channels", "channels --watch --interval 5s"}},
	"upstreams": {`Lists the Odoo servers. One that is drained is safe to stop when it runs no job of
this process any more.`, []string{"upstreams", "upstreams --watch"}},
	"tasks": {`Lists the jobs that hold a slot, the longest running first.

Phases: claiming (on its way to Odoo), open (it runs, and its request is open), asked,
watched (it runs without an open request of this process, for example after a
restart), unclaiming (it is put back).

LIMIT is there if policies limit the time of some: the limit or, if that has come near
or has passed, warned, reached, cancelled (its statement was), terminated (its
connection was closed), or stuck (it could not be ended).`, []string{"tasks", "tasks --watch", "tasks --limit 20"}},
	"jobs": {`Lists jobs, database after database, the newest first. What no index of Odoo's serves
is looked for in the newest jobs first; --after goes on.

` + stateWords, []string{"jobs", "jobs --state failed --database shop", "jobs --state pending --channel root.mail --older-than 2h", "jobs --function mail.mail.send --newer-than 1d", "jobs --uuid 3f2a9b54"}},
	"job": {`Shows all that is known of one job: why it does or does not run, its row, when what
happened to it, and the jobs that it depends on (parent) or that depend on it (child).
Arguments, result and traceback are shown only with the option payloads. Without a
database, all are asked.

` + uuidWords, []string{"job 3f2a9b54", "job shop 3f2a9b54-6c1e-4d0c-9a7e-5b8f0f6f2a11"}},
	"why": {`Says why a job does, or does not, run. Without a database, all are asked.

` + uuidWords, []string{"why 3f2a9b54", "why shop 3f2a9b54-6c1e-4d0c-9a7e-5b8f0f6f2a11"}},
	"top": {`Shows a screen, until q is pressed: the runners, the channels with jobs, what runs, the
longest running first, and the newest events, such as jobs that ended. What does not
fit is counted. While Caddy does not answer, the screen says so and keeps what was last
known. Where there is no terminal, it is printed once, without the events.`, []string{"top", "top --interval 500ms", "top --once"}},
	"history": {`Shows what became of the jobs of the last day, or of another time: by function, the one
that took the most time first, or by channel, database or interval; or which jobs
failed with which exception, and when (--by exception). WAIT and RUN are
quantiles: half of the attempts (P50), or 95 of 100 (P95), waited or ran no longer. It
is what this node has run: a node that stands by says who leads now. --from and --to
are times, or durations back from now; --csv writes all numbers for a spreadsheet.`, []string{"history", "history --from 7d --by channel", "history --by exception", "history --database shop --function \"sale.order.*\" --intervals --step 1h", "history --from 2030-11-29T00:00:00Z --to 2030-11-30T00:00:00Z --csv"}},
	"forecast": {`Says of each channel when none of its jobs will wait any more: fifteen times, the
scheduler that runs the jobs is run into the future, with the jobs that wait, with as
many as came lately, and with how long they ran.`, []string{"forecast", "forecast --json"}},
	"simulate": {`Replays the jobs of the last hour, or of another time of the last day, with other
capacities, through the scheduler that runs them, and shows how long they would have
waited beside how long they did. It refuses where something else than slots kept jobs
waiting, such as Odoo's workers, and says what it assumes. Nothing is changed.`, []string{"simulate --set root.mail=4", "simulate --set root=12,root.mail=6 --from 24h", "simulate --set root.export=1 --from 6h --to 2h --json"}},
	"events": {`Prints what happens, until interrupted.`, []string{"events", "events --event job_failed,job_rescued --database shop", "events --json"}},
	"pause": {`Pauses a channel, a database or everything: no more of its jobs is started.

` + pauseWords, []string{"pause --channel root.mail --for 30m --note \"the printer is moved\"", "pause --database shop --until \"2030-11-30 08:00\"", "pause --all"}},
	"resume": {`Ends a pause. Name what was paused as "status" lists it.`, []string{"resume --channel root.mail", "resume --all"}},
	"drain": {`Sends no new jobs to an Odoo server, so that it can be stopped. It is named as
"upstreams" lists it, or by host:port.`, []string{"drain http://10.0.0.5:8069 --wait", "drain 10.0.0.5:8069 --note \"kernel update\""}},
	"undrain": {`Sends jobs to an Odoo server again.`, []string{"undrain http://10.0.0.5:8069"}},
	"resync":  {`Reads all jobs anew, as a new leader does. It is never needed, and never harmful.`, []string{"resync", "resync --database shop"}},
	"requeue": {`Makes failed, cancelled or done jobs pending again, with counters and dates reset.

` + selectWords, []string{"requeue --database shop 3f2a9b54", "requeue --state failed --exception odoo.exceptions.UserError --dry-run"}},
	"cancel": {`Cancels jobs that are pending, wait for others or failed, and those that wait only for
cancelled ones.

` + selectWords, []string{"cancel --database shop 3f2a9b54", "cancel --state pending --channel root.mail --older-than 3d --dry-run"}},
	"set-done": {`Marks jobs done that are pending, wait for others or failed. Those that waited only
for done ones become pending.

` + selectWords, []string{"set-done --database shop 3f2a9b54", "set-done --state failed --limit 10"}},
	"postpone": {`Gives pending jobs another eta: --for or --until.

` + selectWords, []string{"postpone --state pending --channel root.mail --for 2h", "postpone --database shop 3f2a9b54 --until \"2030-11-30 08:00\""}},
	"doctor": {"", []string{"doctor --config /etc/caddy/Caddyfile", "doctor --json"}},
}

// describe gives a sub-command its words.
func describe(cmd *cobra.Command) {
	h := helps[cmd.Name()]
	if h.long != "" {
		cmd.Long = h.long
	}
	cmd.Example = "  caddy jobrunner " + strings.Join(h.examples, "\n  caddy jobrunner ")
}
