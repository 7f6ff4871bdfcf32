package runner

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
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
