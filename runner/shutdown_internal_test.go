package runner

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// What the end of an engine waits for: for statements that are under way a second, for requests as long
// as it may.
func TestWhatTheEndWaitsFor(t *testing.T) {
	t.Parallel()
	for p, want := range map[phase]struct{ quiet, drained bool }{
		phaseClaiming:   {},
		phaseUnclaiming: {},
		phaseAsked:      {}, // it may have to be put back
		phaseOpen:       {quiet: true},
		phaseWatched:    {quiet: true, drained: true},
		phaseParked:     {quiet: true, drained: true},
	} {
		s := shutdown{quiet: make(chan struct{}), drained: make(chan struct{})}
		s.check(map[channels.Key]*task{{UUID: "a"}: {phase: p}, {UUID: "b"}: {phase: phaseParked}}, false, causesWritten)
		require.Equal(t, want.quiet, closed(s.quiet), phaseNames[p])
		require.Equal(t, want.drained, closed(s.drained), phaseNames[p])
		s.check(nil, false, causesWritten)
		s.check(nil, false, causesWritten)
		require.True(t, closed(s.quiet) && closed(s.drained))
	}
}

// A session that claims by a grant is waited for, although there is no task yet.
func TestTheEndWaitsForAGrant(t *testing.T) {
	t.Parallel()
	s := shutdown{quiet: make(chan struct{}), drained: make(chan struct{})}
	s.check(nil, true, causesWritten)
	require.False(t, closed(s.quiet) || closed(s.drained))
	s.check(nil, false, causesWritten)
	require.True(t, closed(s.quiet) && closed(s.drained))
}

// What is being written into rows is waited for, too: at the very end only for what is on its way.
func TestTheEndWaitsForCauses(t *testing.T) {
	t.Parallel()
	for writing, want := range map[causes]struct{ drained, finished bool }{
		causesWritten:  {true, true},
		causesStranded: {false, true},
		causesOrdered:  {false, false},
	} {
		last := make(chan struct{})
		s := shutdown{quiet: make(chan struct{}), drained: make(chan struct{}), last: []chan struct{}{last}}
		s.check(map[channels.Key]*task{{UUID: "a"}: {phase: phaseAsked}}, false, writing)
		require.False(t, closed(last))
		s.check(map[channels.Key]*task{{UUID: "a"}: {phase: phaseParked}}, false, writing)
		require.True(t, closed(s.quiet))
		require.Equal(t, want.drained, closed(s.drained))
		require.Equal(t, want.finished, closed(last))
		s.check(nil, false, writing)
	}
}

// How far it is with the causes is what the worst of all databases says, and what takes too long does
// not count.
func TestHowFarCausesAre(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for name, c := range map[string]struct {
		ordered time.Time
		stage   stage
		want    causes
	}{
		"answered":            {time.Time{}, stageServed, causesWritten},
		"on its way":          {now, stageServed, causesOrdered},
		"for almost too long": {now.Add(1 - causeLinger), stageServed, causesOrdered},
		"for too long":        {now.Add(-causeLinger), stageServed, causesWritten},
		"out of reach":        {now, stageUnreachable, causesStranded},
	} {
		e := still(map[string]stage{"prod": c.stage, "other": stageServed, "lost": stageUnreachable})
		e.databases.get("prod").causes = map[string]unwritten{"a": {ordered: c.ordered}}
		require.Equal(t, c.want, e.databases.causes(now), name)
	}
}

// What was about to be claimed goes back to the queues, and the room at the servers is free, in whatever
// order the databases come, and whether they have a session or not.
func TestDrain(t *testing.T) {
	t.Parallel()
	for range 4 {
		e, db := served()
		for i := range 8 {
			e.databases.byName["lost"+strconv.Itoa(i)] = &database{stage: stageUnreachable}
		}
		e.seats.limited = true
		task := &task{}
		e.seats.take(task, e.seats.rows[0])
		key := e.holds("prod", "a", task)
		db.session.Claim("a", "no task")
		e.drain()
		require.True(t, e.ending())
		require.Empty(t, e.tasks)
		require.Zero(t, e.seats.rows[0].taken)
		_, state, _ := e.tree.Lookup(key)
		require.Equal(t, channels.Pending, state)
		require.Empty(t, db.session.DropClaims())
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
