package channels

import (
	"cmp"
	"slices"
	"time"
)

// Count is how many jobs of one database and one channel are in which state.
type Count struct {
	DB string
	// Channel is the full name of the jobs' own channel.
	Channel string
	// Pending counts the jobs that wait, also those of a suspended database.
	Pending, Enqueued, Started, Failed int
}

// Add adds jobs of one state. Other states than those that are counted change nothing.
func (c *Count) Add(s State, n int) {
	switch s {
	case Pending:
		c.Pending += n
	case Enqueued:
		c.Enqueued += n
	case Started:
		c.Started += n
	case Failed:
		c.Failed += n
	default:
	}
}

// Counts returns the counts of all databases and channels that have jobs, by database and channel.
// Its cost grows with their number, not with that of jobs.
func (m *Manager) Counts() []Count {
	var counts []Count
	for name, d := range m.dbs {
		for _, h := range d.homes {
			counts = append(counts, Count{
				DB: name, Channel: h.channel.name,
				Pending: h.states[Pending], Enqueued: h.states[Enqueued], Started: h.states[Started], Failed: h.states[Failed],
			})
		}
	}
	slices.SortFunc(counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.DB, b.DB), cmp.Compare(a.Channel, b.Channel))
	})
	return merged(counts)
}

// Unfinished returns how many jobs of a database are pending, enqueued or started. Its cost grows with
// the number of the channels that they name.
func (m *Manager) Unfinished(db string) (n int) {
	d := m.dbs[db]
	if d == nil {
		return 0
	}
	for _, h := range d.homes {
		n += h.states[Pending] + h.states[Enqueued] + h.states[Started]
	}
	return n
}

// merged adds up neighbours of one channel: rows may name it with and without root.
func merged(counts []Count) []Count {
	out := counts[:0]
	for _, c := range counts {
		if n := len(out); n > 0 && out[n-1].DB == c.DB && out[n-1].Channel == c.Channel {
			last := &out[n-1]
			last.Pending += c.Pending
			last.Enqueued += c.Enqueued
			last.Started += c.Started
			last.Failed += c.Failed
			continue
		}
		out = append(out, c)
	}
	return out
}

func (h *home) count(s State, by int) { h.states[s] += by }

// Channel returns one channel, or reports false for one that does not exist.
func (m *Manager) Channel(name string) (Status, bool) {
	c := m.find(name)
	if c == nil {
		return Status{}, false
	}
	return c.status(), true
}

// oldestLimit bounds the jobs that Oldest visits in all.
const oldestLimit = 5000

// Oldest returns since when the longest waiting job has been ready to start, by the full name of
// the channel that holds it: since its creation, or its eta. Channels in which nothing waits are
// left out. In queues of many thousands not every job is looked at, and the answer can be too late
// a time; it is right if the oldest job is among the next to start.
func (m *Manager) Oldest(now time.Time) map[string]time.Time {
	oldest, _ := m.oldest(now, oldestLimit)
	return oldest
}

// oldest visits as many jobs as the budget allows and returns what is left of it.
func (m *Manager) oldest(now time.Time, budget int) (oldest map[string]time.Time, left int) {
	since := make(map[*channel]int64)
	var of *channel
	first := int64(never)
	left = m.ready(now, budget, func(c *channel, r *record) {
		if c != of { // one channel after the other
			of, first = c, never
		}
		if at := max(r.created, r.eta); at < first {
			first, since[c] = at, at
		}
	})
	oldest = make(map[string]time.Time, len(since))
	for c, at := range since {
		oldest[c.name] = time.UnixMicro(at).UTC()
	}
	return oldest, left
}

// ready calls see for jobs whose time has come, with the channels that hold them, for as many as the
// budget allows, and returns what is left of it.
func (m *Manager) ready(now time.Time, budget int, see func(c *channel, r *record)) (left int) {
	all := m.root.tree(nil)
	slices.SortFunc(all, func(a, b *channel) int { return cmp.Compare(a.waiting(), b.waiting()) })
	for i, c := range all {
		// Small queues first; what they leave of their share is for the others.
		share := max(budget/(len(all)-i), 1)
		budget -= share
		c.ready.each(&share, func(r *record) { see(c, r) })
		explore(c.eta.items, &share, func(r *record) bool {
			if r.eta > now.UnixMicro() {
				return false
			}
			see(c, r)
			return true
		})
		budget += share
	}
	return max(budget, 0)
}

func (c *channel) waiting() int { return c.ready.len() + c.eta.len() }

// Waiting is a job that waits although its time has come.
type Waiting struct {
	// DB is its database, and Channel the full name of its own channel.
	DB, Channel string
	// Gate is the one that it has to pass; see [Share].
	Gate string
	// Since is when it was created, or its eta.
	Since time.Time
}

// Waiting calls see for jobs that wait although their time has come. It visits as many as Oldest does.
func (m *Manager) Waiting(now time.Time, see func(Waiting)) { m.waiting(now, oldestLimit, see) }

func (m *Manager) waiting(now time.Time, budget int, see func(Waiting)) (left int) {
	return m.ready(now, budget, func(_ *channel, r *record) {
		w := Waiting{DB: r.home.db.name, Channel: r.home.channel.name, Since: time.UnixMicro(max(r.created, r.eta)).UTC()}
		if r.home.gate != nil {
			w.Gate = r.home.gate.name
		}
		see(w)
	})
}
