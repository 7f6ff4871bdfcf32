//go:build attack

package attack

import (
	"context"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// beat is the time between two jobs of the good tenant, commitTimeout how long he
	// waits for the database.
	beat          = 25 * time.Millisecond
	commitTimeout = 10 * time.Second
)

// load is the good tenant: one short job after the other, all the time.
type load struct {
	b *bed

	mu   sync.Mutex
	jobs []committed
	end  func()
}

// committed is a job, and when its commit was confirmed.
type committed struct {
	uuid string
	at   time.Time
}

func newLoad(b *bed) *load { return &load{b: b, end: func() {}} }

func (l *load) start() {
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	l.end = func() {
		cancel()
		<-gone
	}
	go func() {
		defer close(gone)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for ctx.Err() == nil {
			l.commit()
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
}

func (l *load) commit() {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	uuids, err := odoostub.Enqueue(ctx, l.b.Pool(goodDB), []odoostub.JobSpec{{Behaviour: odoostub.Behaviour{SleepMS: 5}}})
	if err != nil {
		return // he tries again
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.jobs = append(l.jobs, committed{uuids[0], time.Now()})
}

// stop ends the load and waits for that.
func (l *load) stop() {
	l.end()
	l.end = func() {}
}

// p99 is the 99th percentile of the time from commit to start, of the jobs that were
// committed in a time. A job that has not been started counts as if it was now.
func (l *load) p99(from, to time.Time) (p99 time.Duration, jobs int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var waits []time.Duration
	for _, job := range l.jobs {
		if job.at.Before(from) || job.at.After(to) {
			continue
		}
		start := l.b.Recorder.FirstRequestAt(goodDB, job.uuid)
		if start.IsZero() {
			start = time.Now()
		}
		waits = append(waits, max(start.Sub(job.at), 0))
	}
	return testbed.Percentile(waits, 99), len(waits)
}

// changed counts the jobs that were not run once, or whose rows are gone.
func (l *load) changed() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, job := range l.jobs {
		if l.b.Recorder.Executions(goodDB, job.uuid) != 1 {
			n++
		}
	}
	return n
}
