//go:build browser

package dashboard

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	past "github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/browsertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddytest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// quiet is an installation in which nothing runs now.
type quiet struct{ busySite }

func (*quiet) Tasks(context.Context) ([]runner.TaskStatus, error) { return nil, nil }

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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	l.Close()
	raw, err := caddytest.Adapt("{\n\tadmin off\n\tauto_https off\n}\nhttp://" + address + " {\n\tjobrunner_dashboard\n}\n")
	require.NoError(t, err)
	require.NoError(t, caddy.Load(raw, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })

	for _, d := range []browsertest.Device{{Width: 1280, Height: 900}, {Width: 320, Height: 700, Phone: true}} {
		p := browsertest.New(t)
		p.Use(d)
		p.Open("http://" + address + "/jobrunner/")
		p.Until("document.querySelector('#past')")
		browsertest.Eval[any](p, "document.querySelector('#past').open = true, null")
		p.Until("document.querySelectorAll('#past-groups tbody tr').length === 2 && document.querySelectorAll('#past-forecast tbody tr').length === 2")
		require.Contains(t, p.Text("#past-groups tbody"), "<b>send</b>")
		require.Contains(t, p.Text("#past-note"), "63 attempts in the last 24 hours")
		require.Contains(t, p.Text("#past-forecast tbody"), "30")
		require.Contains(t, p.Text("#past"), "no more jobs come")
		require.NotEmpty(t, browsertest.Eval[string](p, "document.querySelector('#past-plot svg').getAttribute('aria-label')"))
		browsertest.Eval[any](p, "document.querySelector('#past-by').value = 'channel', document.querySelector('#past-by').dispatchEvent(new Event('change')), null")
		p.Until("document.querySelector('#past-groups tbody').innerText.includes('root.mail')")
		require.Contains(t, browsertest.Eval[string](p, "document.querySelector('#past-csv').href"), "by=channel&csv=groups")
		browsertest.Eval[any](p, "document.querySelector('#past-by').value = 'exception', document.querySelector('#past-by').dispatchEvent(new Event('change')), null")
		p.Until("document.querySelectorAll('#past-groups tbody tr').length === 2 && document.querySelectorAll('#past-plot rect').length === 3")
		require.Contains(t, p.Text("#past-groups tbody"), "odoo.<i>Error</i>")
		require.Contains(t, p.Text("#past-groups tbody"), "\ufffdother")
		require.Contains(t, browsertest.Eval[string](p, "document.querySelector('#past-plot svg').getAttribute('aria-label')"), "2 with odoo.<i>Error</i>, 1 with")
		require.Contains(t, browsertest.Eval[string](p, "document.querySelector('#past-csv').href"), "by=exception&csv=intervals")
		browsertest.Eval[any](p, "document.querySelector('#what-if').elements.capacity.value = 2, document.querySelector('#what-if').requestSubmit(), null")
		p.Until("document.querySelector('#what-if-table tbody tr')")
		require.Contains(t, p.Text("#what-if-answer"), "1 → 2")
		require.Contains(t, p.Text("#what-if-answer"), "Nothing was changed.")
		p.Until("document.documentElement.scrollWidth <= innerWidth")
		browsertest.Eval[any](p, "document.querySelector('#what-if').elements.channel.value = 'no=channel', document.querySelector('#what-if').requestSubmit(), null")
		p.Until("document.querySelector('#what-if-answer').innerText.includes('no channel with its capacity')")
	}
}
