//go:build browser

package dashboard

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/browsertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddytest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// busySite is a made-up installation that shows every part of the page.
type busySite struct{ fakerunner.Engine }

func (*busySite) Tasks(context.Context) ([]runner.TaskStatus, error) {
	now := time.Now()
	task := func(n int, db, channel, model, method, up string, ago time.Duration) runner.TaskStatus {
		return runner.TaskStatus{
			Key: channels.Key{DB: db, UUID: fmt.Sprintf("%08x-5a1e-4c1b-9d53-6f2f1c0a7e11", n*2654435761)}, Phase: "open",
			Channel: channel, Model: model, Method: method, Upstream: "http://10.0.0." + up + ":8069", Since: now.Add(-ago),
		}
	}
	return []runner.TaskStatus{
		task(1, "prod_eu", "root.imports.shop", "product.feed", "import_batch", "5", 47*time.Minute),
		task(2, "prod_eu", "root.imports.shop", "product.feed", "import_batch", "6", 12*time.Minute),
		task(3, "prod_us", "root.mail", "mail.mail", "send", "5", 34*time.Second),
		task(4, "prod_us", "root.mail", "mail.mail", "send", "6", 8*time.Second),
		task(5, "prod_eu", "root", "sale.order", "action_confirm", "5", 2100*time.Millisecond),
		task(6, "prod_ch", "root.stock", "stock.picking", "sync_carrier", "6", 300*time.Millisecond),
	}, nil
}

// explorerPage is how many jobs the list of all jobs asks for.
const explorerPage = 50

// everyJob lists jobs of all kinds, as far as the question's states want them.
func everyJob(q runner.JobQuery) (p runner.JobPage) {
	for i, c := range []struct {
		db, channel, model, method, name, exception string
		state                                       channels.State
		retry                                       int32
	}{
		{"prod_eu", "root.imports.shop", "product.feed", "import_batch", "Import batch 4711 of the shop", "requests.exceptions.ConnectTimeout", channels.Failed, 5},
		{"prod_eu", "root.imports.shop", "product.feed", "import_batch", "Import batch 4712 of the shop", "", channels.Started, 0},
		{"prod_eu", "root.invoices", "account.move", "action_post", "Post the invoice INV/2026/00815", "odoo.exceptions.UserError", channels.Failed, 1},
		{"prod_eu", "root.invoices", "account.move", "send_by_mail", "Send the invoice INV/2026/00815", "", channels.WaitDependencies, 0},
		{"prod_eu", "root.mail", "mail.mail", "send", "Send 12 mails", "", channels.Done, 0},
		{"prod_eu", "root.stock", "stock.picking", "sync_carrier", "Tell the carrier of WH/OUT/00042", "", channels.Cancelled, 0},
		{"prod_us", "root.mail", "mail.mail", "send", "Send 3 mails", "", channels.Pending, 0},
		{"prod_us", "root", "sale.order", "action_confirm", "Confirm S00123", "psycopg2.errors.LockNotAvailable", channels.Failed, 3},
		{"prod_us", "root.reports", "report.sales", "build", "The sales of November", "", channels.Pending, 0},
		{"prod_us", "root.mail", "mail.mail", "send", "Send 7 mails", "", channels.Done, 0},
	} {
		if len(q.States) > 0 && !slices.Contains(q.States, c.state) {
			continue
		}
		d := driver.Detail{
			Row: driver.Row{
				Job: channels.Job{
					Key: channels.Key{DB: c.db, UUID: fmt.Sprintf("%08x-5a1e-4c1b-9d53-6f2f1c0a7e11", (i+7)*2654435761)}, Channel: c.channel, ID: int64(900 - i),
					Priority: 10, Created: time.Now().Add(-time.Duration(i*i+1) * 3 * time.Minute).UnixMicro(),
				},
				State: c.state, RawState: c.state.String(), Retry: c.retry,
			},
			Model: c.model, Method: c.method, Name: c.name, Exception: c.exception, MaxRetries: 5,
		}
		p.Jobs = append(p.Jobs, d)
	}
	return p
}

// well reports whether it is a good day: nothing is wrong with the invoices.
func (s *busySite) well() bool { return len(s.Says.Channels) > 3 && s.Says.Channels[3].Queued == 0 }

func (s *busySite) Jobs(_ context.Context, q runner.JobQuery) (runner.JobPage, error) {
	var p runner.JobPage
	if q.Limit == explorerPage {
		return everyJob(q), nil
	}
	add := func(n int, exception, model, method, channel string, ago time.Duration) {
		for i := range n {
			p.Jobs = append(p.Jobs, driver.Detail{
				Row: driver.Row{
					Job:      channels.Job{Key: channels.Key{DB: q.Database, UUID: fmt.Sprintf("%s-%d", model, i)}, Channel: channel, Created: time.Now().Add(-ago).UnixMicro()},
					RawState: "failed", State: channels.Failed,
				},
				Model: model, Method: method, Exception: exception,
			})
		}
	}
	if q.Database == "prod_eu" {
		add(14, "requests.exceptions.ConnectTimeout", "product.feed", "import_batch", "root.imports.shop", 4*time.Minute)
		if s.well() {
			return p, nil
		}
		add(2, "odoo.exceptions.UserError", "account.move", "action_post", "root.invoices", 31*time.Minute)
	} else {
		add(3, "psycopg2.errors.LockNotAvailable", "sale.order", "action_confirm", "root", 52*time.Minute)
	}
	return p, nil
}

// Job tells of an invoice that could not be posted, whose mail waits for it.
func (s *busySite) Job(_ context.Context, key channels.Key) (runner.Why, error) {
	d := everyJob(runner.JobQuery{}).Jobs[2]
	d.Key, d.Started, d.Enqueued = key, time.Now().Add(-9*time.Minute), time.Now().Add(-9*time.Minute-40*time.Millisecond).UnixMicro()
	child := everyJob(runner.JobQuery{}).Jobs[3]
	return runner.Why{
		Key: key, Found: true, Code: "failed", Detail: &d, Text: "the job failed with odoo.exceptions.UserError and runs again only if it is requeued",
		Record: &driver.Record{
			Detail: d, Page: "https://odoo.example.com/web?db=prod_eu#id=815", Message: "The journal Sales is locked until 30 November.", Ran: 2300 * time.Millisecond, Worker: 48213, Company: 1, User: 7,
			Graph:     "5f1b9a3e-0c55-4b8e-a6a4-3d5a1f4c2b90",
			Relatives: []driver.Relative{{UUID: child.UUID, Child: true, State: "wait_dependencies", Model: child.Model, Method: child.Method}},
			Payload: &driver.Payload{
				Arguments: driver.Text{Text: "[]"}, Records: driver.Text{Text: `{"_type": "odoo_recordset", "model": "account.move", "ids": [815]}`},
				Traceback: driver.Text{Text: "Traceback (most recent call last):\n  File \"/opt/odoo/addons/account/models/account_move.py\", line 4471, in action_post\nodoo.exceptions.UserError: The journal Sales is locked until 30 November."},
			},
		},
	}, nil
}

// Why says what the engine would, in its words.
func (s *busySite) Why(_ context.Context, key channels.Key) (runner.Why, error) {
	if s.well() {
		return runner.Why{
			Key: key, Found: true, Code: "channel_full", Channel: "root.imports.shop", Capacity: 2, Running: 2, Ahead: 118,
			Text:   "job " + key.DB + "/" + key.UUID + " waits: channel root.imports.shop is full (2 running, capacity 2), and 118 jobs go before it",
			Detail: &driver.Detail{Row: driver.Row{Job: channels.Job{Key: key, Priority: 10}, RawState: "pending"}, Model: "product.feed", Method: "import_batch"},
		}, nil
	}
	return runner.Why{
		Key: key, Found: true, Code: "sequential_failed", Channel: "root.invoices", Capacity: 1, Ahead: 3,
		Text: "job " + key.DB + "/" + key.UUID + " waits: channel root.invoices is sequential and job prod_eu/7c0e51f2-5a1e-4c1b-9d53-6f2f1c0a7e11 " +
			"failed in it, and 3 jobs go before it",
		Blocker: channels.Key{DB: "prod_eu", UUID: "7c0e51f2-5a1e-4c1b-9d53-6f2f1c0a7e11"},
		Detail:  &driver.Detail{Row: driver.Row{Job: channels.Job{Key: key, Priority: 10}, RawState: "pending"}, Model: "account.move", Method: "action_post"},
	}, nil
}

func busyStatus(now time.Time) runner.Status {
	channel := func(name string, capacity, running, queued, failed int, oldest time.Duration) runner.ChannelStatus {
		c := runner.ChannelStatus{Status: channels.Status{FullName: name, Configured: true, Capacity: capacity, Running: running, Queued: queued, Failed: failed}}
		if oldest > 0 {
			c.Oldest = now.Add(-oldest)
		}
		return c
	}
	st := runner.Status{
		Leader: true, LeaderKnown: true, Open: 6,
		Channels: []runner.ChannelStatus{
			channel("root", 8, 6, 3, 3, 4*time.Second), channel("root.imports", 4, 2, 0, 0, 0),
			channel("root.imports.shop", 2, 2, 1834, 14, 26*time.Minute), channel("root.invoices", 1, 0, 4, 2, 31*time.Minute),
			channel("root.mail", 2, 2, 212, 0, 95*time.Second), channel("root.reports", 2, 0, 18, 0, 9*time.Minute), channel("root.stock", 0, 1, 0, 0, 0),
		},
		Upstreams: []runner.UpstreamStatus{
			{Name: "http://10.0.0.5:8069", Up: true, InFlight: 3}, {Name: "http://10.0.0.6:8069", Up: true, InFlight: 3},
			{Name: "http://10.0.0.7:8069", Up: true, Drain: &runner.Drain{By: "operator (10.1.2.3)", Note: "kernel update"}},
			{Name: "http://10.0.0.8:8069", Reason: "connection refused"},
		},
		Counts: []channels.Count{
			{DB: "prod_eu", Channel: "root.imports.shop", Pending: 1837, Started: 3, Failed: 16}, {DB: "prod_us", Channel: "root.mail", Pending: 212, Started: 2, Failed: 3},
			{DB: "prod_ch", Channel: "root.stock", Pending: 22, Enqueued: 1},
		},
	}
	st.Channels[3].Sequential = true
	st.Channels[4].Throttle = time.Second
	pause := runner.Pause{Channel: "root.reports", By: "operator (10.1.2.3)", Since: now.Add(-9 * time.Minute), Until: now.Add(51 * time.Minute), Note: "the printer is being moved"}
	st.Channels[5].Stopped, st.Channels[5].Pause = true, &pause
	st.Controls = runner.Controls{Pauses: []runner.Pause{pause}, Drains: []runner.Drain{*st.Upstreams[2].Drain}}
	for _, c := range st.Counts {
		st.Databases = append(st.Databases, runner.DatabaseStatus{
			Name: c.DB, State: runner.DatabaseReady, Connected: now.Add(-26 * time.Hour), Heard: now, Synced: now,
			Pending: c.Pending, Enqueued: c.Enqueued, Started: c.Started, Failed: c.Failed,
		})
	}
	st.Databases = append(st.Databases,
		runner.DatabaseStatus{
			Name: "prod_uk", State: runner.DatabaseHeld, Connected: now, Heard: now, Pending: 5, HeldUntil: now.Add(20 * time.Second),
			Detail: "the last requests ended without their jobs having been run (status 404: the route is unknown, is the add-on loaded and the database known to the server?)",
		},
		runner.DatabaseStatus{Name: "crm", State: runner.DatabaseUndetected, Detail: "queue_job is not installed"})
	return st
}

// anHour fills the past with a working morning.
func anHour(name string) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	for ago := time.Hour; ago > 0; ago -= historyStep {
		at := now.Add(-ago)
		wave := 1 + .5*math.Sin(ago.Minutes()/7) + .15*rng.NormFloat64()
		slow := 1.0
		if ago < 33*time.Minute && ago > 24*time.Minute {
			slow, wave = 6, wave*.45
		}
		for range int(70 * max(wave, .1)) {
			run := time.Duration(rng.ExpFloat64() * slow * float64(900*time.Millisecond))
			wait := time.Duration(rng.ExpFloat64() * slow * slow * float64(700*time.Millisecond))
			kind := runner.EventJobDone
			switch x := rng.Float64() * 100; {
			case x < .02*slow*slow:
				kind = runner.EventJobFailed
			case x < .02*slow*slow+1:
				kind = runner.EventJobRetried
			}
			hour.note(runner.Event{Time: at, Kind: kind, Runner: name, Wait: wait, Run: run})
		}
	}
}

// wellStatus is the same installation on a good day.
func wellStatus(now time.Time) runner.Status {
	st := busyStatus(now)
	st.Databases = append(st.Databases[:3:3], st.Databases[4])
	st.Upstreams = st.Upstreams[:3]
	st.Channels[3].Failed, st.Channels[3].Queued, st.Channels[3].Oldest = 0, 0, time.Time{}
	st.Counts[0].Failed, st.Databases[0].Failed = 14, 14
	st.Counts[2].Pending, st.Databases[2].Pending = 18, 18
	return st
}

// manyStatus has sixty channels, of which few have anything to do.
func manyStatus(now time.Time) runner.Status {
	st := busyStatus(now)
	st.Channels[0].Capacity = st.Channels[0].Running // so the customers' jobs wait
	for i := range 53 {
		c := runner.ChannelStatus{Status: channels.Status{FullName: fmt.Sprintf("root.customer%02d", i+1), Configured: true, Capacity: 1}}
		if i%9 == 4 {
			c.Queued, c.Oldest = 3*i, now.Add(-time.Duration(i)*time.Minute/3)
			st.Counts[2].Pending += c.Queued
		}
		st.Channels = append(st.Channels, c)
	}
	st.Databases[2].Pending = st.Counts[2].Pending
	st.Databases = append(st.Databases[:3:3], st.Databases[4])
	return st
}

// standbyStatus is that of a process that does not lead.
func standbyStatus() runner.Status {
	return runner.Status{
		LeaderKnown: true, LeaderDetail: "process 77 from 10.0.0.2, application caddy-jobrunner",
		Upstreams: []runner.UpstreamStatus{{Name: "http://10.0.0.5:8069", Up: true}},
	}
}

// startBusy runs the dashboard of an installation in some state, and returns its address.
func startBusy(t *testing.T, st runner.Status) string {
	t.Helper()
	fakerunner.Run(t, "default", &busySite{fakerunner.Engine{Says: st}}, zap.NewNop())
	hour = history{started: time.Now().Add(-2 * time.Hour), runners: make(map[string]*[historyPoints]point)}
	anHour("default")
	return serve(t, `{
		actions
		nodes https://b.example.com/jobrunner/
	}`)
}

// serve has a Caddy show the dashboard with some options, and returns its address.
func serve(t *testing.T, options string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address = l.Addr().String()
	l.Close()
	raw, err := caddytest.Adapt("{\n\tadmin off\n\tauto_https off\n}\nhttp://" + address + " {\n\tjobrunner_dashboard " + options + "\n}\n")
	require.NoError(t, err)
	require.NoError(t, caddy.Load(raw, true))
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	return address
}

// isDrawn is when everything of the page is there.
const isDrawn = "document.querySelectorAll('#channels tbody tr, #failures tbody tr').length > 5 && document.querySelector('#latency path') && !document.querySelector('#tiles').innerText.includes('–')"

// TestScreenshots takes the pictures in docs.
func TestScreenshots(t *testing.T) {
	shoot := func(state runner.Status, name string, d browsertest.Device, scroll string) {
		t.Run(name, func(t *testing.T) {
			address := startBusy(t, state)
			p := browsertest.New(t)
			p.Use(d)
			p.Open("http://" + address + "/jobrunner/")
			p.Until(isDrawn)
			if !d.Phone {
				p.Type("#why-database", "prod_eu")
				p.Type("#why-uuid", "c2b2ae35-5a1e-4c1b-9d53-6f2f1c0a7e11\r")
				p.Until("document.querySelector('#answer dl')")
			}
			browsertest.Eval[any](p, "document.activeElement.blur(), "+scroll+", null")
			p.Screenshot(filepath.Join("..", "docs", name+".png"))
			require.NotRegexp(t, `\d{4}-\d\d-\d\dT`, browsertest.Eval[string](p, "document.body.innerText"), "times are for people")
			require.Empty(t, p.Problems())
			require.Equal(t, []string{address}, p.Hosts())
		})
	}
	now := time.Now()
	shoot(wellStatus(now), "dashboard", browsertest.Device{Width: 1440, Height: 1180}, "scrollTo(0, 0)")
	shoot(busyStatus(now), "dashboard-degraded", browsertest.Device{Width: 1440, Height: 1180}, "scrollTo(0, 0)")
	shoot(busyStatus(now), "dashboard-dark", browsertest.Device{Width: 1440, Height: 1720, Dark: true}, "scrollTo(0, 0)")
	shoot(busyStatus(now), "dashboard-phone", browsertest.Device{Width: 390, Height: 1500, Phone: true}, "scrollTo(0, 0)")
	shoot(manyStatus(now), "dashboard-60-channels", browsertest.Device{Width: 1440, Height: 1180}, "scrollTo(0, 560)")
}

// TestScreenshotsOfJobs takes those of the list of all jobs and of one of them.
func TestScreenshotsOfJobs(t *testing.T) {
	address := startBusy(t, busyStatus(time.Now()))
	for name, c := range map[string]struct {
		hash, drawn string
		device      browsertest.Device
	}{
		"jobs":       {"#/jobs?state=failed,pending,started,done,cancelled,wait_dependencies", "#jobs tbody tr", browsertest.Device{Width: 1440, Height: 860}},
		"job":        {"#/job/prod_eu/3c6ef372-5a1e-4c1b-9d53-6f2f1c0a7e11", "#relatives", browsertest.Device{Width: 1440, Height: 1000, Dark: true}},
		"jobs-phone": {"#/jobs?state=failed", "#jobs tbody tr", browsertest.Device{Width: 390, Height: 1100, Phone: true}},
	} {
		p := browsertest.New(t)
		p.Use(c.device)
		p.Open("http://" + address + "/jobrunner/" + c.hash)
		p.Until("document.querySelector('" + c.drawn + "')")
		browsertest.Eval[any](p, "document.activeElement.blur(), document.querySelectorAll('.payload').forEach(d => d.open = true), scrollTo(0, 0), null")
		p.Screenshot(filepath.Join("..", "docs", "dashboard-"+name+".png"))
		require.NotRegexp(t, `\d{4}-\d\d-\d\dT`, browsertest.Eval[string](p, "document.body.innerText"), "times are for people")
		require.Empty(t, p.Problems())
		require.Equal(t, []string{address}, p.Hosts())
	}
}

// overlaps counts the labels of the plots that lie upon each other, or leave their plot.
const overlaps = `[...document.querySelectorAll('.plot')].flatMap(plot => {
	const frame = plot.getBoundingClientRect(), boxes = [...plot.querySelectorAll('text')].map(t => t.getBoundingClientRect());
	return boxes.filter((a, i) => a.left < frame.left - 1 || a.right > frame.right + 1 ||
		boxes.some((b, j) => j > i && a.left < b.right && b.left < a.right && a.top < b.bottom - 3 && b.top < a.bottom - 3));
}).length`

// TestBrowserManyChannels: sixty channels do not push everything else out of sight.
func TestBrowserManyChannels(t *testing.T) {
	address := startBusy(t, manyStatus(time.Now()))
	p := browsertest.New(t)
	rowsShown := func() int { return browsertest.Eval[int](p, "document.querySelectorAll('#channels tbody tr').length") }
	height := func() int { return browsertest.Eval[int](p, "document.documentElement.scrollHeight") }
	for _, d := range []browsertest.Device{{Width: 1440, Height: 1000}, {Width: 320, Height: 700, Phone: true}} {
		p.Use(d)
		p.Open("http://" + address + "/jobrunner/")
		p.Until(isDrawn)
		require.Zero(t, browsertest.Eval[int](p, overlaps), "labels at %d", d.Width)
		require.LessOrEqual(t, rowsShown(), 15)
		if d.Phone {
			require.Less(t, height(), 5600)
			p.Until("document.documentElement.scrollWidth <= 320")
		} else {
			require.Less(t, height(), 2300)
		}
		require.Contains(t, p.Text("#more-channels"), "idle channels")
		browsertest.Eval[any](p, "document.querySelector('#more-channels').click(), null")
		p.Until("document.querySelectorAll('#channels tbody tr').length === 60")
		browsertest.Eval[any](p, "document.querySelector('#more-channels').click(), null")
		p.Type("#channel-filter", "customer1")
		p.Until("document.querySelectorAll('#channels tbody tr').length === 10")
	}
	require.Contains(t, p.Text("#tiles"), "last hour: ")
	require.Contains(t, browsertest.Eval[string](p, "document.querySelector('.s-p95').innerText"), "p95")
	require.Empty(t, p.Problems())
}

// TestBrowserStandby: a page that knows nothing says who does, and leads there; one that gets no news
// looks like it.
func TestBrowserStandby(t *testing.T) {
	address := startBusy(t, standbyStatus())
	p := browsertest.New(t)
	p.Use(browsertest.Device{Width: 1280, Height: 900})
	p.Open("http://" + address + "/jobrunner/")
	p.Until("document.querySelector('#state').innerText === 'Standby'")
	require.Contains(t, p.Text("#problems"), "process 77")
	require.Equal(t, "https://b.example.com/jobrunner/", browsertest.Eval[string](p, "document.querySelector('#nodes a').href"))
	require.Equal(t, "1", browsertest.Eval[string](p, "getComputedStyle(document.querySelector('#main .columns')).opacity"))
	require.NoError(t, caddy.Stop())
	p.Until("document.body.classList.contains('stale') && Number(getComputedStyle(document.querySelector('#main .columns')).opacity) < .6")
	require.Equal(t, "1", browsertest.Eval[string](p, "getComputedStyle(document.querySelector('#offline')).opacity"))
}

// TestBrowserPolicies: the page says what policies do with servers and channels.
func TestBrowserPolicies(t *testing.T) {
	st := busyStatus(time.Now())
	for i := range st.Upstreams {
		if u := &st.Upstreams[i]; u.Name == "http://10.0.0.6:8069" {
			u.Pool, u.Visitors, u.Counted, u.Full = "heavy", 5, true, "3 of 8 workers are kept for visitors"
			u.Limits = upstream.Limits{Workers: 8, MaxJobs: 6, Reserve: 2}
		}
	}
	st.Channels[2].PassedBy, st.Channels[4].Percent = 12, 25
	address := startBusy(t, st)
	p := browsertest.New(t)
	p.Use(browsertest.Device{Width: 1440, Height: 1000})
	p.Open("http://" + address + "/jobrunner/")
	p.Until(isDrawn)
	servers := p.Text("#upstreams")
	for _, said := range []string{"pool heavy", "full", "3 jobs of 6 running", "5 visitors", "8 workers", "2 kept for them", "3 of 8 workers are kept for visitors"} {
		require.Contains(t, servers, said)
	}
	require.Contains(t, p.Text("#channels"), "12 jobs are passed by")
	require.Contains(t, p.Text("#channels"), "25 % of the channel above")
	require.Empty(t, p.Problems())
}
