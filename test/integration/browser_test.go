//go:build browser

package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/browsertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// channelRow is a JavaScript expression for the row of a channel.
func channelRow(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('#channels tbody tr')].find(r => r.querySelector('b').title === %q)`, name)
}

// cell is the text in a column of that row.
func cell(channel, label string) string {
	return channelRow(channel) + fmt.Sprintf(`?.querySelector('[data-label=%s]').innerText.trim()`, label)
}

// TestDashboardInABrowser drives the dashboard of a Caddy in a process of its own
// as an operator would.
func TestDashboardInABrowser(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.tree = "root:3,root.mail:1"
	tb.routes = "jobrunner_dashboard {\n\t\tactions\n\t}\n\t" + tb.routes
	home := t.TempDir()
	c := tb.startProcess(home)
	db, mail := tb.dbs[0], "root.mail"

	b := browsertest.New(t)
	b.Use(browsertest.Device{Width: 1280, Height: 900})
	b.Open("http://" + tb.site + "/jobrunner")
	b.Until(`document.querySelector('#state').innerText === 'Running'`)
	b.Until(`document.querySelector('#databases').innerText.includes('ready')`)

	t.Run("follows jobs", func(*testing.T) {
		held := odoostub.Behaviour{Gate: "end"}
		tb.enqueue(db, odoostub.JobSpec{Channel: &mail, Behaviour: held}, odoostub.JobSpec{Channel: &mail, Behaviour: held}, odoostub.JobSpec{Channel: &mail})
		b.Until(cell(mail, "Running") + ` === '1 of 1'`)
		b.Until(cell(mail, "Waiting") + ` === '2'`)
		b.Until(`document.querySelectorAll('#tasks tbody tr').length === 1`)
		tb.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "odoo.exceptions.UserError"}})
		b.Until(`document.querySelector('#failures').innerText.includes('UserError')`)
	})
	t.Run("asks why", func(*testing.T) {
		b.Click(`#channels [aria-label*="waiting in root.mail"]`)
		b.Until(`document.querySelectorAll('#waiting-jobs li').length === 2`)
		b.Click(`#waiting-jobs li:first-child button`)
		b.Until(`document.querySelector('#answer dl')`)
		require.Contains(t, b.Text("#answer"), "root.mail")
		require.Contains(t, b.Text("#answer"), "pending")
		b.Until(`!document.querySelector('#waiting').open && document.activeElement.id === 'answer'`)
	})
	t.Run("pauses a channel by the keyboard", func(*testing.T) {
		b.Type(`#channels [aria-label="Pause channel root.mail"]`, "\r")
		b.Until(`document.querySelector('#ask').open`)
		b.Type("#ask-note", "printer is moved\r")
		b.Until(`document.querySelector('#pauses').innerText.includes('printer is moved')`)
		tb.Gates.Open("end")
		tb.untilStates(map[string]int{"done": 1, "failed": 1, "pending": 2})
		b.Until(cell(mail, "Running") + ` === '0 of 1'`)
	})
	require.Empty(t, b.Problems())

	t.Run("survives a reload of Caddy", func(*testing.T) {
		tb.tree = "root:5,root.mail:2"
		status, body := tb.request(http.MethodPost, "/load", string(tb.adapt()))
		require.Equal(t, http.StatusOK, status, body)
		b.Until(cell("root", "Running") + ` === '0 of 5'`)
		require.Contains(t, b.Text("#pauses"), "printer is moved")
	})
	require.Empty(t, b.Problems())

	t.Run("survives a restart of Caddy, and so does the pause", func(*testing.T) {
		require.NoError(t, c.Stop())
		b.Until(`!document.querySelector('#offline').hidden && document.querySelector('#state').innerText === 'No connection'`)
		tb.startProcess(home)
		b.Until(`document.querySelector('#offline').hidden && document.querySelector('#state').innerText === 'Running'`)
		b.Until(`document.querySelector('#pauses').innerText.includes('printer is moved')`)
		for _, problem := range b.Problems() {
			require.Contains(t, problem, "Failed to load resource", "nothing else than that Caddy was away")
		}
	})
	t.Run("resumes it", func(*testing.T) {
		b.Click(`#pauses button`)
		b.Until(`document.querySelector('#pauses').hidden`)
		tb.untilStates(map[string]int{"done": 3, "failed": 1})
		b.Until(cell(mail, "Waiting") + ` === '0'`)
	})
	t.Run("has no accessible control without a name", func(*testing.T) {
		nameless := browsertest.Eval[[]string](b, `[...document.querySelectorAll('button, input, select')].filter(e =>
			!(e.tagName === 'BUTTON' && e.textContent.trim() || e.getAttribute('aria-label') ||
				[...e.labels?.[0]?.childNodes ?? []].some(n => n !== e && n.textContent.trim()))).map(e => e.outerHTML)`)
		require.Empty(t, nameless)
	})
	t.Run("fits a phone", func(*testing.T) {
		b.Use(browsertest.Device{Width: 360, Height: 700, Phone: true})
		b.Until(`document.documentElement.scrollWidth <= 360`)
	})
	require.Empty(t, b.Problems())
	for _, host := range b.Hosts() {
		require.Contains(t, []string{tb.site, ""}, host, "no outside requests")
	}
	require.NotContains(t, strings.ToLower(b.Text("body")), "postgres://")
}
