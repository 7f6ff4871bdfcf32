package channels

import (
	"fmt"
	"time"
)

// Reason says why a job is where it is.
type Reason uint8

// The reasons, each with the fields of Explanation that it fills beyond Job, State, Reason, Channel
// and Ahead.
const (
	// ReasonRunning: the job counts as running.
	ReasonRunning Reason = iota + 1
	// ReasonFailed: the job failed and waits until it is requeued.
	ReasonFailed
	// ReasonReady: the next pass starts it.
	ReasonReady
	// ReasonETA: its eta has not come (Until).
	ReasonETA
	// ReasonPaused: the channel is paused, by configuration or by Pause.
	ReasonPaused
	// ReasonChannelFull: the channel has no free slot (Capacity, Running).
	ReasonChannelFull
	// ReasonThrottled: the channel lets nothing pass for a while (Until).
	ReasonThrottled
	// ReasonSequentialFailed: the channel is sequential and has a failed job (Blocker).
	ReasonSequentialFailed
	// ReasonSequentialETA: the channel is sequential and a job that comes first waits for its eta
	// (Blocker, Until).
	ReasonSequentialETA
	// ReasonLimit: the jobs of its database, or company, are as many as they may be, or those that go
	// before it will be (Share).
	ReasonLimit
	// ReasonSerialized: another job with the same identity key runs, or goes first (Blocker, Share).
	ReasonSerialized
	// ReasonNoRoom: the gate that it has to pass has no room (Gate), because no server has.
	ReasonNoRoom
	// ReasonMin: the free slots of the channel are kept for others, below it, that have a minimum (Kept).
	ReasonMin
	// ReasonBehind: the next pass gives the channel's free slots to others (Capacity, Running).
	ReasonBehind
	// ReasonSuspended: the database is being loaded or cannot be served.
	ReasonSuspended
	// ReasonWithheld: the database has its own tree, and its configuration is not known or cannot
	// be used.
	ReasonWithheld
	// ReasonDisplaced: channels have changed, and only the rows tell where some jobs of the database
	// belong now. See Displaced.
	ReasonDisplaced
	// ReasonMaxCapacity: all databases together, each with its own tree, run as many jobs as they
	// may (Capacity, Running).
	ReasonMaxCapacity
	// ReasonWindow: a window of a policy lets no further job of the channel run at this time (Policy,
	// Window, Running, and Until if that will change).
	ReasonWindow
	// ReasonRate: too many jobs of the channel have started for the rate of a policy (Policy, Rate,
	// Until).
	ReasonRate
)

var reasonNames = [...]string{
	ReasonRunning:          "running",
	ReasonFailed:           "failed",
	ReasonReady:            "ready",
	ReasonETA:              "eta",
	ReasonPaused:           "paused",
	ReasonChannelFull:      "channel_full",
	ReasonThrottled:        "throttled",
	ReasonSequentialFailed: "sequential_failed",
	ReasonSequentialETA:    "sequential_eta",
	ReasonLimit:            "limit",
	ReasonSerialized:       "serialized",
	ReasonNoRoom:           "no_server",
	ReasonMin:              "min",
	ReasonBehind:           "behind",
	ReasonSuspended:        "suspended",
	ReasonWithheld:         "channels_withheld",
	ReasonDisplaced:        "channels_reread",
	ReasonMaxCapacity:      "max_capacity",
	ReasonWindow:           "capacity_window",
	ReasonRate:             "rate",
}

// String returns the reason in lower case with underscores.
func (r Reason) String() string {
	if int(r) >= len(reasonNames) || r == 0 {
		return fmt.Sprintf("Reason(%d)", uint8(r))
	}
	return reasonNames[r]
}

// Explanation says why a job does, or does not, run.
type Explanation struct {
	Job    Job
	State  State
	Reason Reason
	// Channel is the full name of the channel that holds the job: its own or one above. For a
	// running or failed job it is its own.
	Channel string
	// Until is when the reason goes away by itself; zero if that is not known.
	Until time.Time
	// Blocker is the one other job that has to go first, if there is one.
	Blocker Key
	// Ahead is the number of jobs in Channel that go before this one. AtLeast is set when there are
	// so many that they have not all been counted.
	Ahead   int
	AtLeast bool
	// Capacity and Running are those of Channel. See Status.
	Capacity, Running int
	// Policy names the policy that says so.
	Policy string
	// Window is the one in force for Channel, and Rate its rate, if that is the reason.
	Window *Window
	Rate   *Rate
	// Share is the limit that holds the job back, if one does.
	Share *ShareUse
	// Gate is the one that the job has to pass; see [Share].
	Gate string
	// Kept says how many slots are kept for which channels, if that is the reason: "1 for root.mail".
	Kept string
	// Turns is set where Channel is shared fairly. Ahead then counts jobs of the same key only.
	Turns *Turns
	// Shared is set if the job's own channel is one for many names; see NamesPerDatabase.
	Shared bool
}

// Explain tells why a job does, or does not, run at the given time, or reports false for a job that
// is not known. It changes nothing.
//
// It describes what the next pass would find. It does not know the jobs that this pass would first
// bring up from other channels, so an explanation can be too optimistic while Pending is true. Its
// cost grows with the number of jobs that go before this one, up to a limit.
func (m *Manager) Explain(k Key, now time.Time) (Explanation, bool) {
	r := m.known(k)
	if r == nil {
		return Explanation{}, false
	}
	own := r.home.channel
	t := now.UnixMicro()
	e := Explanation{Job: r.job(), State: r.state, Channel: own.name, Capacity: own.shownCapacity(), Running: own.running, Shared: r.home.shared}
	if r.home.gate != nil {
		e.Gate = r.home.gate.name
	}
	switch {
	case r.location == inRunning:
		e.Reason = ReasonRunning
	case r.location == inFailed:
		e.Reason = ReasonFailed
	case r.parked() && !r.home.db.unwanted:
		e.Reason = ReasonDisplaced
	case r.parked():
		e.Reason = ReasonSuspended
	case r.location == inETAQueue && r.eta > t:
		e.Reason = ReasonETA
		e.Until = time.UnixMicro(r.eta).UTC()
	default:
		c := own
		if r.location.inReady() {
			c = own.ancestor(r.location)
		}
		for c != nil && !e.holds(c, r, t) {
			c = c.parent
		}
	}
	return e, true
}

// holds fills in why channel c keeps a job that is in its queue, or would be after having passed
// what is below. If c is root it always finds a reason.
func (e *Explanation) holds(c *channel, r *record, now int64) bool {
	e.Channel, e.Capacity, e.Running = c.name, c.shownCapacity(), c.running
	var best, next *record
	var floored map[*channel]int
	e.Ahead, e.AtLeast, floored, best, next = c.competitors(r, now)
	limit, kept := c.limitOf(r), c.kept(r)
	toll, tollAhead := c.shutFor(r)
	e.Turns = c.turns(r)
	switch {
	case c.paused, c.stopped:
		e.Reason = ReasonPaused
	case c.sequential && c.failed.len() > 0:
		e.Reason = ReasonSequentialFailed
		e.Blocker = c.failed.first().key()
	case limit != nil && limit.Running >= limit.Limit:
		e.limited(limit)
	case !c.hasCapacity():
		e.full(c)
	case kept != "":
		e.Reason, e.Kept = ReasonMin, kept
	case c.pausedUntil > now:
		e.Reason = ReasonThrottled
		e.Until = time.UnixMicro(c.pausedUntil).UTC()
	case c.sequential && next != nil && next.before(best):
		e.Reason = ReasonSequentialETA
		e.Blocker = next.key()
		e.Until = time.UnixMicro(next.eta).UTC()
	case r.home.gate != nil && !r.home.gate.open():
		e.Reason = ReasonNoRoom
	case limit != nil:
		e.limited(limit)
	case toll != nil:
		e.tolled(toll, tollAhead, r.home.shares[toll.channel.depth].RateSource)
	case !c.ruling.affords(c, 1+e.before()):
		e.rated(c)
	case c.throttle != 0 && e.Ahead > 0, c.crowded(r, e.before(), floored):
		e.Reason = ReasonBehind
	case c.parent == nil:
		e.Reason = ReasonReady
	default:
		return false
	}
	return true
}

// before is how many jobs go before the job, as far as that is known.
func (e *Explanation) before() int {
	if e.Turns != nil {
		return e.Ahead + e.Turns.Before
	}
	return e.Ahead
}

// competitors examines the jobs in the queue of c whose time has come, r included: how many of them
// go before r, how many of these come through each channel with a minimum, and which is the best. The
// job with the earliest eta still to come is next. What sorts after r need not be visited, and there is
// a limit for the rest (atLeast).
func (c *channel) competitors(r *record, now int64) (ahead int, atLeast bool, floored map[*channel]int, best, next *record) {
	best = r
	budget := explainLimit
	compete := func(o *record) {
		if o.before(r) {
			ahead++
		}
		if o.before(best) {
			best = o
		}
	}
	if c.ready.shared != nil {
		ahead, floored, best = c.ready.shared.competitors(r, &budget)
	} else {
		explore(c.ready.items, &budget, func(o *record) bool {
			compete(o)
			return o.before(r)
		})
	}
	explore(c.eta.items, &budget, func(o *record) bool {
		if o.eta <= now {
			if c.ready.shared != nil && (c.held(o) || c.tollShut(o)) {
				return true
			}
			compete(o)
			return true
		}
		if next == nil || (etaOrder{}).before(o, next) {
			next = o
		}
		return false
	})
	return ahead, budget == 0, floored, best, next
}

// explainLimit bounds the jobs of one queue that an explanation visits, so that a queue of a
// million jobs does not hold up its owner.
const explainLimit = 10000

// explore visits the items of a binary heap from the top, as many as the budget allows, and goes
// below those for which visit returns true.
func explore(items []*record, budget *int, visit func(*record) bool) {
	if len(items) == 0 {
		return
	}
	for open := []int{0}; len(open) > 0 && *budget > 0; *budget-- {
		i := open[0]
		open = open[1:]
		if !visit(items[i]) {
			continue
		}
		for child := 2*i + 1; child <= 2*i+2 && child < len(items); child++ {
			open = append(open, child)
		}
	}
}

// String returns the explanation in one sentence for a person.
func (e Explanation) String() string {
	s := e.sentence()
	if e.Shared {
		s += fmt.Sprintf("; database %s names more than %d channels, and the rest of its names share one", e.Job.DB, NamesPerDatabase)
	}
	return s
}

func (e Explanation) sentence() string {
	job := "job " + e.Job.Key.String()
	waits := job + " waits: "
	behind := e.behind()
	until := e.Until.Format(time.RFC3339Nano)
	switch e.Reason {
	case ReasonRunning:
		return fmt.Sprintf("%s is %s in channel %s", job, e.State, e.Channel)
	case ReasonFailed:
		return fmt.Sprintf("%s failed in channel %s and runs again only if it is requeued", job, e.Channel)
	case ReasonReady:
		return job + " starts in the next scheduling pass"
	case ReasonETA:
		return fmt.Sprintf("%sits eta is %s", waits, until)
	case ReasonPaused:
		return fmt.Sprintf("%schannel %s is paused%s", waits, e.Channel, behind)
	case ReasonChannelFull:
		return waits + e.taken(behind)
	case ReasonThrottled:
		return fmt.Sprintf("%schannel %s is throttled until %s%s", waits, e.Channel, until, behind)
	case ReasonSequentialFailed:
		return fmt.Sprintf("%schannel %s is sequential and job %s failed in it%s", waits, e.Channel, e.Blocker, behind)
	case ReasonSequentialETA:
		return fmt.Sprintf("%schannel %s is sequential and job %s comes first, whose eta is %s",
			waits, e.Channel, e.Blocker, until)
	case ReasonSuspended:
		return fmt.Sprintf("%sdatabase %s is not being served", waits, e.Job.DB)
	case ReasonWithheld:
		return fmt.Sprintf("%sthe channels of database %s are not known, or cannot be used", waits, e.Job.DB)
	case ReasonDisplaced:
		return fmt.Sprintf("%schannels have changed, and the jobs of database %s are being read anew", waits, e.Job.DB)
	case ReasonMaxCapacity:
		if e.Capacity <= 0 {
			return waits + "max_capacity is 0, so nothing runs in any database"
		}
		return fmt.Sprintf("%smax_capacity is reached (%d running in all databases, %d may)%s", waits, e.Running, e.Capacity, behind)
	case ReasonWindow:
		return waits + e.window() + behind
	case ReasonRate:
		return fmt.Sprintf("%s%s lets %s of channel %s start, and this one not before %s%s", waits, e.Policy, e.Rate.spell(), e.Channel, until, behind)
	case ReasonLimit, ReasonSerialized:
		return waits + e.Share.String() + behind
	case ReasonNoRoom:
		return fmt.Sprintf("%sthere is no room for it at %s%s", waits, e.Gate, behind)
	case ReasonMin:
		return fmt.Sprintf("%sthe free slots of channel %s are kept (min): %s%s", waits, e.Channel, e.Kept, behind)
	case ReasonBehind:
		if e.Turns != nil && e.Turns.Before > 0 {
			return fmt.Sprintf("%s%s before it in channel %s%s", waits, e.CountAhead(), e.Channel, "; "+e.Turns.String())
		}
		return fmt.Sprintf("%s%s before it in channel %s", waits, e.CountAhead(), e.Channel)
	default:
		return job + ": " + e.Reason.String()
	}
}

// behind says what goes before the job; empty for nothing.
func (e Explanation) behind() (s string) {
	if e.Ahead > 0 {
		s = fmt.Sprintf(", and %s before it", e.CountAhead())
	}
	if e.Turns != nil && e.Turns.Before > 0 {
		s += "; " + e.Turns.String()
	}
	return s
}

// taken says that a channel has no slot left.
func (e Explanation) taken(behind string) string {
	if e.Capacity < 0 {
		return fmt.Sprintf("channel %s has a negative capacity and never runs a job", e.Channel)
	}
	return fmt.Sprintf("channel %s is full (%d running, capacity %d)%s", e.Channel, e.Running, e.Capacity, behind)
}

// CountAhead says how many jobs go before this one: "2 jobs go".
func (e Explanation) CountAhead() string {
	s := count(e.Ahead, "job goes", "jobs go")
	if e.AtLeast {
		return "at least " + s
	}
	return s
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
