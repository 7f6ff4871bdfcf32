package runner

// stage is how far a database is from being served. It is the one state of a database that decides:
// whether its jobs may start, whether orders to its session mean anything, and whether a new leader
// waits for it. It changes in [stage.after] alone.
//
// What keeps the jobs of a served database back is not a stage: a hold, a pause and a mistake in its
// channels may come and go together, at any stage ([database.shown], [database.serving]).
type stage uint8

const (
	// stageConnecting: a connection is being made, for the first time or because what the former one
	// found does not hold any more.
	stageConnecting stage = iota
	// stageWaiting: no connection is free for it. It is made as soon as there is one.
	stageWaiting
	// stageUnreachable: the last connection failed; another one follows.
	stageUnreachable
	// stageUndetected and stageNeutralized: nothing may run there. It is examined now and then.
	stageUndetected
	stageNeutralized
	// stageUnhealthy: it cannot be served now; another connection follows.
	stageUnhealthy
	// stageStandby: another program has its lock.
	stageStandby
	// stageLoading: its jobs are being read for the first time on this connection.
	stageLoading
	// stageServed: every unfinished job is known, and the connection lives.
	stageServed
	// stageAsleep: it has nothing to do, and has no session, because others need the connection.
	stageAsleep
	// stageYielding: it is being dropped, renamed or copied, and has no session meanwhile.
	stageYielding
)

// step is what can happen to a database.
type step uint8

const (
	// stepConnect: another connection is being made.
	stepConnect step = iota
	// stepWait: no connection is free.
	stepWait
	// stepFail: a connection could not be made, or was lost.
	stepFail
	// stepSettle: it was made a moment ago, and is left in peace.
	stepSettle
	// stepChange: the connection was given up because the database cannot be served as before.
	stepChange
	// stepUndetected, stepNeutralized, stepUnhealthy: the examination had this result.
	stepUndetected
	stepNeutralized
	stepUnhealthy
	// stepStandby: the lock is held elsewhere.
	stepStandby
	// stepLoad: a snapshot begins, and stepLoaded: it has been applied.
	stepLoad
	stepLoaded
	// stepLeave: it has jobs, and others have its connection for a while.
	stepLeave
	// stepSleep: it has given up its connection, and stepWake: it may have something to do.
	stepSleep
	stepWake
	// stepYield: others need the database for themselves, and stepReturn: not any more.
	stepYield
	stepReturn
)

// after is the table of transitions. What it does not name changes nothing.
func (s stage) after(what step) stage {
	if s == stageYielding {
		// Its session was stopped, so nothing else is true of it.
		if what == stepReturn {
			return stageConnecting
		}
		return s
	}
	switch what {
	case stepConnect, stepChange:
		// A further attempt is no news: why the last one failed says more.
		if s == stageServed || s == stageLoading || s == stageWaiting {
			return stageConnecting
		}
	case stepWait:
		// What was found of the others is still true, as far as it is known.
		if s == stageConnecting || s == stageUnreachable {
			return stageWaiting
		}
	case stepSettle:
		return stageConnecting
	case stepFail:
		return stageUnreachable
	case stepUndetected:
		return stageUndetected
	case stepNeutralized:
		return stageNeutralized
	case stepUnhealthy:
		return stageUnhealthy
	case stepStandby:
		return stageStandby
	case stepLoad:
		if s != stageServed { // where it is one of those that follow every few minutes
			return stageLoading
		}
	case stepLoaded:
		return stageServed
	case stepLeave:
		return stageWaiting
	case stepSleep:
		return stageAsleep
	case stepWake:
		if s == stageAsleep {
			return stageConnecting
		}
	case stepYield:
		return stageYielding
	case stepReturn:
	}
	return s
}

// known reports whether every unfinished job is known, and the session carries orders out.
func (s stage) known() bool { return s == stageServed }

// mayTell reports whether the database may still tell of jobs that run there, if it has not yet.
func (s stage) mayTell() bool {
	switch s {
	case stageConnecting, stageWaiting, stageUnreachable, stageUnhealthy, stageStandby, stageLoading, stageAsleep:
		return true
	case stageUndetected, stageNeutralized, stageServed, stageYielding:
	}
	return false
}

// stageStates are the words that users see, of a stage that nothing else qualifies.
var stageStates = [...]DatabaseState{
	stageConnecting:  DatabaseConnecting,
	stageWaiting:     DatabaseWaiting,
	stageUnreachable: DatabaseUnreachable,
	stageUndetected:  DatabaseUndetected,
	stageNeutralized: DatabaseNeutralized,
	stageUnhealthy:   DatabaseUnhealthy,
	stageStandby:     DatabaseStandby,
	stageLoading:     DatabaseLoading,
	stageServed:      DatabaseReady,
	stageAsleep:      DatabaseAsleep,
	stageYielding:    DatabaseYielding,
}
