package integration

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestPausesSurviveFailOver: two nodes share a storage and a PostgreSQL. What was
// ordered of the one that leads is in force when the other one takes over.
func TestPausesSurviveFailOver(t *testing.T) {
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 1, 1)
	db, home := tb.dbs[0], tb.TempDir()
	leader := tb.startProcess(home)
	tb.untilReady()
	q := tb.beside()
	q.startProcess(home)
	q.until("it stands by", func() bool {
		runners := list(q.get("status", http.StatusOK), "runners")
		return len(runners) == 1 && runners[0]["leader"] == false && runners[0]["leader_known"] == true
	})

	// The leader dies as soon as it has answered.
	tb.post("pause", `{"channel":"forever","note":"audit","by":"operator"}`, http.StatusOK)
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	tb.post("pause", `{"channel":"mail","until":"`+until.Format(time.RFC3339)+`","note":"lunch","by":"operator"}`, http.StatusOK)
	tb.post("pause", `{"channel":"brief","for":"10s"}`, http.StatusOK)
	leader.Kill()
	forever := tb.enqueue(db, in("forever", odoostub.JobSpec{}))[0]
	mail := tb.enqueue(db, in("mail.de", odoostub.JobSpec{}))[0]
	brief := tb.enqueue(db, in("brief", odoostub.JobSpec{}))[0]
	tb.enqueue(db, odoostub.JobSpec{})

	q.until("the other node runs jobs", func() bool { return q.states()["done"] >= 1 })
	require.Zero(t, q.Recorder.Requests(db, forever)+q.Recorder.Requests(db, mail))
	for job, says := range map[string][]string{
		forever: {"channel root.forever is paused by \"operator\" (127.0.0.1", "(audit)"},
		mail:    {"channel root.mail is paused by \"operator\" (127.0.0.1", "until " + until.Format(time.RFC3339), "(lunch)"},
	} {
		q.untilWhy(db, job, "paused_channel")
		_, text := q.why(db, job)
		for _, part := range says {
			require.Contains(t, text, part)
		}
	}
	q.until("a pause ends by itself there, too", func() bool { return q.Recorder.Requests(db, brief) == 1 })
	require.Zero(t, q.Recorder.Requests(db, forever)+q.Recorder.Requests(db, mail))

	require.Equal(t, 1.0, q.post("resume", `{"channel":"mail"}`, http.StatusOK)["changed"])
	q.untilStates(map[string]int{"done": 3, "pending": 1})
	// The node that was killed comes back, and hears what has changed.
	tb.startProcess(home)
	tb.until("it knows", func() bool {
		runners := list(tb.get("status", http.StatusOK), "runners")
		return len(runners) == 1 && len(list(runners[0], "pauses")) == 1
	})
	require.Equal(t, 1.0, q.post("resume", `{"channel":"forever"}`, http.StatusOK)["changed"])
	q.untilStates(map[string]int{"done": 4})
	q.exactlyOnce(map[string]int{"root": 4})
}
