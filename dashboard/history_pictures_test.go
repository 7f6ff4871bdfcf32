//go:build browser

package dashboard

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	past "github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/browsertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// day is that of a shop: mails and shipments all the time, and an export, one job at a time, that is
// too slow for what comes.
func day(now time.Time) (events []runner.Event) {
	note := func(ev runner.Event) {
		ev.Runner, ev.Database, ev.Outcome = "default", "prod_eu", "answered"
		events = append(events, ev)
	}
	for m := range 24 * 60 {
		at := now.Add(-time.Duration(m)*time.Minute - 30*time.Second)
		busy := time.Duration(1+(m/97)%5) * 100 * time.Millisecond
		note(runner.Event{Kind: runner.EventJobDone, Time: at, Channel: "root.mail", Model: "mail.mail", Method: "send", Wait: 3 * busy, Run: 4 * busy})
		if m%3 == 0 {
			note(runner.Event{Kind: runner.EventJobDone, Time: at, Channel: "root.stock", Model: "stock.picking", Method: "sync_carrier", Wait: 10 * busy, Run: 40 * busy})
		}
		if m%41 == 0 {
			note(runner.Event{Kind: runner.EventJobFailed, Time: at, Channel: "root.stock", Model: "stock.picking", Method: "sync_carrier", Run: time.Second, Exception: []string{"requests.exceptions.ConnectionError", "requests.exceptions.ConnectionError", "odoo.exceptions.UserError"}[m%3]})
		}
	}
	for i := range 85 { // the last hour
		note(runner.Event{Kind: runner.EventJobDone, Time: now.Add(time.Duration(i-86)*40*time.Second + 40*time.Second), Channel: "root.export", Model: "sale.order", Method: "export_to_shop", Wait: time.Duration(i)*12*time.Second + 10*time.Millisecond, Run: 39990 * time.Millisecond})
	}
	slices.SortFunc(events, func(a, b runner.Event) int { return a.Time.Compare(b.Time) })
	return events
}

// TestScreenshotsOfHistory takes the pictures of the past, of the forecast and of what another capacity
// would have meant.
func TestScreenshotsOfHistory(t *testing.T) {
	now := time.Now()
	e := &quiet{}
	channel := func(name string, capacity, queued int) runner.ChannelStatus {
		return runner.ChannelStatus{Status: channels.Status{FullName: name, Configured: true, Capacity: capacity, Queued: queued}}
	}
	e.Says = runner.Status{
		Leader: true, LeaderKnown: true, Counts: []channels.Count{{DB: "prod_eu", Channel: "root.export", Pending: 26}},
		Databases: []runner.DatabaseStatus{{Name: "prod_eu", State: runner.DatabaseReady, Connected: now, Heard: now.Add(time.Hour)}},
		Channels:  []runner.ChannelStatus{channel("root", 8, 26), channel("root.export", 1, 26), channel("root.mail", 4, 0), channel("root.stock", 2, 0)},
		Upstreams: []runner.UpstreamStatus{{Name: "http://10.0.0.5:8069", Up: true}},
	}
	cfg := runner.Config{Name: "default", Logger: zap.NewNop(), Channels: []channels.Config{
		{Name: "root", Capacity: 8}, {Name: "root.export", Capacity: 1}, {Name: "root.mail", Capacity: 4}, {Name: "root.stock", Capacity: 2},
	}}
	k := fakerunner.RunConfig(t, cfg, e, &past.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	// Only an hour of intervals may wait to be written.
	begun, list := now.Add(-24*time.Hour), day(now)
	for i, ev := range list {
		past.Observe(ev)
		if i+1 < len(list) && list[i+1].Time.Sub(begun) < 45*time.Minute {
			continue
		}
		require.Eventually(t, func() bool {
			r, err := k.History().Query(t.Context(), past.Query{From: now.Add(-25 * time.Hour)})
			return err == nil && r.Total.Attempts() == uint64(i+1)
		}, time.Minute, 10*time.Millisecond)
		begun = ev.Time
	}
	address := serve(t, "")
	for name, c := range map[string]struct {
		by     string
		device browsertest.Device
	}{
		"history":         {"function", browsertest.Device{Width: 1440, Height: 1080}},
		"history-phone":   {"function", browsertest.Device{Width: 390, Height: 1500, Phone: true}},
		"exceptions-dark": {"exception", browsertest.Device{Width: 1440, Height: 1080, Dark: true}},
	} {
		p := browsertest.New(t)
		p.Use(c.device)
		openPast(p, address)
		showBy(p, c.by)
		p.Until("document.querySelector('#past-groups tbody tr') && document.querySelector('#past-forecast tbody tr')")
		whatIf(p, "root.export", 2)
		p.Until("document.querySelector('#what-if-table tbody tr')")
		browsertest.Eval[any](p, "document.activeElement.blur(), document.querySelector('[aria-labelledby=h-past]').scrollIntoView(), null")
		p.Screenshot(filepath.Join("..", "docs", "dashboard-"+name+".png"))
		require.Empty(t, p.Problems())
		require.Equal(t, []string{address}, p.Hosts())
	}
}
