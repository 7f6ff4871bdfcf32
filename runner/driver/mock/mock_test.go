package mock_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	key = channels.Key{DB: "prod", UUID: "a"}
	up  = driver.Upstream{Name: "http://a"}
)

// bubble runs a test with one database, one job and a session that leads.
func bubble(t *testing.T, test func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := mock.NewWorld()
		defer w.Close()
		w.AddDatabase("prod")
		w.Insert(mock.NewJob("prod", "a"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		s := open(t, ctx, w)
		lock, err := s.Lock(ctx)
		require.NoError(t, err)
		require.True(t, lock.Held)
		test(t, w, s, ctx)
		require.NoError(t, s.Close(ctx))
		require.Empty(t, w.Violations())
	})
}

func open(t *testing.T, ctx context.Context, w *mock.World) driver.Session {
	t.Helper()
	s, err := w.Driver().OpenSession(ctx, nil, "prod")
	require.NoError(t, err)
	_, err = s.Fingerprint(ctx)
	require.NoError(t, err)
	require.NoError(t, s.Listen(ctx))
	return s
}

func claim(t *testing.T, ctx context.Context, s driver.Session) driver.Task {
	t.Helper()
	tasks, _, err := s.Claim(ctx, []string{"a"}, nil)
	require.NoError(t, err)
	require.Len(t, tasks, 1)
	return tasks[0]
}

func state(t *testing.T, w *mock.World) channels.State {
	t.Helper()
	j, ok := w.Row(key)
	require.True(t, ok)
	return j.State
}

func TestRunPlans(t *testing.T) {
	tests := []struct {
		name    string
		plan    mock.Plan
		outcome driver.Outcome
		took    time.Duration
		state   channels.State
	}{
		{"done at once", mock.Plan{}, driver.Answered, 0, channels.Done},
		{"runs for a minute", mock.Plan{RunFor: time.Minute}, driver.Answered, time.Minute, channels.Done},
		{"fails", mock.Plan{Ends: channels.Failed, Status: 500}, driver.Answered, 0, channels.Failed},
		{"is not sent", mock.Plan{FailBeforeSend: true}, driver.NotSent, 0, channels.Enqueued},
		{"is refused", mock.Plan{Refuse: 303}, driver.Refused, 0, channels.Enqueued},
		{"meets no server", mock.Plan{Refuse: 502}, driver.Unavailable, 0, channels.Enqueued},
		{"stays enqueued", mock.Plan{StayEnqueued: true}, driver.Answered, 0, channels.Enqueued},
		{"drops the connection", mock.Plan{RunFor: time.Hour, DropConnAfter: time.Second}, driver.Broken, time.Second, channels.Started},
		{"crashes", mock.Plan{RunFor: time.Second, Crash: true}, driver.Broken, time.Second, channels.Started},
		{"answers early", mock.Plan{RunFor: time.Hour, AnswerAfter: time.Second}, driver.Answered, time.Second, channels.Started},
		{"answers late", mock.Plan{RunFor: time.Second, HoldAnswer: time.Second}, driver.Answered, 2 * time.Second, channels.Done},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
				task := claim(t, ctx, s)
				w.PlanFor(key, test.plan)
				begin := time.Now()
				res := w.Driver().Run(t.Context(), up, task)
				require.Equal(t, test.outcome, res.Outcome, res.Err)
				require.Equal(t, test.took, time.Since(begin))
				require.Equal(t, test.state, state(t, w))
				require.Empty(t, w.Overlaps())
				require.Equal(t, 1, w.MaxConcurrent(nil))
			})
		})
	}
}

func TestOverlapIsSeen(t *testing.T) {
	bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
		task := claim(t, ctx, s)
		w.SetPlan(mock.Plan{RunFor: time.Minute})
		go w.Driver().Run(t.Context(), up, task)
		synctest.Wait()
		w.Driver().Run(t.Context(), up, task)
		require.NotEmpty(t, w.Overlaps())
		require.Equal(t, 2, w.MaxConcurrent(mock.InChannel("root")))
		require.Zero(t, w.MaxConcurrent(mock.InChannel("root.other")))
	})
}

func TestUpstreamFaults(t *testing.T) {
	bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
		task, d := claim(t, ctx, s), w.Driver()
		w.UpstreamFault(up.Name, func(f *mock.UpstreamFaults) { f.RefuseN, f.CheckErr = 1, errors.New("down") })
		require.EqualError(t, d.Check(ctx, up), "down")
		require.Equal(t, driver.Unavailable, d.Run(ctx, up, task).Outcome)
		w.UpstreamFault(up.Name, func(f *mock.UpstreamFaults) { f.FailBeforeSend = 1 })
		require.Equal(t, driver.NotSent, d.Run(ctx, up, task).Outcome)
		require.Equal(t, driver.Answered, d.Run(ctx, up, task).Outcome)
		require.Equal(t, channels.Done, state(t, w))
	})
}

func TestSessionFaults(t *testing.T) {
	boom := errors.New("boom")
	t.Run("hanging claim", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			w.Fault("prod", func(f *mock.Faults) { f.HangClaim = true })
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, _, err := s.Claim(short, []string{"a"}, nil)
			require.ErrorIs(t, err, driver.ErrLost)
			require.Equal(t, channels.Pending, state(t, w))
		})
	})
	t.Run("claim committed, connection lost", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			w.Fault("prod", func(f *mock.Faults) { f.LoseAfterClaim = true })
			_, _, err := s.Claim(ctx, []string{"a"}, nil)
			require.ErrorIs(t, err, driver.ErrLost)
			require.Equal(t, channels.Enqueued, state(t, w))
		})
	})
	t.Run("claim skips", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			w.Fault("prod", func(f *mock.Faults) { f.Locked = mock.Rows("a") })
			tasks, _, err := s.Claim(ctx, []string{"a"}, nil)
			require.NoError(t, err)
			require.Empty(t, tasks)
		})
	})
	t.Run("slow", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			w.Fault("prod", func(f *mock.Faults) { f.Slow = 2 * time.Second })
			time.AfterFunc(time.Second, func() { w.SetState(key, channels.Done) })
			began := time.Now()
			rows, err := s.Read(ctx, []string{"a"})
			require.NoError(t, err)
			require.Equal(t, 2*time.Second, time.Since(began))
			require.Equal(t, channels.Pending, rows[0].State, "as it was")
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, err = s.Read(short, []string{"a"})
			require.ErrorIs(t, err, driver.ErrLost)
		})
	})
	t.Run("notifications are late", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			w.Fault("prod", func(f *mock.Faults) { f.Late = 2 * time.Second })
			w.Notify("prod", "b")
			w.Fault("prod", func(f *mock.Faults) { f.Late = 0 })
			w.Notify("prod", "c")
			began := time.Now()
			n, err := s.Wait(ctx)
			require.NoError(t, err)
			require.Equal(t, []string{"b"}, n.Changed, "in their order")
			n, err = s.Wait(ctx)
			require.NoError(t, err)
			require.Equal(t, []string{"c"}, n.Changed)
			require.Equal(t, 2*time.Second, time.Since(began))
		})
	})
	t.Run("what changes rows leaves locked ones out", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			task := claim(t, ctx, s)
			w.Fault("prod", func(f *mock.Faults) { f.Locked = mock.Rows("a") })
			rows, err := s.Unclaim(ctx, []driver.Task{task})
			require.NoError(t, err)
			require.Empty(t, rows)
			<-time.After(mock.Grace + 2*time.Second)
			found, err := s.Inspect(ctx, []string{"a"})
			require.NoError(t, err)
			require.Equal(t, driver.Dead, found[0].Verdict)
			rows, err = s.Rescue(ctx, found)
			require.NoError(t, err)
			require.Empty(t, rows)
			require.Equal(t, channels.Enqueued, state(t, w))
		})
	})
	t.Run("a hidden lock", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			claim(t, ctx, s)
			<-time.After(mock.Grace + 2*time.Second)
			w.HoldLock(key, 7)
			w.Update(key, func(j *mock.Job) { j.LockHidden = true })
			found, err := s.Inspect(ctx, []string{"a"})
			require.NoError(t, err)
			require.Equal(t, driver.Dead, found[0].Verdict)
			rows, err := s.Rescue(ctx, found)
			require.NoError(t, err)
			require.Empty(t, rows)
		})
	})
	t.Run("neutralized", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			w.Neutralized("prod")
			_, _, err := s.Claim(ctx, []string{"a"}, nil)
			require.ErrorIs(t, err, driver.ErrChanged)
			require.ErrorIs(t, s.Probe(ctx), driver.ErrChanged)
			require.Equal(t, channels.Pending, state(t, w))
		})
	})
	t.Run("snapshot breaks off", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
			w.Insert(mock.NewJob("prod", "b"))
			w.Fault("prod", func(f *mock.Faults) { f.SnapshotErr, f.SnapshotErrAfter = boom, 1 })
			var seen []string
			err := s.Snapshot(ctx, func(r driver.Row) { seen = append(seen, r.UUID) })
			require.ErrorIs(t, err, boom)
			require.NotErrorIs(t, err, driver.ErrLost)
			require.Equal(t, []string{"a"}, seen)
		})
	})
	t.Run("probe", func(t *testing.T) {
		for name, break_ := range map[string]func(*mock.World){
			"error":       func(w *mock.World) { w.Fault("prod", func(f *mock.Faults) { f.ProbeErr = boom }) },
			"deaf":        func(w *mock.World) { w.Fault("prod", func(f *mock.Faults) { f.Deaf = true }) },
			"lock stolen": func(w *mock.World) { w.LockHeldBy("prod", "pid 7") },
			"terminated":  func(w *mock.World) { w.LoseSession("prod") },
			"down":        func(w *mock.World) { w.Down() },
			"frozen":      func(w *mock.World) { w.Fault("prod", func(f *mock.Faults) { f.Frozen = true }) },
		} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
					require.NoError(t, s.Probe(ctx))
					break_(w)
					require.ErrorIs(t, s.Probe(ctx), driver.ErrLost)
				})
			})
		}
	})
}

func TestViolations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mock.NewWorld()
		defer w.Close()
		w.AddDatabase("prod")
		w.Insert(mock.NewJob("prod", "a"))
		s, err := w.Driver().OpenSession(t.Context(), nil, "prod")
		require.NoError(t, err)
		_, _, err = s.Claim(t.Context(), []string{"a"}, nil)
		require.NoError(t, err)
		require.Equal(t, []string{
			"OpenSession without a deadline", "Claim without a deadline",
			"Claim on prod before Fingerprint", "Claim on prod without the lock",
		}, w.Violations())
		require.NoError(t, s.Close(t.Context()))
	})
}

func TestTwoCallsAtOnceAreAViolation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mock.NewWorld()
		defer w.Close()
		w.AddDatabase("prod")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		s := open(t, ctx, w)
		go func() { _, _ = s.Wait(ctx) }()
		synctest.Wait()
		require.NoError(t, s.Probe(ctx))
		require.Equal(t, []string{"Probe on prod while another call was under way"}, w.Violations())
		cancel()
		synctest.Wait()
		require.NoError(t, s.Close(ctx))
	})
}

func TestCloseEndsWorkers(t *testing.T) {
	bubble(t, func(t *testing.T, w *mock.World, s driver.Session, ctx context.Context) {
		task := claim(t, ctx, s)
		w.SetPlan(mock.Plan{Until: make(chan struct{})})
		result := make(chan driver.Result)
		go func() { result <- w.Driver().Run(t.Context(), up, task) }()
		synctest.Wait()
		require.Equal(t, channels.Started, state(t, w))
		w.Close()
		require.Equal(t, driver.Broken, (<-result).Outcome)
	})
}
