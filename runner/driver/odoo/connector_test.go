package odoo_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// paths are those that a server was asked for, in order.
func paths(s *odoostub.Server) (list []string) {
	for _, r := range s.Recorder().AllRequests() {
		list = append(list, r.Path)
	}
	return list
}

// claimed returns a task of a new job.
func (h *harness) claimed(s driver.Session, uuid string) driver.Task {
	h.t.Helper()
	h.Insert(drivertest.Job{UUID: uuid, State: "pending"})
	tasks, _, err := s.Claim(h.deadline(), []string{uuid}, nil)
	require.NoError(h.t, err)
	require.Len(h.t, tasks, 1)
	return tasks[0]
}

func TestBootstrap(t *testing.T) {
	for gen, want := range map[odoostub.Generation]struct {
		begin []string
		run   string
	}{
		odoostub.Connector7:   {[]string{"/web/login"}, "/connector/runjob"},
		odoostub.Connector8:   {[]string{"/web/login", "/web/login"}, "/connector/runjob"},
		odoostub.Connector9:   {[]string{"/web/login", "/web/login"}, "/connector/runjob"},
		odoostub.QueueJob10:   {[]string{"/queue_job/session"}, "/queue_job/runjob"},
		odoostub.QueueJob12:   {nil, "/queue_job/runjob"},
		odoostub.QueueJobLock: {nil, "/queue_job/runjob"},
	} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			session := h.session()
			server, up := h.server()
			d := odoo.New(odoo.Options{})
			for _, uuid := range []string{"a", "b"} {
				res := d.Run(h.deadline(), up, h.claimed(session, uuid))
				require.Equal(t, driver.Answered, res.Outcome, res.Err)
			}
			require.Equal(t, append(append([]string(nil), want.begin...), want.run, want.run), paths(server), "once per server and database")

			// An error makes it begin anew.
			server.SetFault(odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusInternalServerError})
			d.Run(h.deadline(), up, h.claimed(session, "c"))
			server.SetFault(odoostub.Fault{})
			before := len(paths(server))
			d.Run(h.deadline(), up, h.claimed(session, "d"))
			require.Equal(t, append(append([]string(nil), want.begin...), want.run), paths(server)[before:])
		})
	}
}

// A server that has lost its sessions refuses once; the next job gets a new one.
func TestSessionsLost(t *testing.T) {
	h := newHarness(t, odoostub.Connector9)
	session := h.session()
	server, up := h.server()
	d := odoo.New(odoo.Options{})
	require.Equal(t, driver.Answered, d.Run(h.deadline(), up, h.claimed(session, "a")).Outcome)
	server.ForgetSessions()
	task := h.claimed(session, "b")
	res := d.Run(h.deadline(), up, task)
	require.Equal(t, driver.Refused, res.Outcome)
	require.Equal(t, http.StatusNotFound, res.Status)
	require.Equal(t, driver.Answered, d.Run(h.deadline(), up, task).Outcome)
}

func TestBootstrapFails(t *testing.T) {
	task := func(state string) driver.Task {
		return driver.Task{Key: channels.Key{DB: "prod", UUID: "a"}, DriverState: state}
	}
	answer := func(status int, location string) roundTripper {
		return func(q *http.Request) (*http.Response, error) {
			header := http.Header{}
			if location != "" {
				header.Set("Location", location)
			}
			require.NotContains(t, q.URL.Path, "runjob", "not sent")
			return &http.Response{StatusCode: status, Header: header, Body: http.NoBody}, nil
		}
	}
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for name, test := range map[string]struct {
		transport roundTripper
		want      driver.Outcome
		status    int
		words     string
	}{
		"server error": {answer(http.StatusInternalServerError, ""), driver.Refused, http.StatusInternalServerError, "status 500"},
		"unavailable":  {answer(http.StatusBadGateway, ""), driver.NotSent, 0, "status 502"},
		"not reached":  {func(*http.Request) (*http.Response, error) { return nil, refused }, driver.NotSent, 0, "connection refused"},
		"overloaded":   {answer(http.StatusTooManyRequests, ""), driver.Unavailable, http.StatusTooManyRequests, "status 429"},
		"dbfilter":     {answer(http.StatusSeeOther, "/web/database/selector"), driver.Refused, http.StatusSeeOther, "status 303"},
		"no location":  {answer(http.StatusFound, ""), driver.Refused, http.StatusFound, "status 302"},
		"loop":         {answer(http.StatusFound, "/web/login?db=prod"), driver.Refused, 0, "too many redirects"},
		"choices":      {answer(http.StatusMultipleChoices, ""), driver.Refused, http.StatusMultipleChoices, "status 300"},
		"odd location": {answer(http.StatusFound, "http://[::1"), driver.Refused, http.StatusFound, "status 302"},
	} {
		t.Run(name, func(t *testing.T) {
			up := driver.Upstream{Name: "x", Scheme: "http", Host: "x", Transport: test.transport}
			res := odoo.New(odoo.Options{}).Run(t.Context(), up, task("connector"))
			require.Equal(t, test.want, res.Outcome)
			require.Equal(t, test.status, res.Status)
			require.ErrorContains(t, res.Err, "begin a session")
			require.ErrorContains(t, res.Err, test.words)
		})
	}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			up := driver.Upstream{Name: "x", Scheme: "http", Host: "x", Transport: roundTripper(func(q *http.Request) (*http.Response, error) {
				<-q.Context().Done()
				return nil, context.Cause(q.Context())
			})}
			begin := time.Now()
			res := odoo.New(odoo.Options{}).Run(t.Context(), up, task("session"))
			require.Equal(t, driver.Refused, res.Outcome, "the server is well: others need not suffer")
			require.Equal(t, odoo.BootstrapTimeout, time.Since(begin))
		})
	})
}

// What is a redirect is followed, to where it leads on this server, and nothing else is.
func TestBootstrapRedirects(t *testing.T) {
	for status, follows := range map[int]bool{200: false, 299: false, 300: true, 303: true, 399: true, 400: false, 404: false} {
		var asked []string
		up := driver.Upstream{Name: "x", Scheme: "http", Host: "x", Transport: roundTripper(func(q *http.Request) (*http.Response, error) {
			asked = append(asked, q.URL.RequestURI())
			res := &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody}
			if len(asked) == 1 {
				res.StatusCode = status
				res.Header.Set("Location", "https://elsewhere/web/other?a=b")
			}
			return res, nil
		})}
		d := odoo.New(odoo.Options{})
		d.Run(t.Context(), up, driver.Task{Key: channels.Key{DB: "prod", UUID: "a"}, DriverState: "connector"})
		want := []string{"/web/login?db=prod"}
		if follows {
			want = append(want, "/web/other?a=b")
		}
		if status != http.StatusBadRequest {
			want = append(want, "/connector/runjob?db=prod&job_uuid=a")
		}
		require.Equal(t, want, asked, status)
	}
}

// The session of queue_job is a convenience: whatever the server says to it, the job is run.
func TestBootstrapOfASession(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusNotFound, http.StatusBadRequest, http.StatusInternalServerError} {
		runs := 0
		up := driver.Upstream{Name: "x", Scheme: "http", Host: "x", Transport: roundTripper(func(q *http.Request) (*http.Response, error) {
			res := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
			if q.URL.Path == "/queue_job/runjob" {
				runs++
				res.StatusCode = http.StatusOK
			}
			return res, nil
		})}
		res := odoo.New(odoo.Options{}).Run(t.Context(), up, driver.Task{Key: channels.Key{DB: "prod", UUID: "a"}, DriverState: "session"})
		require.Equal(t, driver.Answered, res.Outcome, status)
		require.Equal(t, 1, runs, status)
	}
}

// A runner of connector 8.0 and this one exclude each other by its own lock.
func TestOlderLock(t *testing.T) {
	h := newHarness(t, odoostub.Connector8)
	s := h.session()
	python := h.connect()
	_, err := python.Exec(t.Context(), "SELECT pg_advisory_lock(hashtext('jobrunner'))")
	require.NoError(t, err)
	lock, err := s.Lock(h.deadline())
	require.NoError(t, err)
	require.False(t, lock.Held)
	require.Contains(t, lock.Holder, "application odoo")
	other := h.session()
	lock, err = other.Lock(h.deadline())
	require.NoError(t, err)
	require.Contains(t, lock.Holder, "application odoo", "the first one has kept nothing")
	_, err = python.Exec(t.Context(), "SELECT pg_advisory_unlock_all()")
	require.NoError(t, err)
	for range 2 {
		lock, err = s.Lock(h.deadline())
		require.NoError(t, err)
		require.True(t, lock.Held)
	}
	require.NoError(t, s.Probe(h.deadline()))
	var got bool
	for _, key := range []string{"hashtext('jobrunner')", "2293787760715711918"} {
		require.NoError(t, python.QueryRow(t.Context(), "SELECT pg_try_advisory_lock("+key+")").Scan(&got))
		require.False(t, got, key)
	}
}

// A session that has lost either of its locks is told by the probe.
func TestProbeOfBothLocks(t *testing.T) {
	h := newHarness(t, odoostub.Connector8)
	for which := range 2 {
		s := h.session()
		lock, err := s.Lock(h.deadline())
		require.NoError(t, err)
		require.True(t, lock.Held)
		require.NoError(t, s.Listen(h.deadline()))
		require.NoError(t, s.Probe(h.deadline()))
		require.NoError(t, odoo.Unlock(h.deadline(), s, which))
		require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrLost)
		require.NoError(t, s.Close(h.deadline()))
	}
}

// Where another runner has the lock of queue_job, the older one is left alone.
func TestOlderLockIsTheSecond(t *testing.T) {
	h := newHarness(t, odoostub.Connector8)
	s, python, third := h.session(), h.connect(), h.connect()
	_, err := python.Exec(t.Context(), "SELECT pg_advisory_lock(2293787760715711918)")
	require.NoError(t, err)
	lock, err := s.Lock(h.deadline())
	require.NoError(t, err)
	require.False(t, lock.Held)
	require.NoError(t, s.Probe(h.deadline()), "it has no lock to keep")
	var got bool
	require.NoError(t, third.QueryRow(t.Context(), "SELECT pg_try_advisory_lock(hashtext('jobrunner'))").Scan(&got))
	require.True(t, got)
}

// An add-on connector on top of queue_job is not the old one.
func TestConnectorOfLaterSeries(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("INSERT INTO ir_module_module (name, state) VALUES ('connector', 'installed')")
	require.Equal(t, "queue_job+lock", h.fingerprint().Generation)
	require.NoError(t, odoostub.UninstallAddon(t.Context(), h.admin))
	fp := h.fingerprint()
	require.Equal(t, driver.Undetected, fp.Health)
	require.Contains(t, fp.Description, "has no jobs here")
}

func TestWarnings(t *testing.T) {
	h := newHarness(t, odoostub.Connector8)
	require.Empty(t, h.fingerprint().Warnings)
	h.exec(`INSERT INTO ir_cron (name, active, model, function) VALUES ('Enqueue Jobs', true, 'queue.worker', 'x')`)
	h.exec(`INSERT INTO queue_worker (uuid, date_alive) VALUES ('x', now() AT TIME ZONE 'UTC')`)
	w := h.fingerprint().Warnings
	require.Len(t, w, 2)
	require.Contains(t, w[0], "Enqueue Jobs")
	require.Contains(t, w[1], "worker of the old queue")
	h.exec(`UPDATE ir_cron SET active = false`)
	h.exec(`UPDATE queue_worker SET date_alive = date_alive - interval '6 minutes'`)
	require.Empty(t, h.fingerprint().Warnings)

	h = newHarness(t, odoostub.QueueJobLock)
	h.exec(`CREATE TABLE ir_cron (id int, cron_name varchar, active boolean);
		CREATE TABLE ir_model_data (module varchar, model varchar, res_id int);
		INSERT INTO ir_cron VALUES (1, 'Queue Job Runner', true);
		INSERT INTO ir_model_data VALUES ('queue_job_cron_jobrunner', 'ir.cron', 1)`)
	w = h.fingerprint().Warnings
	require.Len(t, w, 1)
	require.Contains(t, w[0], "queue_job_cron_jobrunner")
}

// What runs jobs in one series is none of the others', and a table that is not there is not read.
func TestWarningsOfEachSeries(t *testing.T) {
	const crons, data, workers = `CREATE TABLE ir_cron (id int, name varchar, active boolean, model varchar);
		INSERT INTO ir_cron VALUES (1, 'Enqueue Jobs', true, 'queue.worker');`, `CREATE TABLE ir_model_data (module varchar, model varchar, res_id int);
		INSERT INTO ir_model_data VALUES ('queue_job_cron_jobrunner', 'ir.cron', 1);`,
		`CREATE TABLE queue_worker (date_alive timestamp); INSERT INTO queue_worker VALUES (now() AT TIME ZONE 'UTC');`
	const drop = "DROP TABLE IF EXISTS ir_cron, ir_model_data, queue_worker CASCADE;"
	for gen, wanted := range map[odoostub.Generation]map[string]int{
		odoostub.Connector8:   {"": 0, crons: 1, workers: 1, data: 0, crons + data: 1, crons + workers: 2, crons + data + workers: 2},
		odoostub.QueueJobLock: {"": 0, crons: 0, workers: 0, data: 0, crons + data: 1, crons + workers: 0, crons + data + workers: 1},
	} {
		h := newHarness(t, gen)
		for sql, want := range wanted {
			h.exec(drop + sql)
			require.Len(t, h.fingerprint().Warnings, want, "%s: %s", gen, sql)
		}
	}
}

// A state that Odoo does not know must not get into its table.
func TestNoCancelInOldSeries(t *testing.T) {
	for _, gen := range []odoostub.Generation{odoostub.Connector9, odoostub.QueueJob10, odoostub.QueueJob12} {
		h := newHarness(t, gen)
		h.Insert(drivertest.Job{UUID: "a", State: "pending"})
		ops, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), h.Postgres(), h.db)
		require.NoError(t, err)
		found, err := ops.List(h.deadline(), driver.Filter{}, 0, 10)
		require.NoError(t, err)
		list := found.Jobs
		require.Len(t, list, 1)
		_, err = ops.Change(h.deadline(), driver.Change{Action: driver.Cancel, By: "me"}, driver.Filter{}, 0, 10, false)
		if gen == odoostub.QueueJob12 {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "no cancelled jobs")
			_, err = ops.Change(h.deadline(), driver.Change{Action: driver.SetDone, By: "me"}, driver.Filter{}, 0, 10, false)
			require.NoError(t, err)
		}
		require.NoError(t, ops.Close(h.deadline()))
	}
}

func TestExamine(t *testing.T) {
	h := newHarness(t, odoostub.Connector8)
	d := odoo.New(odoo.Options{})
	x, err := d.Examine(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	require.Equal(t, "connector", x.Module)
	require.Equal(t, "connector", x.DriverState)
	require.Empty(t, x.Holder)
	_, err = h.connect().Exec(t.Context(), "SELECT pg_advisory_lock(hashtext('jobrunner'))")
	require.NoError(t, err)
	x, err = d.Examine(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	require.Contains(t, x.Holder, "application odoo")
	h.exec("SELECT pg_advisory_lock(2293787760715711918)")
	x, err = d.Examine(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	require.Contains(t, x.Holder, fmt.Sprintf("pid %d,", h.admin.PgConn().PID()), "of both locks, the one that every series has")
	h.exec("SELECT pg_advisory_unlock_all()")
	x, err = d.Examine(h.deadline(), h.Postgres(), h.Foreign())
	require.NoError(t, err)
	require.Equal(t, driver.Undetected, x.Health)
}
