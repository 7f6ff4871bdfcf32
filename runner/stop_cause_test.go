package runner_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// accountant is a session that takes its time to write causes down.
type accountant struct {
	driver.Session
	driver.Stopper

	account func(context.Context)
}

func (a *accountant) Account(ctx context.Context, causes []driver.Cause) ([]driver.Row, error) {
	a.account(ctx)
	return a.Stopper.Account(ctx, causes)
}

// A runner that stops writes down why it has ended a job that is over only then: no later one knows.
func TestTimeoutCauseDuringStop(t *testing.T) {
	for name, c := range map[string]struct {
		// patience is how long Stop may wait; the job ends after 5 s, and account is what happens when its
		// cause is to be written. takes is how long Stop takes at most.
		patience time.Duration
		account  func(context.Context, *bench)
		written  bool
		takes    time.Duration
	}{
		"there is time":            {time.Minute, slowly, true, 6 * time.Second},
		"in the last moment":       {5*time.Second + time.Millisecond, slowly, true, 6 * time.Second},
		"the connection is lost":   {time.Minute, func(_ context.Context, b *bench) { b.LoseSession("prod") }, true, 10 * time.Second},
		"the database is lost":     {time.Minute, func(_ context.Context, b *bench) { unreachable(b) }, false, 18 * time.Second},
		"the database is too slow": {5*time.Second + time.Millisecond, func(ctx context.Context, _ *bench) { <-ctx.Done() }, false, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				until, lost := make(chan struct{}), false
				k := key("prod", "a")
				b.PlanFor(k, mock.Plan{Until: until, IgnoresCancel: true, Ends: channels.Failed})
				cfg := b.limited(&j, func(p *policy.Timeout) { p.Retry = true })
				cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
					return &accountant{s, s.(driver.Stopper), func(ctx context.Context) {
						if !lost {
							lost = true
							c.account(ctx, b)
						}
					}}
				}}
				r := b.start(cfg)
				b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 3 })
				b.settle(65 * time.Second)
				require.Len(b, j.of("a", runner.EventTimeoutCancelled), 1)
				time.AfterFunc(5*time.Second, func() { close(until) })
				ctx, cancel := context.WithTimeout(b.Context(), c.patience)
				defer cancel()
				began := time.Now()
				require.NoError(b, r.Stop(ctx))
				require.LessOrEqual(b, time.Since(began), c.takes)
				require.Equal(b, c.written, len(b.row(k).Causes) == 1)
				require.Equal(b, c.written, b.row(k).State == channels.Pending)
			})
		})
	}
}

func slowly(ctx context.Context, _ *bench) {
	select {
	case <-time.After(900 * time.Millisecond):
	case <-ctx.Done():
	}
}

func unreachable(b *bench) {
	b.Fault("prod", func(f *mock.Faults) { f.OpenErr = errFault })
	b.LoseSession("prod")
}
