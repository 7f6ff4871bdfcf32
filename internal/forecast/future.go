package forecast

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// future draws what may come.
type future struct {
	Present

	// waiting and scheduled are by channel, with those below.
	waiting, scheduled map[channels.ID]int
	places             []Place
	runs               map[Place][]time.Duration
	// rates are how many jobs come in a second, and dues of how many the eta comes.
	rates, dues map[Place]float64
	// channel and any are what is known of the runs of a channel in all databases, and of all jobs.
	channel map[string][]time.Duration
	any     []time.Duration
	known   bool
}

func newFuture(p Present) *future {
	f := &future{
		Present: p, waiting: make(map[channels.ID]int), scheduled: make(map[channels.ID]int), known: len(p.Recent) > 0,
		runs: make(map[Place][]time.Duration), channel: make(map[string][]time.Duration),
		rates: rates(p.Arrived, p.Minutes), dues: rates(dueLately(&p), dueMinutes+1),
	}
	for i := range p.Recent {
		j := &p.Recent[i]
		at := Place{j.Database, j.Channel}
		f.runs[at] = append(f.runs[at], j.Run)
		f.channel[j.Channel] = append(f.channel[j.Channel], j.Run)
		f.any = append(f.any, j.Run)
	}
	for at, n := range p.Waiting {
		for id := range above(at.Database, at.Channel, p.Own) {
			f.waiting[id] += n
		}
	}
	for at, minutes := range p.Coming {
		for id := range above(at.Database, at.Channel, p.Own) {
			f.waiting[id] += 0 // it is told of
			for _, n := range minutes {
				f.scheduled[id] += n
			}
		}
	}
	f.places = f.knownPlaces()
	return f
}

// dueMinutes is of how many minutes it counts how many etas came: fewer than with other arrivals, because
// what gives jobs an eta does it for the next minutes or hours, not all day.
const dueMinutes = 5

// dueLately is of how many jobs the eta has come in the last minutes, and comes in the next one.
func dueLately(p *Present) map[Place][]int {
	all := make(map[Place][]int)
	if p.Minutes < dueMinutes {
		return all
	}
	for at, counts := range p.Due {
		all[at] = slices.Clone(counts[max(len(counts)-dueMinutes, 0):])
	}
	for at, minutes := range p.Coming {
		all[at] = append(all[at], minutes[0])
	}
	return all
}

// rates are how many jobs come in a second.
func rates(counts map[Place][]int, minutes int) map[Place]float64 {
	out := make(map[Place]float64, len(counts))
	for at, list := range counts {
		out[at] = rate(list, minutes) / 60
	}
	return out
}

// knownPlaces are those where jobs wait, are to come with their eta, or have come lately: in order, so
// that a seed always draws the same futures.
func (f *future) knownPlaces() []Place {
	all := make(map[Place]bool)
	for at := range f.Waiting {
		all[at] = true
	}
	for at := range f.Coming {
		all[at] = true
	}
	for _, of := range []map[Place]float64{f.rates, f.dues} {
		for at := range of {
			all[at] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), Place.compare)
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
	for _, place := range f.places {
		for id := range above(place.Database, place.Channel, f.Own) {
			if id == at {
				sum += f.rates[place] + f.dues[place]
			}
		}
	}
	return sum * 3600
}

// rate is how many jobs come in a minute, apart from bursts: a minute with more than what is usual, and
// likely by chance, counts as a usual one, because a burst that has come once says nothing of the next one.
func rate(counts []int, minutes int) float64 {
	if minutes <= 0 {
		return 0
	}
	sorted := make([]int, max(minutes, len(counts)))
	copy(sorted, counts)
	slices.Sort(sorted)
	median := float64(sorted[len(sorted)/2])
	most := likely(median)
	sum := 0.0
	for _, n := range sorted {
		if float64(n) > most {
			n = int(median)
		}
		sum += float64(max(n, 0))
	}
	return sum / float64(len(sorted))
}

// likely is how many jobs come at most in a minute, by chance, if so many are usual.
func likely(usual float64) float64 { return usual + 3*math.Sqrt(usual) + 3 }

// horizon is how far can be looked with the jobs that come, and those that wait.
func (f *future) horizon() time.Duration {
	perSecond, waiting := 0.0, 0
	for _, at := range f.places {
		perSecond += f.rates[at] + f.dues[at]
		waiting += f.Waiting[at]
		for _, n := range f.Coming[at] {
			waiting += n
		}
	}
	room := float64(max(outlookJobs/outlooks-waiting, 0))
	if perSecond*Horizon.Seconds() <= room {
		return Horizon
	}
	return max(time.Duration(room/perSecond*float64(time.Second)), horizonLeast)
}

// knownRuns are the runs from which those of a place are drawn.
func (f *future) knownRuns(at Place) []time.Duration {
	if runs := f.runs[at]; len(runs) > 0 {
		return runs
	}
	if runs := f.channel[at.Channel]; len(runs) > 0 {
		return runs
	}
	return f.any
}

// try is one future. What is known of how long jobs run, and how many come, is a sample, and another one
// would have been a bit different: each future has its own.
type try struct {
	*future

	rng   *rand.Rand
	drawn map[Place][]time.Duration
}

// resampled bounds the runs of a place of which each future has its own: of more, the mean is sure.
const resampled = 500

// run draws how long a job of a place runs.
func (f *try) run(at Place) time.Duration {
	runs, ok := f.drawn[at]
	if !ok {
		runs = f.knownRuns(at)
		if n := len(runs); n <= resampled {
			own := make([]time.Duration, n)
			for i := range own {
				own[i] = runs[f.rng.IntN(n)]
			}
			runs = own
		}
		f.drawn[at] = runs
	}
	return runs[f.rng.IntN(len(runs))]
}

// rate draws how many jobs come in a second, of which so many were counted on average.
func (f *try) rate(perSecond float64) float64 {
	counted := perSecond * 60 * float64(f.Minutes)
	if counted <= 0 {
		return perSecond
	}
	return perSecond * max(0, 1+f.rng.NormFloat64()/math.Sqrt(counted))
}

// jobs draws the jobs of one future.
func (f *future) jobs(rng *rand.Rand, horizon time.Duration) []Job {
	return (&try{f, rng, make(map[Place][]time.Duration)}).jobs(horizon)
}

func (f *try) jobs(horizon time.Duration) (list []Job) {
	for i := range f.Running {
		j := f.Running[i]
		if !j.Sent.Before(f.Now) {
			j.Sent = f.Now.Add(-1)
		}
		age := f.Now.Sub(j.Sent)
		j.Run = f.run(Place{j.Database, j.Channel})
		for try := 0; j.Run <= age; try++ { // it runs longer than that
			if j.Run = f.run(Place{j.Database, j.Channel}); try == 20 {
				j.Run = age + j.Run
			}
		}
		list = append(list, j)
	}
	for _, at := range f.places {
		job := func(in time.Duration) {
			list = append(list, Job{Database: at.Database, Channel: at.Channel, Priority: 10, Ready: f.Now.Add(in), Run: f.run(at)})
		}
		for range f.Waiting[at] {
			job(0)
		}
		f.later(at, horizon, job)
		f.arrive(f.rate(f.rates[at]), horizon, job)
		f.unknown(at, horizon, job)
	}
	return list
}

// later draws when in its minute each job comes that waits for its eta.
func (f *try) later(at Place, horizon time.Duration, come func(in time.Duration)) {
	for _, minute := range slices.Sorted(maps.Keys(f.Coming[at])) {
		if minute > int(horizon/time.Minute) {
			return
		}
		for range f.Coming[at][minute] {
			come(time.Duration((float64(minute) + f.rng.Float64()) * float64(time.Minute)))
		}
	}
}

// unknown draws when jobs come that have an eta and are not made yet: of the near future, most of them are
// known, and of later none. Together, they are as many as lately.
func (f *try) unknown(at Place, horizon time.Duration, come func(in time.Duration)) {
	perMinute := 60 * f.rate(f.dues[at])
	minute, known, missing, share := -1, 0.0, 0.0, 0.0
	f.arrive(perMinute/60, horizon, func(in time.Duration) {
		for minute < int(in/time.Minute) {
			minute++
			known += min(float64(f.Coming[at][minute]), likely(perMinute)) // a burst is none of these
			before := missing
			missing = max(missing, perMinute*float64(minute+1)-known)
			share = (missing - before) / perMinute
		}
		if f.rng.Float64() < share {
			come(in)
		}
	})
}

// arrive draws when jobs come of which nothing is known but how many in a second.
func (f *try) arrive(rate float64, horizon time.Duration, come func(in time.Duration)) {
	if rate <= 0 {
		return
	}
	for when := f.rng.ExpFloat64() / rate; when < horizon.Seconds(); when += f.rng.ExpFloat64() / rate {
		come(time.Duration(when * float64(time.Second)))
	}
}
