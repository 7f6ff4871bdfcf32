package runner

import (
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// shutdown is how far the end of an engine has come.
type shutdown struct {
	begun bool
	// quiet is closed when the engine is stopping and no statement is under way, drained when no
	// request is open either.
	quiet, drained         chan struct{}
	onceQuiet, onceDrained sync.Once
	// last are closed when no statement is under way and nothing is being written into rows.
	last []chan struct{}
}

// causeLinger bounds how long the end of a runner waits, once no request is open, for a database that
// was lost before what is to be written into its rows was confirmed.
const causeLinger = 10 * time.Second

// check tells [Runner.Stop] when no statement is under way any more, and when no request is. The row of
// a task whose request has just ended is being read: it may have to be put back, and where the
// application does not notice a second request, no later engine can. granted is whether a session
// claims a job by itself, which is no task yet. writing is how far it is that causes are written into
// rows: no later engine knows them.
func (s *shutdown) check(tasks map[channels.Key]*task, granted bool, writing causes) {
	quiet, drained := !granted, !granted && writing == causesWritten
	for _, t := range tasks {
		switch t.phase {
		case phaseClaiming, phaseUnclaiming, phaseAsked:
			quiet, drained = false, false
		case phaseOpen:
			drained = false
		case phaseWatched, phaseParked:
		}
	}
	if quiet {
		s.onceQuiet.Do(func() { close(s.quiet) })
	}
	if drained {
		s.onceDrained.Do(func() { close(s.drained) })
	}
	if quiet && writing != causesOrdered {
		for _, waiting := range s.last {
			close(waiting)
		}
		s.last = nil
	}
}

// causes is how far it is that causes are written into rows.
type causes uint8

const (
	// causesWritten: all orders have been answered, or have waited for too long.
	causesWritten causes = iota
	// causesStranded: those that have not are to databases that are out of reach.
	causesStranded
	// causesOrdered: a session is about to write some.
	causesOrdered
)

// causes is how far it is with those of all databases.
func (d *databases) causes(now time.Time) (worst causes) {
	for _, db := range d.byName {
		for _, c := range db.causes {
			switch {
			case c.ordered.IsZero() || now.Sub(c.ordered) >= causeLinger:
			case db.stage.known():
				worst = causesOrdered
			default:
				worst = max(worst, causesStranded)
			}
		}
	}
	return worst
}

// ending reports whether nothing new may be sent: the engine is stopping, or the process is about to end.
func (e *engine) ending() bool { return e.shutdown.begun || e.config().Exiting() }

// drain begins the end: nothing new is claimed, and what was about to be is not.
func (e *engine) drain() {
	e.shutdown.begun = true
	for _, db := range e.databases.byName {
		if db.session == nil {
			continue
		}
		for _, uuid := range db.session.DropClaims() {
			key := channels.Key{DB: db.Name, UUID: uuid}
			if t := e.tasks[key]; t != nil {
				e.seats.leave(t)
			}
			delete(e.tasks, key)
			e.requeue(key)
		}
	}
}
