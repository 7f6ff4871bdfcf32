package alerts

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/stretchr/testify/require"
)

// TestEventsWaitForTheirConfiguration: an events app that has not started is not asked, for however long
// that takes; nor is one whose configuration never came into force.
func TestEventsWaitForTheirConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		asked := make(chan bool, 1)
		go func() { asked <- inForce(ctx, new(caddyevents.App)) }()
		<-time.After(time.Minute)
		require.Empty(t, asked)
		cancel()
		require.False(t, <-asked)
	})
}
