package runner

import (
	"sync"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// shutdown is how far the end of an engine has come.
type shutdown struct {
	begun bool
	// quiet is closed when the engine is stopping and no statement is under way, drained when no
	// request is open either.
	quiet, drained         chan struct{}
	onceQuiet, onceDrained sync.Once
}

// check tells [Runner.Stop] when no statement is under way any more, and when no request is. The row of
// a task whose request has just ended is being read: it may have to be put back, and where the
// application does not notice a second request, no later engine can.
func (s *shutdown) check(tasks map[channels.Key]*task) {
	quiet, drained := true, true
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
