package exchange

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

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
