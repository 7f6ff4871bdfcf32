package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// scrapeTimeout bounds the question to all runners for one scrape. A runner that does not answer in
// time has caddy_jobrunner_up 0 and no other gauge.
const scrapeTimeout = 2 * time.Second

// liveMetrics reads the runners at every scrape, so that they cost nothing without one. It asks the
// supervisor, not a configuration: after a failed reload Caddy serves the registry of the
// configuration that failed, and it has to tell the truth, too. Only counters are read, whatever
// the number of jobs.
type liveMetrics struct{}

// What the gauges say. Those of channels exist for every channel that holds jobs or is configured.
var (
	upDesc               = gauge("up", "Whether the runner answered in time; 0 means that its loop is stuck.", "runner")
	leaderDesc           = gauge("leader", "Whether this process leads the runner.", "runner")
	leaderKnownDesc      = gauge("leader_known", "Whether some process is known to lead the runner.", "runner")
	readyDesc            = gauge("ready", "What GET /jobrunner/ready says of the runner.", "runner")
	stateDesc            = gauge("state", "Which of ready, degraded and not_ready the runner is: 1 for that state, 0 for the others.", "runner", "state")
	servedDesc           = gauge("database_served", "Whether the jobs of the database are run, for databases that have jobs.", "runner", "database")
	jobsDesc             = gauge("jobs", "Unfinished and failed jobs by the channel that they name.", "runner", "database", "channel", "state")
	unknownDesc          = gauge("jobs_unknown", "1 for a database whose jobs could neither be read nor counted, or that waits for a connection, so that caddy_jobrunner_jobs lacks some; absent for others.", "runner", "database")
	sharingDesc          = gauge("jobs_in_shared_channel", "Jobs that share a channel because the rows of their database name too many; absent where there are none.", "runner", "database")
	oldestDesc           = gauge("oldest_pending_seconds", "How long the oldest job that waits in the channel could have been running already; 0 if none waits, absent if that is unknown.", "runner", "database", "channel")
	capacityDesc         = gauge("channel_capacity", "Jobs that may run at once; absent for channels without a limit.", "runner", "database", "channel")
	runningDesc          = gauge("channel_running", "Jobs of the channel and those below that hold a slot.", "runner", "database", "channel")
	queuedDesc           = gauge("channel_queued", "Jobs that wait in the channel, for a slot or for their eta.", "runner", "database", "channel")
	passedByDesc         = gauge("channel_passed_by", "Jobs of channel_queued that a policy holds back, so that others pass them: a limit, serialize, or a pool without room; absent if there are none.", "runner", "database", "channel")
	failedDesc           = gauge("channel_failed", "Failed jobs of the channel.", "runner", "database", "channel")
	pausedDesc           = gauge("channel_paused", "Whether the channel is paused, by the configuration or by an operator.", "runner", "database", "channel")
	blockedDesc          = gauge("channel_blocked", "Whether the channel is sequential and a failed job stops it.", "runner", "database", "channel")
	limitedDesc          = gauge("channel_limited", "Whether jobs wait because of a window or a rate of a policy; absent for channels without.", "runner", "database", "channel", "by")
	limitedUntilDesc     = gauge("channel_limited_until_timestamp_seconds", "When that changes; absent while none waits because of it.", "runner", "database", "channel", "by")
	databasesDesc        = gauge("databases", "Databases by state.", "runner", "state")
	connectedDesc        = gauge("session_connected", "Whether there is a connection that listens to the database, for databases that should have one.", "runner", "database")
	silenceDesc          = gauge("session_silence_seconds", "Time since PostgreSQL was last heard on that connection.", "runner", "database")
	syncedDesc           = gauge("resync_age_seconds", "Time since the last snapshot of the database's jobs.", "runner", "database")
	upstreamUpDesc       = gauge("upstream_up", "Whether the Odoo server is believed to answer.", "runner", "upstream")
	upstreamInFlightDesc = gauge("upstream_in_flight", "Open requests at the Odoo server.", "runner", "upstream")
	upstreamDrainedDesc  = gauge("upstream_drained", "Whether an operator drains the Odoo server.", "runner", "upstream")
	upstreamVisitorsDesc = gauge("upstream_visitors", "Requests of others that this process has under way at the Odoo server; absent where that is not known.", "runner", "upstream")
	upstreamFullDesc     = gauge("upstream_full", "Whether the Odoo server gets no more jobs because of its limits; absent where it has none.", "runner", "upstream")
	maxCapacityDesc      = gauge("max_capacity", "Jobs that may run at once in all databases together, when each has its own channel tree.", "runner")
	tasksDesc            = gauge("tasks", "Jobs that hold a slot, by phase: claiming, open (their request is), watched (they run without one of ours).", "runner", "phase")
	overdueDesc          = gauge("jobs_overdue", "Jobs that run beyond the time limits of policies.", "runner")
	stuckDesc            = gauge("jobs_stuck", "Those of them that a policy wants to end and that could not be ended. They keep their slots.", "runner")
	connectionsDesc      = gauge("connections", "Connections to PostgreSQL that the runner has or is making.", "runner")
	connectionsLimitDesc = gauge("connections_limit", "Connections to PostgreSQL that the runner may have; absent without a limit.", "runner")
	pausesDesc           = gauge("pauses", "Pauses that operators have ordered, by what they concern: all, database, channel.", "runner", "scope")
	objectiveDesc        = gauge("objective_target", "Which part of the jobs is to wait no longer than the objective of their policy says, for objectives with a percentage.", "runner", "policy")
	objectiveSentDesc    = gauge("objective_attempts_total", "Attempts at jobs with such an objective that were sent and have ended.", "runner", "policy")
	objectiveLateDesc    = gauge("objective_late_total", "Those of them that had waited longer.", "runner", "policy")
	exchangesDesc        = gauge("open_exchanges", "Open requests of the process, also those of runners that were removed from the configuration.")
)

var liveDescs = []*prometheus.Desc{
	upDesc, leaderDesc, leaderKnownDesc, readyDesc, stateDesc, servedDesc, jobsDesc, unknownDesc, sharingDesc, oldestDesc, capacityDesc, runningDesc, queuedDesc, passedByDesc, failedDesc, pausedDesc,
	blockedDesc, limitedDesc, limitedUntilDesc, databasesDesc, connectedDesc, silenceDesc, syncedDesc, upstreamUpDesc, upstreamInFlightDesc,
	upstreamDrainedDesc, upstreamVisitorsDesc, upstreamFullDesc, maxCapacityDesc, tasksDesc, overdueDesc, stuckDesc, connectionsDesc, connectionsLimitDesc, pausesDesc, objectiveDesc, objectiveSentDesc, objectiveLateDesc, exchangesDesc,
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name), help, labels, nil)
}

// Describe implements [prometheus.Collector].
func (liveMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range liveDescs {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (liveMetrics) Collect(ch chan<- prometheus.Metric) {
	set := setter(ch)
	set.to(exchangesDesc, float64(supervisor.OpenExchanges()))
	for name, st := range statuses() {
		set.to(upDesc, flag(st != nil), name)
		if st != nil {
			set.runner(name, &st.Status, time.Now())
			set.to(readyDesc, flag(!st.fails), name)
			set.objectives(name, st.objectives)
		}
	}
}

// answer is a status with what GET /jobrunner/ready makes of it.
type answer struct {
	runner.Status

	fails      bool
	objectives []history.Objective
}

// statuses asks all runners at once. One that does not answer in time is nil.
func statuses() map[string]*answer {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	var (
		mu  sync.Mutex // guards all
		all = make(map[string]*answer)
		wg  sync.WaitGroup
	)
	for name, k := range supervisor.Runners(ctx) {
		wg.Go(func() {
			var said *answer
			_ = guard.Call(func() error {
				st, err := k.Status(ctx)
				if err == nil {
					said = &answer{Status: st, fails: k.Fails(st.Health(time.Now()))}
					if l := k.History(); l != nil {
						said.objectives = l.Objectives()
					}
				}
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			all[name] = said
		})
	}
	wg.Wait()
	return all
}

// setter sends gauges.
type setter chan<- prometheus.Metric

func (set setter) to(desc *prometheus.Desc, value float64, labels ...string) {
	set <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

// runner sends what is known of one runner.
func (set setter) runner(name string, st *runner.Status, now time.Time) {
	set.to(leaderDesc, flag(st.Leader), name)
	set.to(leaderKnownDesc, flag(st.LeaderKnown), name)
	health := st.Health(now)
	for _, h := range []runner.Health{runner.Ready, runner.Degraded, runner.NotReady} {
		set.to(stateDesc, flag(h == health), name, h.String())
	}
	for phase, n := range map[string]int{"claiming": st.Claiming, "open": st.Open, "watched": st.Watched} {
		set.to(tasksDesc, float64(n), name, phase)
	}
	set.to(overdueDesc, float64(st.Overdue), name)
	set.to(stuckDesc, float64(len(st.Stuck)), name)
	set.to(connectionsDesc, float64(st.Connections.Used), name)
	if st.Connections.Limit > 0 {
		set.to(connectionsLimitDesc, float64(st.Connections.Limit), name)
	}
	if st.DatabaseChannels {
		set.to(maxCapacityDesc, float64(st.MaxCapacity), name)
	}
	pauses := map[string]int{"all": 0, "database": 0, "channel": 0}
	for i := range st.Controls.Pauses {
		pauses[st.Controls.Pauses[i].Scope()]++
	}
	for scope, n := range pauses {
		set.to(pausesDesc, float64(n), name, scope)
	}
	set.databases(name, st, now)
	set.channels(name, st, now, set.jobs(name, st))
	forgetNames(name, now)
	set.upstreams(name, st)
}

// objectives sends how well policies keep their objectives.
func (set setter) objectives(name string, list []history.Objective) {
	for i := range list {
		o := &list[i]
		set.to(objectiveDesc, o.Target, name, o.Policy)
		for desc, n := range map[*prometheus.Desc]uint64{objectiveSentDesc: o.Attempts, objectiveLateDesc: o.Late} {
			set <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), name, o.Policy)
		}
	}
}

func (set setter) databases(name string, st *runner.Status, now time.Time) {
	states := make(map[runner.DatabaseState]int)
	served := make(map[string]bool)
	for i := range st.Databases {
		db := &st.Databases[i]
		states[db.State]++
		served[db.Name] = true
		if db.State == runner.DatabaseAsleep && db.Pending == 0 {
			continue // it has no series, because there may be thousands
		}
		label, _ := places.admit(name, db.Name, "")
		if st.Leader && label == db.Name && (db.Served() || db.State == runner.DatabaseStandby || db.State == runner.DatabaseAsleep) {
			set.to(servedDesc, flag(db.Obstacle(now) == ""), name, label)
		}
		if db.JobsUnknown {
			set.to(unknownDesc, 1, name, label)
		}
		if db.Sharing > 0 {
			set.to(sharingDesc, float64(db.Sharing), name, label)
		}
		if !db.Served() || label != db.Name {
			continue
		}
		set.to(connectedDesc, flag(!db.Connected.IsZero()), name, label)
		if !db.Connected.IsZero() {
			set.to(silenceDesc, max(0, now.Sub(db.Heard).Seconds()), name, label)
		}
		if !db.Synced.IsZero() {
			set.to(syncedDesc, max(0, now.Sub(db.Synced).Seconds()), name, label)
		}
	}
	for state := runner.DatabaseConnecting; state <= runner.DatabaseAsleep; state++ {
		set.to(databasesDesc, float64(states[state]), name, state.String())
	}
	if st.Leader && !st.TakingOver && !st.Stopping {
		forgetDatabases(name, func(database string) bool { return served[database] })
	}
}

// jobs sends the counts, those of channels without their own series added up. It returns the channels that have their
// own series, with those above them.
func (set setter) jobs(name string, st *runner.Status) (own map[string]bool) {
	own = make(map[string]bool)
	type place struct{ database, channel string }
	sums := make(map[place]channels.Count)
	for _, c := range st.Counts {
		var at place
		at.database, at.channel = places.admit(name, c.DB, c.Channel)
		if at.channel == c.Channel {
			for above := c.Channel; above != "" && !own[above]; above = channels.Parent(above) {
				own[above] = true
			}
		}
		sum := sums[at]
		sum.Pending += c.Pending
		sum.Enqueued += c.Enqueued
		sum.Started += c.Started
		sum.Failed += c.Failed
		sums[at] = sum
	}
	for at, c := range sums {
		set.to(jobsDesc, float64(c.Pending), name, at.database, at.channel, "pending")
		set.to(jobsDesc, float64(c.Enqueued), name, at.database, at.channel, "enqueued")
		set.to(jobsDesc, float64(c.Started), name, at.database, at.channel, "started")
		set.to(jobsDesc, float64(c.Failed), name, at.database, at.channel, "failed")
	}
	return own
}

// channels sends what is known of the channels, those unadmitted added up. The
// database is empty in a tree of all databases; to Prometheus that is no label.
func (set setter) channels(name string, st *runner.Status, now time.Time, own map[string]bool) {
	type place struct{ database, channel string }
	type sum struct {
		running, queued, failed int
		passedBy                int
		oldest                  float64
		paused, blocked         bool
	}
	sums := make(map[place]sum)
	unknown := st.JobsUnknown()
	for i := range st.Channels {
		c := &st.Channels[i]
		var at place
		switch {
		case c.DB != "":
			at.database, at.channel = places.admit(name, c.DB, c.FullName)
		case permitted(c.FullName) && (c.Configured || c.Stopped || own[c.FullName]):
			at.channel = c.FullName // their number is bounded: by the configuration, operators and quotas
		default:
			at.channel = otherLabel
		}
		s := sums[at]
		s.running += c.Running
		s.queued += c.Queued
		s.passedBy += c.PassedBy
		s.failed += c.Failed
		s.paused = s.paused || c.Paused || c.Stopped
		s.blocked = s.blocked || c.Sequential && c.Failed > 0
		if !c.Oldest.IsZero() {
			s.oldest = max(s.oldest, now.Sub(c.Oldest).Seconds())
		}
		sums[at] = s
		if at.channel == c.FullName {
			set.rules(name, at.database, c)
		}
	}
	for at, s := range sums {
		set.to(runningDesc, float64(s.running), name, at.database, at.channel)
		set.to(queuedDesc, float64(s.queued), name, at.database, at.channel)
		if s.passedBy > 0 {
			set.to(passedByDesc, float64(s.passedBy), name, at.database, at.channel)
		}
		set.to(failedDesc, float64(s.failed), name, at.database, at.channel)
		if s.oldest > 0 || len(unknown) == 0 || at.database != "" && !unknown[at.database] {
			set.to(oldestDesc, s.oldest, name, at.database, at.channel)
		}
		set.to(pausedDesc, flag(s.paused), name, at.database, at.channel)
		set.to(blockedDesc, flag(s.blocked), name, at.database, at.channel)
	}
}

// rules sends how many jobs a channel may run at once, and what policies do to it.
func (set setter) rules(name, database string, c *runner.ChannelStatus) {
	switch {
	case c.Window != nil:
		set.to(capacityDesc, float64(c.Window.Capacity), name, database, c.FullName)
	case c.Capacity != 0:
		set.to(capacityDesc, float64(max(c.Capacity, 0)), name, database, c.FullName)
	}
	limit, until := c.LimitedBy()
	for by, has := range map[string]bool{"window": c.Windows, "rate": c.Rate != nil || c.Rates} {
		if !has {
			continue
		}
		set.to(limitedDesc, flag(by == limit), name, database, c.FullName, by)
		if by == limit && !until.IsZero() {
			set.to(limitedUntilDesc, float64(until.UnixMilli())/1000, name, database, c.FullName, by)
		}
	}
}

func (set setter) upstreams(name string, st *runner.Status) {
	for i := range st.Upstreams {
		u := &st.Upstreams[i]
		if _, label := nodes.admit(name, "", u.Name); label != u.Name {
			continue
		}
		set.to(upstreamUpDesc, flag(u.Up), name, u.Name)
		set.to(upstreamInFlightDesc, float64(u.InFlight), name, u.Name)
		set.to(upstreamDrainedDesc, flag(u.Drain != nil), name, u.Name)
		if u.Counted {
			set.to(upstreamVisitorsDesc, float64(u.Visitors), name, u.Name)
		}
		if u.Limits.Most() > 0 {
			set.to(upstreamFullDesc, flag(u.Full != ""), name, u.Name)
		}
	}
}

func flag(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
