package runner

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// Health says in one word whether a runner does its work.
type Health uint8

const (
	// Ready: nothing is known that keeps jobs from running. A runner that stands by is ready to
	// take over.
	Ready Health = iota
	// Degraded: a part of the jobs does not run, or everything has been stopped on purpose.
	Degraded
	// NotReady: no job runs.
	NotReady
)

var healthNames = [...]string{Ready: "ready", Degraded: "degraded", NotReady: "not_ready"}

// String returns the word.
func (h Health) String() string {
	if int(h) < len(healthNames) {
		return healthNames[h]
	}
	return "invalid"
}

// healthNamed bounds the databases and the servers that problems and warnings name.
const healthNamed = 10

// Health sums problems and warnings up.
func (st *Status) Health(now time.Time) Health {
	switch {
	case len(st.Problems(now)) > 0:
		return NotReady
	case len(st.Warnings(now)) > 0:
		return Degraded
	}
	return Ready
}

// Problems says what keeps the runner from doing its work at all, as far as that is
// known; nothing if it does some. A runner that does not lead is ready to take over.
func (st *Status) Problems(now time.Time) []string {
	var problems []string
	switch {
	case st.Stopping:
		problems = append(problems, "it is stopping")
	case !st.LeaderKnown:
		problems = append(problems, "no leader is known: "+st.LeaderDetail+leaderAdvice)
	}
	if up, idle := st.servers(); up == 0 {
		problems = append(problems, "no Odoo server is healthy"+with(": ", strings.Join(few(idle), "; "))+st.serverAdvice())
	}
	if !st.Leader {
		return problems
	}
	if st.TakingOver {
		return append(problems, "it is taking over")
	}
	served, expected, causes := st.Serving(now)
	switch {
	case served > 0 || st.onlyCopies() || st.upgrades(now) > 0:
	case expected > 0:
		problems = append(problems, few(causes)...)
	case len(st.Databases) == 0:
		problems = append(problems, "no database is found: check databases, and the role that connects to PostgreSQL")
	default:
		problems = append(problems, "no database has jobs: queue_job is installed in none of those that are found"+st.leaving())
	}
	return problems
}

// Warnings says what does not run although the runner does a part of its work:
// databases, servers, or everything that has been stopped on purpose.
func (st *Status) Warnings(now time.Time) (list []string) {
	if up, idle := st.servers(); up > 0 {
		for _, server := range few(idle) {
			list = append(list, "Odoo server "+server)
		}
	}
	if !st.Leader || st.TakingOver {
		return list
	}
	list = append(list, st.stuck()...)
	served, expected, causes := st.Serving(now)
	switch {
	case served < expected && (served > 0 || st.upgrades(now) > 0):
		list = append(list, fmt.Sprintf("%d of %d databases served", served, expected))
		list = append(list, few(causes)...)
	case expected == 0 && st.onlyCopies():
		list = append(list, "no job runs: the databases are neutralized copies, whose jobs are left alone")
	}
	if p := st.Controls.pause("", ""); p != nil {
		list = append(list, "everything is "+p.String())
	} else if p := st.Controls.pause("", "root"); p != nil {
		list = append(list, "channel root is "+p.String())
	} else if paused := st.pausedDatabases(); len(paused) == served {
		list = append(list, few(paused)...)
	}
	if st.DatabaseChannels && st.MaxCapacity <= 0 {
		list = append(list, "no job runs: max_capacity is 0")
	}
	for i := range st.Channels {
		if c := &st.Channels[i]; c.FullName == "root" && c.DB == "" && (c.Paused || c.Capacity < 0) {
			list = append(list, "no job runs: channel root is paused by its configuration")
		}
	}
	return list
}

// stuck names the jobs that hold their slots beyond their time limits and could not be ended.
func (st *Status) stuck() (list []string) {
	for _, s := range st.Stuck {
		list = append(list, "job "+s.UUID+" of database "+s.DB+" is stuck: "+s.Text)
	}
	slices.Sort(list)
	return few(list)
}

// pausedDatabases are those that are served and paused.
func (st *Status) pausedDatabases() (list []string) {
	for i := range st.Databases {
		if db := &st.Databases[i]; db.State == DatabaseReady && db.Pause != nil {
			list = append(list, "database "+db.Name+" is "+db.Pause.String())
		}
	}
	return list
}

// leaving names the databases that are found and given up for a while.
func (st *Status) leaving() string {
	var names []string
	for i := range st.Databases {
		if db := &st.Databases[i]; db.State == DatabaseYielding {
			names = append(names, db.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ", apart from those that are being dropped, renamed or copied: " + strings.Join(few(names), ", ")
}

// servers counts the servers that take jobs. The others are named with the cause, those that are
// drained only if no server takes jobs: that is on purpose.
func (st *Status) servers() (up int, idle []string) {
	var drained []string
	for i := range st.Upstreams {
		switch u := &st.Upstreams[i]; {
		case u.Drain != nil:
			drained = append(drained, u.Name+" is being drained"+with(" by ", u.Drain.By))
		case u.Up:
			up++
		default:
			idle = append(idle, u.Name+" takes no jobs"+with(": ", u.Reason))
		}
	}
	if up == 0 {
		idle = append(idle, drained...)
	}
	return up, idle
}

// leaderAdvice is what to check when no process can lead. The surfaces know its beginning.
const leaderAdvice = "; check that PostgreSQL runs, and postgres, postgres_password and pg_hba.conf"

// serverAdvice is what to do when no server takes jobs.
func (st *Status) serverAdvice() string {
	drained := 0
	for i := range st.Upstreams {
		if st.Upstreams[i].Drain != nil {
			drained++
		}
	}
	switch {
	case len(st.Upstreams) == 0:
		return ": none is known; check the upstreams of the reverse_proxy, or name them with upstream"
	case drained == len(st.Upstreams):
		return "; undrain one of them"
	}
	return "; start Odoo, or correct its address"
}

// onlyCopies reports whether there is nothing to serve but neutralized copies.
func (st *Status) onlyCopies() bool {
	found := false
	for i := range st.Databases {
		switch st.Databases[i].State {
		case DatabaseNeutralized:
			found = true
		case DatabaseUndetected, DatabaseYielding:
		default:
			return false
		}
	}
	return found
}

// Serving counts the databases whose jobs are run, among those that have jobs to
// be run, and says for each of the others why it is not served.
func (st *Status) Serving(now time.Time) (served, expected int, causes []string) {
	for i := range st.Databases {
		db := &st.Databases[i]
		switch db.State {
		case DatabaseUndetected, DatabaseNeutralized, DatabaseYielding:
			continue
		default:
		}
		expected++
		cause := db.Obstacle(now)
		if cause == "" {
			served++
			continue
		}
		switch {
		case db.Pending > 0:
			cause += " (" + waiting(db.Pending) + ")"
		case db.JobsUnknown:
			cause += " (how many jobs wait is unknown)"
		}
		causes = append(causes, "database "+db.Name+" "+cause)
	}
	return served, expected, causes
}

// waiting says how many jobs wait.
func waiting(n int) string {
	if n == 1 {
		return "1 job waits"
	}
	return fmt.Sprintf("%d jobs wait", n)
}

// heldAdvice is what to check when requests end without having run their jobs.
const heldAdvice = "load queue_job with server_wide_modules, let the Host header pass dbfilter, and look for a login or maintenance page that answers in place of Odoo"

// standbyAdvice is what to do about a runner that serves a database beside this one, with a separator;
// nothing about another Caddy, which is there on purpose.
func (d *DatabaseStatus) standbyAdvice() string {
	if strings.Contains(d.Detail, postgres.ApplicationPrefix) {
		return ""
	}
	return "; if it is Odoo's own, switch it off with channels = root:0 in [queue_job] and restart Odoo"
}

// heldAdvice is the remedy for a database that is held back, with a separator: none if its jobs could
// not even be claimed, because the connection was lost.
func (d *DatabaseStatus) heldAdvice() string {
	switch d.Detail {
	case notClaimed:
		return ""
	case tableLocked:
		return "; pg_locks and pg_stat_activity tell which"
	}
	return "; " + heldAdvice
}

// Obstacle says why the jobs of a database are not run, as a predicate, with the
// remedy; empty if they are. A pause is none: it is somebody's will.
func (d *DatabaseStatus) Obstacle(now time.Time) string {
	if !d.Woken.IsZero() && now.Sub(d.Woken) < wakingLimit {
		return ""
	}
	switch d.State {
	case DatabaseHeld:
		text := "is held back" + with(": ", d.Detail)
		if !d.HeldUntil.IsZero() {
			text += ", next attempt at " + d.HeldUntil.UTC().Format(time.RFC3339)
		}
		return text + d.heldAdvice()
	case DatabaseUpgrading:
		return d.upgrade(now)
	case DatabaseUnhealthy:
		return "runs no jobs" + with(": ", d.Detail)
	case DatabaseStandby:
		return "is served by another runner" + with(": ", d.Detail) + d.standbyAdvice()
	case DatabaseUndetected:
		return "has no queue_job" + with(": ", d.Detail)
	case DatabaseNeutralized:
		return "is a neutralized copy" + with(": ", d.Detail)
	case DatabaseYielding:
		return "is being dropped, renamed or copied"
	case DatabaseAsleep:
		return ""
	case DatabaseWaiting:
		return "waits for a connection" + with(": ", d.Detail) + waitingAdvice
	default:
		if !d.Fresh(now) {
			return "has no fresh session, it is " + d.State.String() + with(": ", d.Detail)
		}
		return ""
	}
}

// wakingLimit is how long it takes, at most, to connect to a database that has been asleep and to read
// its jobs, if nothing is wrong.
const wakingLimit = 10 * time.Second

// waitingAdvice is the remedy where too few connections are allowed.
const waitingAdvice = "; raise connections, or CONNECTION LIMIT of the role or max_connections"

// few returns the first of a list, and says how many there are besides.
func few(list []string) []string {
	if len(list) <= healthNamed {
		return list
	}
	return append(append([]string{}, list[:healthNamed]...), fmt.Sprintf("and %d more", len(list)-healthNamed))
}
