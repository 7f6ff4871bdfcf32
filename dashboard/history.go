package dashboard

import (
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/histogram"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// historyStep is the time that one point of a plot stands for, and
	// historyPoints how many are kept: an hour.
	historyStep   = 30 * time.Second
	historyPoints = 120
	// historyRunners bounds the runners with a past; each takes less than 50 kB.
	historyRunners = 32
	// A time falls into one of latencyBuckets, each latencyRatio times as long as
	// the one before, from latencyLeast on: up to more than a day.
	latencyBuckets = 40
	latencyRatio   = 1.6
	latencyLeast   = time.Millisecond
)

// hour is the last hour of all runners of this process. It is global because it goes on over reloads,
// and dashboards of several configurations show it.
var hour = history{started: time.Now(), runners: make(map[string]*[historyPoints]point)}

// history remembers how many jobs ended, and how long they took. It lives in
// memory, of fixed size, and begins anew with the process.
type history struct {
	started time.Time
	mu      sync.Mutex // guards the following
	runners map[string]*[historyPoints]point
}

// point is a point in time.
type point struct {
	// number counts points since the Unix epoch.
	number             int64
	done, failed, back uint32
	wait, run          latencies
}

// latencies counts times by bucket.
type latencies [latencyBuckets]uint32

func (l *latencies) add(d time.Duration) {
	i := 0
	if d > latencyLeast {
		i = int(math.Ceil(math.Log(float64(d)/float64(latencyLeast)) / math.Log(latencyRatio)))
	}
	l[min(i, latencyBuckets-1)]++
}

// quantile returns, in seconds, the time that a share of them does not exceed;
// nil if there are none. It is right up to latencyRatio.
func (l *latencies) quantile(share float64) *float64 {
	if multiple, ok := histogram.Quantile(l[:], latencyRatio, share); ok {
		return new(latencyLeast.Seconds() * multiple)
	}
	return nil
}

func pointNumber(t time.Time) int64 { return t.UnixNano() / int64(historyStep) }

// Observe remembers an event for the plots and the failures. It does not block.
func Observe(ev runner.Event) {
	hour.note(ev)
	lastFailed.note(&ev)
}

func (h *history) note(ev runner.Event) {
	if !ev.Kind.Final() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	points := h.runners[ev.Runner]
	if points == nil {
		if len(h.runners) >= historyRunners {
			return
		}
		points = new([historyPoints]point)
		h.runners[ev.Runner] = points
	}
	n := pointNumber(ev.Time)
	s := &points[n%historyPoints]
	switch {
	case n < s.number:
		return
	case n > s.number:
		*s = point{number: n}
	}
	switch ev.Kind {
	case runner.EventJobDone:
		s.done++
	case runner.EventJobFailed:
		s.failed++
	case runner.EventJobRetried, runner.EventJobNotRun, runner.EventJobRescued:
		s.back++
	default: // the rest is not plotted
	}
	if ev.Waited() {
		s.wait.add(ev.Wait)
	}
	if ev.Run > 0 && (ev.Kind == runner.EventJobDone || ev.Kind == runner.EventJobFailed) {
		s.run.add(ev.Run)
	}
}

// plots is the last hour of a runner, oldest first. The present point, which is
// not over, is the last one.
type plots struct {
	Runner string    `json:"runner"`
	End    time.Time `json:"end"`
	// Known is since when there is a past.
	Known   time.Time  `json:"known"`
	Step    float64    `json:"step_seconds"`
	Done    []uint32   `json:"done"`
	Failed  []uint32   `json:"failed"`
	Back    []uint32   `json:"put_back"`
	Wait50  []*float64 `json:"wait_p50_seconds"`
	Wait95  []*float64 `json:"wait_p95_seconds"`
	Run50   []*float64 `json:"run_p50_seconds"`
	Run95   []*float64 `json:"run_p95_seconds"`
	Elapsed float64    `json:"last_step_seconds"`
}

// plots returns the last hour of a runner as of a time.
func (h *history) plots(name string, now time.Time) plots {
	last := pointNumber(now)
	begin := time.Unix(0, last*int64(historyStep))
	p := plots{
		Runner: name, End: begin.Add(historyStep).UTC(), Known: h.started.UTC(),
		Step: historyStep.Seconds(), Elapsed: now.Sub(begin).Seconds(),
	}
	var points [historyPoints]point
	h.mu.Lock()
	if kept := h.runners[name]; kept != nil {
		points = *kept
	}
	h.mu.Unlock()
	for n := last - historyPoints + 1; n <= last; n++ {
		s := points[n%historyPoints]
		if s.number != n {
			s = point{}
		}
		p.Done, p.Failed, p.Back = append(p.Done, s.done), append(p.Failed, s.failed), append(p.Back, s.back)
		p.Wait50, p.Wait95 = append(p.Wait50, s.wait.quantile(.5)), append(p.Wait95, s.wait.quantile(.95))
		p.Run50, p.Run95 = append(p.Run50, s.run.quantile(.5)), append(p.Run95, s.run.quantile(.95))
	}
	return p
}

// history answers with the last hour of one runner.
func (*Handler) history(w http.ResponseWriter, r *http.Request) error {
	q, err := admin.Query(r, "runner")
	if err != nil {
		return err
	}
	name, _, err := admin.OneRunner(q.Get("runner"))
	if err != nil {
		return err
	}
	return admin.Answer(w, http.StatusOK, hour.plots(name, time.Now()))
}
