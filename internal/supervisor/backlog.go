package supervisor

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

const (
	// backlogInterval is the time between two samples of what waits, backlogKeep how many are kept, and
	// backlogLimit bounds the channels of a sample.
	backlogInterval = time.Minute
	backlogKeep     = 61
	backlogLimit    = 5000
	// comingLimit bounds the jobs that wait for an eta and are visited for a sample, which takes the
	// runner a millisecond.
	comingLimit = 10_000
)

// Backlog is how many jobs waited at a time, by database and channel.
type Backlog struct {
	At time.Time
	// Waiting are those that were pending.
	Waiting map[channels.ID]int
	// Later are those of them that waited for their eta, and Due those of these whose eta came in the
	// minute after that. Both are nil if there were too many.
	Later, Due map[channels.ID]int
}

// Backlogs are samples of what has waited, one a minute for an hour, the oldest first. There are none unless
// this process leads and the runner has a history.
func (r *Runner) Backlogs() []Backlog {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.backlogs)
}

// sample takes one.
func (r *Runner) sample(ctx context.Context) {
	if r.History() == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, controlsTimeout)
	defer cancel()
	st, err := r.Operations.Status(ctx)
	var coming []channels.Coming
	all := false
	if err == nil && st.Leader {
		coming, all, err = r.Coming(ctx, comingLimit)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || !st.Leader || st.TakingOver || len(st.Counts) > backlogLimit {
		r.backlogs = nil
		return
	}
	b := Backlog{At: time.Now(), Waiting: make(map[channels.ID]int)}
	for _, c := range st.Counts {
		if c.Pending > 0 {
			b.Waiting[channels.ID{DB: c.DB, Channel: c.Channel}] = c.Pending
		}
	}
	if all {
		b.later(coming)
	}
	r.backlogs = append(r.backlogs, b)
	r.backlogs = slices.Delete(r.backlogs, 0, max(len(r.backlogs)-backlogKeep, 0))
}

// later adds what waits for its eta.
func (b *Backlog) later(coming []channels.Coming) {
	b.Later, b.Due = make(map[channels.ID]int), make(map[channels.ID]int)
	for i := range coming {
		c := &coming[i]
		id := channels.ID{DB: c.DB, Channel: c.Channel}
		b.Later[id] += c.Jobs
		if c.Minutes == 0 {
			b.Due[id] += c.Jobs
		}
	}
}
