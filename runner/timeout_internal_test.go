package runner

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// If the signal to one attempt fails, those before it have been sent all the same.
func TestSomeSignalsFail(t *testing.T) {
	t.Parallel()
	e, db := served()
	p := &policy.Policy{Channels: []string{"root"}, Timeout: &policy.Timeout{After: time.Minute, Cancel: true}}
	var attempts []driver.Task
	for i, uuid := range []string{"a", "b"} {
		l := &limit{policy: p, enqueued: int64(i + 1), began: time.Now().Add(-time.Hour)}
		attempt := driver.Task{Key: channels.Key{DB: "prod", UUID: uuid}, Enqueued: l.enqueued}
		e.holds("prod", uuid, &task{phase: phaseOpen, attempt: attempt, limit: l})
		attempts = append(attempts, attempt)
	}
	e.stopped(db, attempts, []driver.Stopped{{Task: attempts[0], Result: driver.Signalled}}, false, errors.New("refused"))
	require.Equal(t, TimeoutCancelled, e.tasks[attempts[0].Key].limit.is())
	require.Same(t, p, e.tasks[attempts[0].Key].limit.ended)
	require.Equal(t, TimeoutStuck, e.tasks[attempts[1].Key].limit.is())
	require.Nil(t, e.tasks[attempts[1].Key].limit.ended)
}

// How many attempts are kept whose connections were closed is bounded, and so is for how long those are
// of a database that is not there.
func TestClosedConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	e, db := served()
	now := time.Now()
	p := &policy.Policy{Channels: []string{"root"}, Timeout: &policy.Timeout{After: time.Minute, Cancel: true}}
	task := &task{phase: phaseOpen, attempt: driver.Task{Key: channels.Key{DB: "prod", UUID: "a"}, Enqueued: now.UnixMicro()}}
	task.limit = &limit{policy: p, enqueued: task.attempt.Enqueued, began: now.Add(-time.Hour), cancelled: now.Add(-time.Hour)}
	e.holds("prod", "a", task)
	left := make([]Slots, 10*closedLimit)
	for i := range left {
		left[i] = Slots{Database: "dropped", UUID: strconv.Itoa(i), Enqueued: now.Add(-closedFor).UnixMicro()}
	}
	e.takeOver(left)
	require.Len(t, e.handover.closed, inheritedLimit)
	require.False(t, e.handover.mayClose(&task.attempt))
	db.session = session.New("prod", nil, nil)
	e.stop(db, task.attempt.Key, task, now)
	require.Equal(t, TimeoutStuck, task.limit.is())
	require.Contains(t, task.limit.describe(now), "too many jobs")
	require.NotContains(t, e.handover.closed, task.attempt.Key)

	for _, kept := range []channels.Key{{DB: "prod", UUID: "b"}, {DB: "dropped", UUID: "young"}} {
		at := now.Add(-closedFor)
		if kept.UUID == "young" {
			at = at.Add(time.Second)
		}
		e.handover.closed[kept] = closedAttempt{enqueued: at.UnixMicro(), inherited: true}
	}
	e.expireClosed(now)
	require.Len(t, e.handover.closed, 2)
	require.True(t, e.handover.mayClose(&task.attempt))
}

// What was announced is forgotten once it is known that no connection was closed, and no request is open.
func TestForgettingWhatWasNotClosed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		closed closedAttempt
		task   *task
		want   bool
	}{
		"announced only":  {closedAttempt{}, &task{phase: phaseWatched}, true},
		"no task":         {closedAttempt{}, nil, true},
		"open":            {closedAttempt{}, &task{phase: phaseOpen, exchange: &exchange.Exchange{}}, false},
		"ordered":         {closedAttempt{orders: 1}, &task{phase: phaseWatched}, false},
		"closed":          {closedAttempt{done: true}, &task{phase: phaseWatched}, false},
		"a former leader": {closedAttempt{inherited: true}, &task{phase: phaseWatched}, false},
	} {
		e, db := served()
		key := e.holds("prod", "a", c.task)
		e.handover.closed = map[channels.Key]closedAttempt{key: c.closed}
		e.forgetUnclosed(key)
		require.Equal(t, c.want, len(e.handover.closed) == 0, name)

		// Results of orders that are about other attempts change nothing.
		e.handover.closed[key] = closedAttempt{enqueued: 5, orders: 1}
		e.stopped(db, []driver.Task{{Key: key, Enqueued: 6}}, []driver.Stopped{{Task: driver.Task{Key: key, Enqueued: 6}}}, true, nil)
		e.stopped(db, []driver.Task{{Key: key, Enqueued: 5}}, []driver.Stopped{{Task: driver.Task{Key: key, Enqueued: 5}}}, false, nil)
		e.handover.ordered(&driver.Task{Key: key, Enqueued: 6})
		require.Equal(t, closedAttempt{enqueued: 5, orders: 1}, e.handover.closed[key], name)
	}
}
