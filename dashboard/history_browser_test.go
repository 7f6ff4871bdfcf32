//go:build browser

package dashboard

import (
	"context"
	"fmt"
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

// quiet is an installation in which nothing runs now.
type quiet struct{ busySite }

func (*quiet) Tasks(context.Context) ([]runner.TaskStatus, error) { return nil, nil }

// openPast opens the page, and unfolds the past.
func openPast(p *browsertest.Page, address string) {
	p.Open("http://" + address + "/jobrunner/")
	p.Until("document.querySelector('#past')")
	browsertest.Eval[any](p, "document.querySelector('#past').open = true, null")
}

// showBy chooses what the past is grouped by.
func showBy(p *browsertest.Page, by string) {
	browsertest.Eval[any](p, "document.querySelector('#past-by').value = '"+by+"', document.querySelector('#past-by').dispatchEvent(new Event('change')), null")
}

// whatIf asks what a channel with another capacity would have meant.
func whatIf(p *browsertest.Page, channel string, capacity int) {
	browsertest.Eval[any](p, fmt.Sprintf("document.querySelector('#what-if').elements.channel.value = '%s', "+
		"document.querySelector('#what-if').elements.capacity.value = %d, document.querySelector('#what-if').requestSubmit(), null", channel, capacity))
}

// TestBrowserHistory: the page shows what became of the jobs, when none will wait, and what another capacity
// would have meant; names of others stay texts.
func TestBrowserHistory(t *testing.T) {
	now := time.Now()
	e := &quiet{}
	e.Says = runner.Status{
		Leader: true, Counts: []channels.Count{{DB: "prod", Channel: "root.mail", Pending: 30}},
		Databases: []runner.DatabaseStatus{{Name: "prod", State: runner.DatabaseReady, Connected: now, Heard: now.Add(time.Hour)}},
		Channels:  []runner.ChannelStatus{{Status: channels.Status{FullName: "root", Configured: true, Capacity: 1}}},
		Upstreams: []runner.UpstreamStatus{{Name: "odoo", Up: true}},
	}
	k := fakerunner.RunWith(t, "default", e, zap.NewNop(), &past.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	for i := range 60 { // together, one after the other
		sent := now.Add(time.Duration(i-62) * 10 * time.Second)
		past.Observe(runner.Event{
			Kind: runner.EventJobDone, Runner: "default", Time: sent.Add(10 * time.Second), Database: "prod", Channel: "root.mail", Method: "<b>send</b>",
			Wait: time.Duration(10*i)*time.Second + 10*time.Millisecond, Run: 9990 * time.Millisecond, Outcome: "answered",
		})
	}
	for i := range 3 {
		past.Observe(runner.Event{
			Kind: runner.EventJobFailed, Runner: "default", Time: now.Add(time.Duration(i-3) * time.Hour), Database: "prod", Channel: "root.mail", Method: "f",
			Exception: []string{"odoo.<i>Error</i>", "odoo.<i>Error</i>", "\u202eother"}[i],
		})
	}
	require.Eventually(t, func() bool {
		r, err := k.History().Query(t.Context(), past.Query{})
		return err == nil && r.Total.Attempts() == 63
	}, time.Minute, 10*time.Millisecond)
	address := serve(t, "")

	for _, d := range []browsertest.Device{{Width: 1280, Height: 900}, {Width: 320, Height: 700, Phone: true}} {
		p := browsertest.New(t)
		p.Use(d)
		openPast(p, address)
		p.Until("document.querySelectorAll('#past-groups tbody tr').length === 2 && document.querySelectorAll('#past-forecast tbody tr').length === 2")
		require.Contains(t, p.Text("#past-groups tbody"), "<b>send</b>")
		require.Contains(t, p.Text("#past-note"), "63 attempts in the last 24 hours")
		require.Contains(t, p.Text("#past-forecast tbody"), "30")
		require.Contains(t, p.Text("#past"), "no more jobs come")
		require.NotEmpty(t, browsertest.Eval[string](p, "document.querySelector('#past-plot svg').getAttribute('aria-label')"))
		showBy(p, "channel")
		p.Until("document.querySelector('#past-groups tbody').innerText.includes('root.mail')")
		require.Contains(t, browsertest.Eval[string](p, "document.querySelector('#past-csv').href"), "by=channel&csv=groups")
		showBy(p, "exception")
		p.Until("document.querySelectorAll('#past-groups tbody tr').length === 2 && document.querySelectorAll('#past-plot rect').length === 3")
		require.Contains(t, p.Text("#past-groups tbody"), "odoo.<i>Error</i>")
		require.Contains(t, p.Text("#past-groups tbody"), "\ufffdother")
		require.Contains(t, browsertest.Eval[string](p, "document.querySelector('#past-plot svg').getAttribute('aria-label')"), "2 with odoo.<i>Error</i>, 1 with")
		require.Contains(t, browsertest.Eval[string](p, "document.querySelector('#past-csv').href"), "by=exception&csv=intervals")
		whatIf(p, "root", 2)
		p.Until("document.querySelector('#what-if-table tbody tr')")
		require.Contains(t, p.Text("#what-if-answer"), "1 → 2")
		require.Contains(t, p.Text("#what-if-answer"), "Nothing was changed.")
		p.Until("document.documentElement.scrollWidth <= innerWidth")
		whatIf(p, "no=channel", 2)
		p.Until("document.querySelector('#what-if-answer').innerText.includes('no channel with its capacity')")
	}
}
