// Package metrics has the metrics of the job runners: what their events add up to, and gauges that
// are read when a scrape asks for them.
package metrics

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "jobrunner"

	// placesLimit bounds the pairs of database and channel that have series of their own, and
	// nodesLimit the upstreams, because each name comes from outside: channels from rows, upstreams
	// from the DNS. Everything further is counted together under otherLabel.
	placesLimit = 5000
	nodesLimit  = 500
	// placesQuota bounds them for one database, and placesMemory is how long a
	// name is remembered that no job has any more.
	placesQuota  = 500
	placesMemory = time.Hour
	// labelLimit bounds the length of such a name, in bytes. What is longer, or
	// no UTF-8 (Prometheus would panic), is counted under otherLabel, too.
	labelLimit = 300
	otherLabel = "other"
)

// The buckets, in seconds, that tell a job's wait from an eternal one, a short job from one that
// runs all night, and a quick claim from a slow one.
var (
	waitBuckets     = []float64{.01, .05, .1, .5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400}
	runBuckets      = []float64{.01, .05, .1, .5, 1, 5, 15, 60, 300, 900, 3600, 14400}
	dispatchBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 15}
	batchBuckets    = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}
)

// What events add up to. The vectors are global because they belong to the process, not to a
// configuration: each configuration registers them in its own registry, and they go on counting
// over reloads, including failed ones. No label holds a job's uuid, model or method.
var (
	attemptsTotal = counter("attempts_total",
		"Attempts at jobs that ended, by how: done, failed, retried (pending again by itself), not_run (put back, its request did not run it), rescued (found dead and put back), gone (cancelled or deleted).",
		"runner", "database", "channel", "outcome")
	dispatchesTotal = counter("dispatches_total",
		"Requests to run a job that ended, by how: answered, refused (by something that is not Odoo, or by an Odoo that cannot), not_sent (nothing was delivered), broken (after it may have been read).",
		"runner", "upstream", "outcome")
	requeuesTotal = counter("requeues_total",
		"Jobs that were put back to pending by the runner, by reason: dead (found dead), no_request (claimed, and not sent), or how the request had ended.",
		"runner", "database", "reason")
	lostTotal = counter("lost_requests_total",
		"Requests that ended while their job may go on. The jobs are watched until their rows tell more.",
		"runner", "database")
	timeoutsTotal = counter("timeout_stages_total",
		"How far attempts came with the time limits of policies: warned, reached (the limit has passed), cancelled, terminated (the connection to the database was closed), stuck (could not be ended). Each attempt counts once for each stage.",
		"runner", "database", "stage")
	blockedTotal = counter("channel_blocks_total",
		"Failed jobs that stopped a sequential channel.",
		"runner", "channel")
	quarantinedTotal = counter("quarantined_total",
		"Jobs that were failed because too many attempts at them had come to nothing. It stays 0 without quarantine.",
		"runner", "database")
	leaderChangesTotal = counter("leader_changes_total",
		"How often this process began or ceased to lead the runner, or another leader was seen.",
		"runner")
	notificationsTotal = counter("notifications_total",
		"Notifications of PostgreSQL that arrived.",
		"runner", "database")
	resyncsTotal = counter("resyncs_total",
		"Snapshots of a database's jobs that ended.",
		"runner", "database")
	resyncRepairsTotal = counter("resync_repairs_total",
		"Jobs of which a snapshot found what no notification had told. It stays 0 unless something is wrong.",
		"runner", "database")
	dependentsReleasedTotal = counter("dependents_released_total",
		"Jobs that were released because a worker had died that should have done so. It stays 0 where no worker dies.",
		"runner", "database")
	waitSeconds = histogram("job_wait_seconds",
		"Time from a job's creation, or its eta, to the request that started it. It is counted once for each attempt, when that has ended.",
		waitBuckets, "runner", "channel")
	runSeconds = histogram("job_run_seconds",
		"Time from sending a job's request to the end of the attempt, for jobs that ended done, failed or retried.",
		runBuckets, "runner", "channel")
	dispatchSeconds = histogram("dispatch_seconds",
		"Time from choosing a job to sending its request: what the claim in the database takes.",
		dispatchBuckets, "runner")
	claimSize = histogram("claim_batch_size",
		"Jobs that were claimed in one statement.",
		batchBuckets, "runner")
)

// eventCollectors are the vectors above, databaseCollectors those of them with series of a
// database.
var (
	eventCollectors = []prometheus.Collector{
		attemptsTotal, dispatchesTotal, requeuesTotal, lostTotal, timeoutsTotal, blockedTotal, quarantinedTotal, leaderChangesTotal,
		notificationsTotal, resyncsTotal, resyncRepairsTotal, dependentsReleasedTotal, waitSeconds, runSeconds, dispatchSeconds, claimSize,
	}
	databaseCollectors = []*prometheus.CounterVec{
		attemptsTotal, requeuesTotal, lostTotal, timeoutsTotal, quarantinedTotal, notificationsTotal, resyncsTotal, resyncRepairsTotal,
		dependentsReleasedTotal,
	}
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help, Buckets: buckets,
	}, labels)
}

// Collectors are all of them, the same for every configuration.
func Collectors() []prometheus.Collector {
	return append([]prometheus.Collector{liveMetrics{}}, eventCollectors...)
}

// Register adds all metrics to the registry of a configuration, each of which has its own. What is
// there already is left alone. Without a registry there is nothing to do.
func Register(reg *prometheus.Registry) error {
	if reg == nil {
		return nil
	}
	for _, c := range Collectors() {
		var there prometheus.AlreadyRegisteredError
		if err := reg.Register(c); err != nil && !errors.As(err, &there) {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// Observe counts an event. It does not block.
func Observe(ev runner.Event) {
	switch {
	case ev.Kind.Final():
		observeEnd(&ev)
		return
	case ev.Database != "":
		observeDatabase(&ev)
		return
	}
	if ev.Kind == runner.EventLeaderChanged {
		leaderChangesTotal.WithLabelValues(ev.Runner).Inc()
	}
}

// observeEnd counts the end of an attempt.
func observeEnd(ev *runner.Event) {
	database, channel := places.admit(ev.Runner, ev.Database, ev.Channel)
	attemptsTotal.WithLabelValues(ev.Runner, database, channel, strings.TrimPrefix(string(ev.Kind), "job_")).Inc()
	attemptsTotal.WithLabelValues(ev.Runner, database, channel, "failed") // begins at 0, too
	if ev.Waited() {
		waitSeconds.WithLabelValues(ev.Runner, channel).Observe(ev.Wait.Seconds())
	}
	switch ev.Kind {
	case runner.EventJobDone, runner.EventJobFailed, runner.EventJobRetried:
		if ev.Run > 0 {
			runSeconds.WithLabelValues(ev.Runner, channel).Observe(ev.Run.Seconds())
		}
	case runner.EventJobRescued:
		requeuesTotal.WithLabelValues(ev.Runner, database, "dead").Inc()
	case runner.EventJobNotRun:
		reason := ev.Outcome
		if reason == "" {
			reason = "no_request"
		}
		requeuesTotal.WithLabelValues(ev.Runner, database, reason).Inc()
	default: // the attempt itself has been counted
	}
}

// observeDatabase counts what happens on the way there.
func observeDatabase(ev *runner.Event) {
	switch ev.Kind {
	case runner.EventClaimed:
		claimSize.WithLabelValues(ev.Runner).Observe(float64(ev.Count))
		return
	case runner.EventDispatched:
		if ev.Dispatch > 0 {
			dispatchSeconds.WithLabelValues(ev.Runner).Observe(ev.Dispatch.Seconds())
		}
		return
	case runner.EventAnswered:
		_, upstream := nodes.admit(ev.Runner, "", ev.Upstream)
		dispatchesTotal.WithLabelValues(ev.Runner, upstream, ev.Outcome).Inc()
		return
	default: // those that follow have a series for each database
	}
	database, _ := places.admit(ev.Runner, ev.Database, "")
	switch ev.Kind {
	case runner.EventJobLost:
		lostTotal.WithLabelValues(ev.Runner, database).Inc()
	case runner.EventTimeoutWarned, runner.EventTimeoutReached, runner.EventTimeoutCancelled,
		runner.EventTimeoutTerminated, runner.EventTimeoutStuck:
		timeoutsTotal.WithLabelValues(ev.Runner, database, strings.TrimPrefix(string(ev.Kind), "timeout_")).Inc()
	case runner.EventChannelBlocked:
		_, channel := places.admit(ev.Runner, ev.Database, ev.Channel)
		blockedTotal.WithLabelValues(ev.Runner, channel).Inc()
	case runner.EventJobQuarantined:
		quarantinedTotal.WithLabelValues(ev.Runner, database).Inc()
	case runner.EventNotifications:
		notificationsTotal.WithLabelValues(ev.Runner, database).Add(float64(ev.Count))
	case runner.EventResynced:
		resyncsTotal.WithLabelValues(ev.Runner, database).Inc()
		// They begin at 0, or the first increase would not be seen as one.
		resyncRepairsTotal.WithLabelValues(ev.Runner, database)
		requeuesTotal.WithLabelValues(ev.Runner, database, "dead")
		dependentsReleasedTotal.WithLabelValues(ev.Runner, database)
		quarantinedTotal.WithLabelValues(ev.Runner, database)
	case runner.EventDependentsReleased:
		dependentsReleasedTotal.WithLabelValues(ev.Runner, database).Add(float64(ev.Count))
	case runner.EventResyncRepaired:
		resyncRepairsTotal.WithLabelValues(ev.Runner, database).Add(float64(ev.Count))
	default: // a state is read at each scrape
	}
}

// places and nodes are the label values in use. They are global as the vectors are, which they
// bound.
var (
	places = newAdmission(placesLimit, placesQuota)
	nodes  = newAdmission(nodesLimit, nodesLimit)
)

// admission bounds the values of labels: the first ones have their own series. No database has more
// names than its quota, so that the rows of one do not take all series away from the others, and
// names that are not used any more are given back.
type admission struct {
	limit, quota int
	mu           sync.RWMutex // guards the following
	seen         map[admitted]*atomic.Int64
	// names counts those of each database.
	names map[tenant]int
}

type admitted struct{ runner, database, name string }

type tenant struct{ runner, database string }

func newAdmission(limit, quota int) *admission {
	return &admission{limit: limit, quota: quota, seen: make(map[admitted]*atomic.Int64), names: make(map[tenant]int)}
}

// permitted reports whether a name can be a label at all.
func permitted(name string) bool { return len(name) <= labelLimit && utf8.ValidString(name) }

// admit returns the labels for a database and a name: themselves, or otherLabel.
func (a *admission) admit(runner, database, name string) (databaseLabel, nameLabel string) {
	if !permitted(name) || !utf8.ValidString(database) {
		return otherLabel, otherLabel
	}
	key, of := admitted{runner, database, name}, tenant{runner, database}
	now := time.Now().Unix()
	a.mu.RLock()
	used := a.seen[key]
	full := len(a.seen) >= a.limit || a.names[of] >= a.quota
	a.mu.RUnlock()
	switch {
	case used != nil:
		if used.Load() != now {
			used.Store(now)
		}
		return database, name
	case full:
		return otherLabel, otherLabel
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen[key] == nil {
		used = new(atomic.Int64)
		used.Store(now)
		a.seen[key] = used
		a.names[of]++
	}
	return database, name
}

// forget removes an entry; the caller holds mu.
func (a *admission) forget(key admitted) {
	delete(a.seen, key)
	of := tenant{key.runner, key.database}
	if a.names[of]--; a.names[of] <= 0 {
		delete(a.names, of)
	}
}

// expire forgets the names of a runner that have not been used since a time, and returns them. shared
// is set for those that another database still has.
func (a *admission) expire(runner string, before time.Time) (gone []admitted, shared map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, used := range a.seen {
		if key.runner == runner && key.name != "" && used.Load() < before.Unix() {
			a.forget(key)
			gone = append(gone, key)
		}
	}
	if len(gone) == 0 {
		return nil, nil
	}
	shared = make(map[string]bool)
	for key := range a.seen {
		if key.runner == runner {
			shared[key.name] = true
		}
	}
	return gone, shared
}

// retain forgets the databases of a runner that are not kept and returns them.
func (a *admission) retain(runner string, kept func(database string) bool) (gone []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	dropped := make(map[string]bool)
	for key := range a.seen {
		if key.runner != runner || key.database == "" || kept(key.database) {
			continue
		}
		a.forget(key)
		if !dropped[key.database] {
			dropped[key.database] = true
			gone = append(gone, key.database)
		}
	}
	return gone
}

// forgetDatabases ends the series of databases that are not served any more.
func forgetDatabases(name string, kept func(database string) bool) {
	for _, database := range places.retain(name, kept) {
		for _, c := range databaseCollectors {
			c.DeletePartialMatch(prometheus.Labels{"runner": name, "database": database})
		}
	}
}

// forgetNames ends the series of channels that have not been used for placesMemory.
func forgetNames(name string, now time.Time) {
	gone, shared := places.expire(name, now.Add(-placesMemory))
	for _, key := range gone {
		attemptsTotal.DeletePartialMatch(prometheus.Labels{"runner": name, "database": key.database, "channel": key.name})
		if shared[key.name] {
			continue
		}
		labels := prometheus.Labels{"runner": name, "channel": key.name}
		waitSeconds.DeletePartialMatch(labels)
		runSeconds.DeletePartialMatch(labels)
		blockedTotal.DeletePartialMatch(labels)
	}
}
