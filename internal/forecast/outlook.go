package forecast

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

const (
	// outlooks is how many times the future is tried, and outlookJobs bounds the jobs of all of them.
	outlooks    = 15
	outlookJobs = 150_000
	// Horizon is how far a forecast looks.
	Horizon = 24 * time.Hour
	// horizonLeast is how far it looks in any case, where many jobs come.
	horizonLeast = 10 * time.Minute
)

// Place is the jobs of one channel of one database.
type Place struct{ Database, Channel string }

// compare orders places by their databases, and those of one database by their channels.
func (p Place) compare(other Place) int {
	return cmp.Or(cmp.Compare(p.Database, other.Database), cmp.Compare(p.Channel, other.Channel))
}

// Present is what is known now.
type Present struct {
	Now time.Time
	// Waiting is how many jobs wait that could run, and Coming how many wait for their eta, by the whole
	// minutes until then.
	Waiting map[Place]int
	Coming  map[Place]map[int]int
	// Running are those that run, with when they were sent; how long they will run is not known.
	Running []Job
	// Recent are attempts that have ended lately: how long jobs run is taken from them.
	Recent []Job
	// Arrived is how many jobs have come in each of the last minutes, as many of them as Minutes, and Due
	// of how many the eta has.
	Arrived, Due map[Place][]int
	Minutes      int
	// Own says that each database has its own tree.
	Own bool
}

// Verdict is what can be said of a channel.
type Verdict string

// The verdicts.
const (
	// Empty: no job waits that could run.
	Empty Verdict = "empty"
	// Drains: it will be empty within the times of the outlook.
	Drains Verdict = "drains"
	// Later: it gets emptier, and will not be empty within the horizon.
	Later Verdict = "later"
	// Never: it will not be empty as long as jobs come as they do, or while it is held back.
	Never Verdict = "never"
	// Unknown: no job has ended lately that would tell how long jobs run.
	Unknown Verdict = "unknown"
)

// Outlook is when the jobs of a channel, and of those below it, will have been started.
type Outlook struct {
	// Database is empty where all databases share one tree.
	Database, Channel string
	// Waiting is how many wait that could run, Scheduled how many wait for their eta.
	Waiting, Scheduled int
	// PerHour is how many come in an hour, apart from bursts.
	PerHour float64
	Verdict Verdict
	// In is the time until no job waits that could run, in the middle of what was tried; eight of ten tries were
	// between Least and Most. They are 0 unless the verdict is Drains; of Later, Least is how far was
	// looked.
	In, Least, Most time.Duration
}

// Predict tries the future of a tree with what is known now. It fails only if ctx ends, or if build does.
func Predict(ctx context.Context, build func() (*channels.Forest, error), p Present, seed uint64) ([]Outlook, error) {
	f := newFuture(p)
	all := make(map[channels.ID]*tries, len(f.waiting))
	for at, n := range f.waiting {
		if n > 0 && f.known {
			all[at] = new(tries)
		}
	}
	horizon := f.horizon()
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < outlooks && len(all) > 0; i++ {
		tree, err := build()
		if err != nil {
			return nil, err
		}
		w := newWorld(tree, f.jobs(rng, horizon), p.Now, 0)
		w.waiting, w.own = make(map[channels.ID]int), p.Own
		empty := make(map[channels.ID]time.Duration)
		err = w.run(ctx, p.Now, p.Now.Add(horizon), func(now time.Time) bool {
			for at := range all {
				if _, known := empty[at]; !known && w.waiting[at] == 0 {
					empty[at] = now.Sub(p.Now)
				}
			}
			return len(empty) < len(all)
		})
		if err != nil {
			return nil, err
		}
		for at, t := range all {
			if in, ok := empty[at]; ok {
				t.in = append(t.in, in)
			} else {
				t.left = append(t.left, w.waiting[at])
			}
		}
	}
	list := make([]Outlook, 0, len(f.waiting))
	for at := range f.waiting {
		list = append(list, f.outlook(at, all[at], horizon))
	}
	slices.SortFunc(list, func(a, b Outlook) int {
		return Place{a.Database, a.Channel}.compare(Place{b.Database, b.Channel})
	})
	return list, nil
}

// tries are how the futures of a channel went: the times until it was empty, and of those in which it
// never was, the numbers of jobs that waited at the end.
type tries struct {
	in   []time.Duration
	left []int
}

// outlook judges a channel by its tries, which are nil if there were none.
func (f *future) outlook(at channels.ID, t *tries, horizon time.Duration) Outlook {
	n := f.waiting[at]
	o := Outlook{Database: at.DB, Channel: at.Channel, Waiting: n, Scheduled: f.scheduled[at], PerHour: f.perHour(at), Verdict: Unknown}
	switch {
	case n == 0:
		o.Verdict = Empty
	case t == nil:
	case len(t.in) > outlooks*4/5:
		slices.Sort(t.in)
		o.Verdict, o.In, o.Least, o.Most = Drains, quantile(t.in, .5), quantile(t.in, .1), quantile(t.in, .9)
	default:
		slices.Sort(t.left)
		// Where it has not got clearly emptier, it will not.
		if middle := t.left[len(t.left)/2]; middle >= n*9/10 {
			o.Verdict = Never
		} else {
			o.Verdict, o.Least = Later, horizon
		}
	}
	return o
}
