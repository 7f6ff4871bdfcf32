//go:build browser

package integration

import (
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/browsertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// monstrous are texts that others write into rows: markup, what controls a terminal or the direction of
// text, and more of it than anyone wants to see.
const monstrous = `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>` + "\u202egnp.\u0007\u009b" + `&amp;"'`

// jobsListed is a JavaScript expression for the number of jobs in the list.
const jobsListed = `document.querySelectorAll('#jobs tbody tr').length`

// TestBrowserExplorer drives the list of all jobs as an operator would.
func TestBrowserExplorer(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 2, 1)
	tb.tree = "root:3,root.mail:1"
	tb.more = "payloads"
	tb.routes = "jobrunner_dashboard {\n\t\tactions\n\t\tadmin " + tb.admin + "\n\t}\n\t" + tb.routes
	c := tb.startProcess(t.TempDir())
	one, two := tb.dbs[0], tb.dbs[1]
	mail := "root.mail"
	many := make([]odoostub.JobSpec, 70)
	for i := range many {
		many[i] = odoostub.JobSpec{State: "failed", Model: "mail.mail", Method: "send", Channel: &mail, Created: time.Now().Add(-time.Duration(i) * time.Hour)}
	}
	failed := tb.enqueue(one, many...)
	odd := tb.enqueue(two, odoostub.JobSpec{State: "failed"})[0]
	tb.write(two, `UPDATE queue_job SET name = t, model_name = t, method_name = t, channel = t, exc_name = t, exc_message = t,
		exc_info = t || repeat('x', 5000000), args = t, identity_key = t FROM (SELECT $1::text AS t) AS v WHERE uuid = $2`, monstrous, odd)
	tb.write(one, "UPDATE queue_job SET exc_name = 'odoo.exceptions.UserError', exc_message = 'no address', name = 'Send a mail', exc_info = 'Traceback (most recent call last)'")
	parent := odoostub.NewUUID()
	graph := tb.enqueue(two, odoostub.JobSpec{UUID: parent, State: "failed"}, odoostub.JobSpec{DependsOn: []string{parent}})

	b := browsertest.New(t)
	b.Use(browsertest.Device{Width: 1280, Height: 900})
	b.Open("http://" + tb.site + "/jobrunner/")
	b.Until(`document.querySelector('#state').innerText === 'Running'`)

	t.Run("lists all jobs, page by page", func(*testing.T) {
		b.Click("#to-jobs")
		b.Until(jobsListed + ` === 50`)
		require.True(t, browsertest.Eval[bool](b, `document.querySelector('#detail').hidden && getComputedStyle(document.querySelector('.columns')).display === 'none'`))
		b.Click("#next-page")
		b.Until(jobsListed + ` === 23`)
		browsertest.Eval[any](b, "history.back(), null")
		b.Until(jobsListed + ` === 50 && !location.hash.includes('cursor')`)
	})
	t.Run("finds by facets, with the keyboard", func(*testing.T) {
		b.Type("#find [name=database]", two+"\r")
		b.Until(jobsListed + ` === 3`)
		require.Contains(t, browsertest.Eval[string](b, "location.hash"), "database="+two)
		b.Click("#find-clear")
		b.Until(jobsListed + ` === 50`)
		b.Type("#find [name=function]", "mail.mail.send\r")
		b.Until(jobsListed + ` === 50 && location.hash.includes('function')`)
		b.Type("#find [name=uuid]", failed[3][:13]+"\r")
		b.Until(jobsListed + ` === 1`)
		require.Contains(t, b.Text("#jobs"), "Send a mail")
		b.Click("#find-clear")
		b.Until(jobsListed + ` === 50`)
		browsertest.Eval[any](b, `document.querySelector('#find-more summary').click(), null`)
		b.Type("#find [name=older_than]", "65h30m\r")
		b.Until(jobsListed + ` === 4`)
		b.Type("#find [name=exception]", "nothing like it\r")
		b.Until(`!document.querySelector('#no-jobs').hidden`)
		require.Equal(t, "There is no such job.", b.Text("#no-jobs"))
	})
	t.Run("shows one job, by its address", func(*testing.T) {
		b.Open("http://" + tb.site + "/jobrunner/#/job/" + one + "/" + failed[0][:8])
		b.Until(`document.querySelector('#record .facts')`)
		said := b.Text("#record")
		for _, word := range []string{failed[0], "odoo.exceptions.UserError", "no address", "Send a mail", "root.mail"} {
			require.Contains(t, said, word)
		}
		require.NotContains(t, said, "most recent call last", "it is folded")
		b.Click("#payload-traceback summary")
		b.Until(`document.querySelector('#record').innerText.includes('most recent call last')`)
	})
	t.Run("leads from job to job", func(*testing.T) {
		b.Open("http://" + tb.site + "/jobrunner/#/job/" + two + "/" + graph[1])
		b.Until(`document.querySelector('#relatives')`)
		require.Contains(t, b.Text("#relatives"), "must be done before")
		b.Click("#relatives a")
		b.Until(`document.querySelector('#relatives')?.innerText.includes('waits for this one')`)
		browsertest.Eval[any](b, "history.back(), null")
		b.Until(`document.querySelector('#relatives')?.innerText.includes('must be done before')`)
	})
	t.Run("is not impressed by what rows say", func(*testing.T) {
		b.Open("http://" + tb.site + "/jobrunner/#/jobs?database=" + two)
		b.Until(jobsListed + ` === 3`)
		require.Contains(t, b.Text("#jobs"), "<img src=x")
		b.Open("http://" + tb.site + "/jobrunner/#/job/" + two + "/" + odd)
		b.Until(`document.querySelector('#record .facts')`)
		require.Contains(t, b.Text("#record"), "<script>")
		browsertest.Eval[any](b, `document.querySelectorAll('#record details').forEach(d => d.open = true), null`)
		require.Zero(t, browsertest.Eval[int](b, `document.querySelectorAll('main img, main script').length`))
		require.NotRegexp(t, "[\u202e\u0007\u009b]", b.Text("main"))
		require.NotEqual(t, "owned", browsertest.Eval[string](b, "document.title"))
		require.Less(t, browsertest.Eval[int](b, `document.querySelector('#payload-traceback pre').innerText.length`), 1<<17)
	})
	require.Empty(t, b.Problems())

	t.Run("requeues what a filter selects, after a preview", func(*testing.T) {
		b.Open("http://" + tb.site + "/jobrunner/#/jobs?database=" + one)
		b.Until(jobsListed + ` === 50`)
		require.Contains(t, b.Text("#bulk-note"), "choose the states")
		b.Click(`#find-states [value=failed]`)
		b.Until(`document.querySelectorAll('#bulk-actions button').length === 3`)
		b.Click(`#bulk-actions button:nth-child(1)`)
		b.Until(`document.querySelector('#ask').open`)
		require.Equal(t, "Requeue 70 jobs?", b.Text("#ask-title"))
		require.Contains(t, b.Text("#ask-text"), "database "+one)
		b.Click(`#ask [value=cancel]`)
		b.Until(`!document.querySelector('#ask').open`)
		require.Equal(t, 70, tb.inState(one, "failed"))
		b.Click(`#bulk-actions button:nth-child(1)`)
		b.Until(`document.querySelector('#ask').open`)
		b.Type("#ask-note", "the server is back\r")
		b.Until(`document.querySelector('#toast').innerText.includes('70 jobs requeued')`)
		tb.until("all are done", func() bool { return tb.inState(one, "done") == 70 })
		b.Until(jobsListed + ` === 0`)
		require.Equal(t, 2, tb.inState(two, "failed"))
	})
	t.Run("cancels one job", func(*testing.T) {
		b.Open("http://" + tb.site + "/jobrunner/#/job/" + two + "/" + odd)
		b.Until(`document.querySelectorAll('#record .acts button').length === 3`)
		b.Click(`#record .acts button:nth-child(2)`)
		b.Until(`document.querySelector('#ask').open`)
		b.Type("#ask-note", "\r")
		b.Until(`document.querySelector('#record .facts')?.innerText.includes('cancelled')`)
	})
	t.Run("survives a reload of Caddy", func(*testing.T) {
		b.Open("http://" + tb.site + "/jobrunner/#/jobs?state=done")
		b.Until(jobsListed + ` === 50`)
		tb.tree = "root:5,root.mail:2"
		status, body := tb.request(http.MethodPost, "/load", string(tb.adapt()))
		require.Equal(t, http.StatusOK, status, body)
		b.Click("#next-page")
		b.Until(jobsListed + ` === 20`)
	})
	require.Empty(t, b.Problems())
	t.Run("changes the slots of a channel, through the configuration", func(*testing.T) {
		b.Open("http://" + tb.site + "/jobrunner/#")
		slots := `#channels [aria-label="Change the slots of channel root.mail"]`
		b.Until(`document.querySelector('` + slots + `')?.checkVisibility()`)
		b.Click(slots)
		b.Until(`document.querySelector('#slots').open`)
		require.Contains(t, b.Text("#slots-text"), "The configuration says 2.")
		browsertest.Eval[any](b, `document.querySelector('#slots-number').select(), null`)
		b.Type("#slots-number", "7")
		b.Until(`document.querySelector('#slots-line').innerText === 'channel root.mail 7'`)
		b.Type("#slots-note", "a campaign\r")
		b.Until(cell(mail, "Running") + ` === '0 of 7'`)
		status, body := tb.request(http.MethodGet, "/config/apps/jobrunner/runners/default/channels/root.mail", "")
		require.Equal(t, http.StatusOK, status)
		require.JSONEq(t, `{"capacity": 7}`, body)
	})
	require.Empty(t, b.Problems())
	t.Run("is accessible", func(*testing.T) {
		for _, at := range []string{"#/jobs", "#/jobs?state=failed", "#/job/" + two + "/" + odd, "#"} {
			b.Open("http://" + tb.site + "/jobrunner/" + at)
			b.Until(`document.querySelector('#state').innerText === 'Running' && document.querySelector('#n-jobs, #tiles dd').innerText !== ''`)
			assert.Empty(t, browsertest.Eval[[]string](b, inaccessible), at)
			if axe := os.Getenv("AXE"); axe != "" {
				axeFinds(t, b, axe)
			}
		}
	})
	t.Run("fits a phone", func(*testing.T) {
		b.Use(browsertest.Device{Width: 360, Height: 700, Phone: true})
		for _, at := range []string{"#/jobs", "#/job/" + two + "/" + odd} {
			b.Open("http://" + tb.site + "/jobrunner/" + at)
			b.Until(`document.documentElement.scrollWidth <= 360`)
		}
	})
	require.Empty(t, b.Problems())
	require.NoError(t, c.Stop())
}

// axeFinds has the tool axe-core look at the page.
func axeFinds(t *testing.T, b *browsertest.Page, file string) {
	t.Helper()
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	browsertest.Eval[any](b, string(source)+"; null")
	browsertest.Eval[any](b, `window.found = null, axe.run().then(r => window.found = r.violations.map(v => v.impact + ' ' + v.id + ': ' + v.nodes.map(n => n.html).slice(0, 3).join(' '))), null`)
	b.Until("window.found")
	assert.Empty(t, browsertest.Eval[[]string](b, "window.found"))
}

// inaccessible is a JavaScript expression for what people who do not see the page, or have no mouse,
// would miss: names of controls, headings of tables, a label of each part, an order of headings, and
// contrast.
const inaccessible = `(() => {
	const out = [], seen = e => e.checkVisibility(), text = e => (e.innerText ?? '').trim();
	const named = e => text(e) || e.getAttribute('aria-label') || e.labels?.[0]?.innerText.trim() || document.getElementById(e.getAttribute('aria-labelledby'))?.innerText;
	const complain = (what, e) => out.push(what + ': ' + e.outerHTML.slice(0, 120));
	for (const e of document.querySelectorAll('button, input, select, a, summary, dialog[open], [role=img]')) if (seen(e) && !named(e)) complain('no name', e);
	for (const e of document.querySelectorAll('section, nav, form[role], dialog')) if (!e.hasAttribute('aria-label') && !e.hasAttribute('aria-labelledby')) complain('no label', e);
	for (const e of document.querySelectorAll('[aria-labelledby], [aria-controls]')) if (!document.getElementById(e.getAttribute('aria-labelledby') ?? e.getAttribute('aria-controls'))) complain('names nothing', e);
	for (const e of document.querySelectorAll('table')) if (seen(e) && [...e.tHead.rows[0].cells].some(h => h.tagName !== 'TH' || h.scope !== 'col' || !h.textContent.trim())) complain('a table without headings', e);
	const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
	for (const id of ids) if (ids.filter(i => i === id).length > 1) out.push('twice: ' + id);
	let level = 1;
	for (const e of document.querySelectorAll('h1, h2, h3')) { if (!seen(e)) continue; const n = Number(e.tagName[1]); if (n > level + 1) complain('a level is skipped', e); level = n; }
	if (document.querySelectorAll('main').length !== 1 || !document.documentElement.lang || !document.title) out.push('no main part, language or title');
	const light = c => { const [r, g, b] = c.match(/[\d.]+/g).map(Number).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
	const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
	for (const e of document.querySelectorAll('main *, header *')) {
		if (!seen(e) || e.closest('svg, .hidden, :disabled') || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
		const a = light(getComputedStyle(e).color), b = light(ground(e)), contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
		if (contrast < 4.5) complain('contrast ' + contrast.toFixed(1), e);
	}
	return out;
})()`

// write changes a database behind the runner's back.
func (tb *testBed) write(db, sql string, args ...any) {
	tb.Helper()
	_, err := tb.Pool(db).Exec(tb.Context(), sql, args...)
	require.NoError(tb, err)
}

// inState counts the jobs of a database in a state.
func (tb *testBed) inState(db, state string) (n int) {
	tb.Helper()
	require.NoError(tb, tb.Pool(db).QueryRow(tb.Context(), "SELECT count(*) FROM queue_job WHERE state = $1", state).Scan(&n))
	return n
}
