package integration

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

func init() {
	caddy.RegisterModule(alertHandler{})
}

// alerted gets the events that handlers were called with.
var alerted = make(chan caddy.Event, 100)

// alertHandler is a handler of Caddy's events.
type alertHandler struct{}

func (alertHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.alerted", New: func() caddy.Module { return new(alertHandler) }}
}

func (*alertHandler) Handle(_ context.Context, ev caddy.Event) error {
	alerted <- ev
	return nil
}

func TestEventsReachCaddy(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	var cfg map[string]any
	require.NoError(t, json.Unmarshal(tb.adapt(), &cfg))
	cfg["apps"].(map[string]any)["events"] = map[string]any{"subscriptions": []any{map[string]any{
		"events": []string{"jobrunner.job_failed"}, "modules": []string{"jobrunner"},
		"handlers": []any{map[string]any{"handler": "alerted"}},
	}}}
	raw, err := json.Marshal(cfg)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(raw, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	tb.untilReady()
	job := tb.enqueue(tb.dbs[0], in("mail", odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "ValueError"}}))
	ctx, cancel := tb.patient()
	defer cancel()
	select {
	case ev := <-alerted:
		require.Equal(t, "jobrunner.job_failed", ev.Name())
		require.Equal(t, job[0], ev.Data["uuid"])
		require.Equal(t, "root.mail", ev.Data["channel"])
		require.Equal(t, 1, ev.Data["count"])
	case <-ctx.Done():
		require.NoError(t, context.Cause(ctx))
	}
}
