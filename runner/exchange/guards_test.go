package exchange

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// A later request for the same job stays registered when the earlier one ends.
func TestEarlierEndLeavesTheLaterRequest(t *testing.T) {
	key := channels.Key{DB: "prod", UUID: "a"}
	waits := runs{run: func(ctx context.Context) driver.Result {
		<-ctx.Done()
		return driver.Result{Outcome: driver.Broken}
	}}
	r := NewRegister()
	ended := make(chan *Exchange, 2)
	tell := func(x *Exchange, _ driver.Result) { ended <- x }
	first := r.Start(waits, driver.Upstream{}, driver.Task{Key: key, Enqueued: 1}, zap.NewNop, tell)
	second := r.Start(waits, driver.Upstream{}, driver.Task{Key: key, Enqueued: 2}, zap.NewNop, tell)
	first.Cancel()
	require.Same(t, first, <-ended)
	require.Same(t, second, r.Lookup(key))
	require.Equal(t, 1, r.Len())
	second.Cancel()
	require.Same(t, second, <-ended)
	require.Zero(t, r.Len())
}

// Whoever attaches while the end is being told is told too, once.
func TestAttachWhileTheEndIsTold(t *testing.T) {
	r := NewRegister()
	told, done := 0, make(chan struct{})
	ends := runs{run: func(context.Context) driver.Result { return driver.Result{Outcome: driver.Broken} }}
	r.Start(ends, driver.Upstream{}, driver.Task{}, zap.NewNop, func(x *Exchange, _ driver.Result) {
		x.Attach(func(*Exchange, driver.Result) { told++ })
		require.Equal(t, 1, told, "at once")
		// After this function, finish looks at its list once more and finds nothing new.
		go func() { x.mu.Lock(); defer x.mu.Unlock(); close(done) }()
	})
	<-done
	require.Equal(t, 1, told)
}
