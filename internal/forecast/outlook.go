package forecast

import (
	"cmp"
	"context"
	"math"
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

// Present is what is known now.
type Present struct {
	Now time.Time
	// Waiting is how many jobs wait.
	Waiting map[Place]int
	// Running are those that run, with when they were sent; how long they will run is not known.
	Running []Job
	// Recent are attempts that have ended lately: how long jobs run is taken from them.
	Recent []Job
	// Arrived is how many jobs have come in each of the last minutes, as many of them as Minutes.
	Arrived map[Place][]int
	Minutes int
	// Own says that each database has its own tree.
	Own bool
}

// Verdict is what can be said of a channel.
type Verdict string

// The verdicts.
const (
	// Empty: no job waits.
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
	Waiting           int
	// PerHour is how many come in an hour, apart from bursts.
	PerHour float64
	Verdict Verdict
	// In is the time until no job waits, in the middle of what was tried; eight of ten tries were
	// between Least and Most. They are 0 unless the verdict is Drains; of Later, Least is how far was
	// looked.
	In, Least, Most time.Duration
}

// Predict tries the future of a tree with what is known now. It fails only if ctx ends, or if build does.
func Predict(ctx context.Context, build func() (*channels.Forest, error), p Present, seed uint64) ([]Outlook, error) {
	f := newFuture(p)
	type tries struct {
		in   []time.Duration
		left []int
	}
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
	for at, n := range f.waiting {
		o := Outlook{Database: at.DB, Channel: at.Channel, Waiting: n, PerHour: f.perHour(at), Verdict: Unknown}
		switch t := all[at]; {
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
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b Outlook) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Channel, b.Channel))
	})
	return list, nil
}

// future draws what may come.
type future struct {
	Present

	// waiting is by channel, with those below.
	waiting map[channels.ID]int
	places  []Place
	runs    map[Place][]time.Duration
	// rates are how many jobs come in a second.
	rates map[Place]float64
	// channel and any are what is known of the runs of a channel in all databases, and of all jobs.
	channel map[string][]time.Duration
	any     []time.Duration
	known   bool
}

func newFuture(p Present) *future {
	f := &future{
		Present: p, waiting: make(map[channels.ID]int), runs: make(map[Place][]time.Duration), channel: make(map[string][]time.Duration), known: len(p.Recent) > 0,
		rates: make(map[Place]float64, len(p.Arrived)),
	}
	for at, counts := range p.Arrived {
		f.rates[at] = rate(counts, p.Minutes) / 60
	}
	for i := range p.Recent {
		j := &p.Recent[i]
		at := Place{j.Database, j.Channel}
		f.runs[at] = append(f.runs[at], j.Run)
		f.channel[j.Channel] = append(f.channel[j.Channel], j.Run)
		f.any = append(f.any, j.Run)
	}
	for at := range p.Waiting {
		f.places = append(f.places, at)
	}
	for at := range p.Arrived {
		if _, too := p.Waiting[at]; !too {
			f.places = append(f.places, at)
		}
	}
	slices.SortFunc(f.places, func(a, b Place) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Channel, b.Channel))
	})
	for at, n := range p.Waiting {
		for id := range above(at.Database, at.Channel, p.Own) {
			f.waiting[id] += n
		}
	}
	return f
}

// above goes from a channel to root.
func above(database, channel string, own bool) func(yield func(channels.ID) bool) {
	return func(yield func(channels.ID) bool) {
		at := channels.ID{Channel: channel}
		if own {
			at.DB = database
		}
		for ; at.Channel != ""; at.Channel = channels.Parent(at.Channel) {
			if !yield(at) {
				return
			}
		}
	}
}

// perHour is how many jobs of a channel come in an hour.
func (f *future) perHour(at channels.ID) float64 {
	sum := 0.0
	for place, rate := range f.rates {
		for id := range above(place.Database, place.Channel, f.Own) {
			if id == at {
				sum += rate
			}
		}
	}
	return sum * 3600
}

// rate is how many jobs come in a minute, apart from bursts: a minute counts for no more than what is
// usual, with what is likely by chance, because a burst that has come once says nothing of the next one.
func rate(counts []int, minutes int) float64 {
	if minutes <= 0 {
		return 0
	}
	sorted := make([]int, max(minutes, len(counts)))
	copy(sorted, counts)
	slices.Sort(sorted)
	median := float64(sorted[len(sorted)/2])
	most := median + 3*math.Sqrt(median) + 3
	sum := 0.0
	for _, n := range sorted {
		sum += min(float64(max(n, 0)), most)
	}
	return sum / float64(len(sorted))
}

// horizon is how far can be looked with the jobs that come, and those that wait.
func (f *future) horizon() time.Duration {
	perSecond, waiting := 0.0, 0
	for _, rate := range f.rates {
		perSecond += rate
	}
	for _, n := range f.Waiting {
		waiting += n
	}
	room := float64(max(outlookJobs/outlooks-waiting, 0))
	if perSecond*Horizon.Seconds() <= room {
		return Horizon
	}
	return max(time.Duration(room/perSecond*float64(time.Second)), horizonLeast)
}

// run draws how long a job of a place runs.
func (f *future) run(rng *rand.Rand, at Place) time.Duration {
	runs := f.runs[at]
	if len(runs) == 0 {
		runs = f.channel[at.Channel]
	}
	if len(runs) == 0 {
		runs = f.any
	}
	return runs[rng.IntN(len(runs))]
}

// jobs draws the jobs of one future.
func (f *future) jobs(rng *rand.Rand, horizon time.Duration) (list []Job) {
	for i := range f.Running {
		j := f.Running[i]
		if !j.Sent.Before(f.Now) {
			j.Sent = f.Now.Add(-1)
		}
		age := f.Now.Sub(j.Sent)
		j.Run = f.run(rng, Place{j.Database, j.Channel})
		for try := 0; j.Run <= age; try++ { // it runs longer than that
			if j.Run = f.run(rng, Place{j.Database, j.Channel}); try == 20 {
				j.Run = age + j.Run
			}
		}
		list = append(list, j)
	}
	for _, at := range f.places {
		for range f.Waiting[at] {
			list = append(list, Job{Database: at.Database, Channel: at.Channel, Priority: 10, Ready: f.Now, Run: f.run(rng, at)})
		}
		if f.rates[at] <= 0 {
			continue
		}
		between := 1 / f.rates[at]
		for when := rng.ExpFloat64() * between; when < horizon.Seconds(); when += rng.ExpFloat64() * between {
			list = append(list, Job{
				Database: at.Database, Channel: at.Channel, Priority: 10, Run: f.run(rng, at),
				Ready: f.Now.Add(time.Duration(when * float64(time.Second))),
			})
		}
	}
	return list
}
