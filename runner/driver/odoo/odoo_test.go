package odoo_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func TestConformance(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) drivertest.Harness { return newHarness(t, odoostub.QueueJobLock) })
}

func TestConformancePooled(t *testing.T) {
	drivertest.RunPooled(t, func(t *testing.T) drivertest.Harness { return newHarness(t, odoostub.QueueJobLock) })
}

func TestConformanceWithoutLocks(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		if gen.Locks() {
			continue
		}
		t.Run(gen.String(), func(t *testing.T) {
			drivertest.RunWithoutLocks(t, func(t *testing.T) drivertest.Harness {
				h := newHarness(t, gen)
				if gen == odoostub.Connector7 {
					h.exec("ALTER TABLE queue_job ADD COLUMN channel varchar") // as in its later releases
				}
				return h
			})
		})
	}
}

// harness implements [drivertest.Harness] on a real PostgreSQL with Odoo's tables in it.
type harness struct {
	t       *testing.T
	pg      *pgtest.Cluster
	db      string
	gen     odoostub.Generation
	admin   *pgx.Conn
	workers map[string]*pgx.Conn
	// pooled has open go through a pooler that gives each transaction another backend.
	pooled bool
}

func newHarness(t *testing.T, gen odoostub.Generation) *harness {
	t.Helper()
	pg := pgtest.Shared(t)
	h := &harness{t: t, pg: pg, db: pg.NewDatabase(t), gen: gen, workers: map[string]*pgx.Conn{}}
	h.admin = h.connect()
	require.NoError(t, odoostub.Install(t.Context(), h.admin, gen))
	return h
}

// connect opens a connection of the application, which survives Terminate.
func (h *harness) connect() *pgx.Conn {
	h.t.Helper()
	cfg := h.pg.ConnConfig(h.db)
	cfg.RuntimeParams["application_name"] = "odoo"
	conn, err := pgx.ConnectConfig(h.t.Context(), cfg)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { require.NoError(h.t, conn.Close(context.Background())) })
	return conn
}

func (h *harness) exec(sql string, args ...any) {
	h.t.Helper()
	_, err := h.admin.Exec(h.t.Context(), sql, args...)
	require.NoError(h.t, err)
}

func (h *harness) Driver() driver.Driver     { return odoo.New(odoo.Options{}) }
func (h *harness) Postgres() *pgx.ConnConfig { return h.pg.ConnConfig("postgres") }
func (h *harness) Database() string          { return h.db }
func (h *harness) Foreign() string           { return h.pg.NewDatabase(h.t) }

func (h *harness) Insert(j drivertest.Job) {
	h.t.Helper()
	null := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return new(t.UTC())
	}
	channel := "channel"
	if j.Channel == "" {
		channel = "result" // the first releases of connector have no channels
	}
	columns, values := "", ""
	args := []any{j.UUID, j.State, j.Channel, j.Priority, null(j.Created), null(j.ETA), null(j.Enqueued), j.Retry, j.MaxRetries}
	if h.gen.Locks() { // it has graphs, then
		columns, values = ", date_done, graph_uuid, dependencies", `, $10, 'g', '{"depends_on": [], "reverse_depends_on": []}'`
		args = append(args, null(j.Done))
	}
	// In one statement, so that it is notified once.
	h.exec(`INSERT INTO queue_job (uuid, state, `+channel+`, priority, date_created, eta, date_enqueued, retry, max_retries`+columns+`)
		VALUES ($1, $2, nullif($3, ''), $4, $5, $6, $7, $8, $9`+values+`)`, args...)
	if len(j.DependsOn) > 0 {
		h.depend(j.UUID, j.DependsOn...)
	}
	if j.LockRow {
		h.exec("INSERT INTO queue_job_lock (id, queue_job_id) SELECT id, id FROM queue_job WHERE uuid = $1", j.UUID)
	}
}

// depend makes a job depend on others, of the same graph.
func (h *harness) depend(uuid string, parents ...string) {
	h.t.Helper()
	list := func(uuids []string) string {
		if len(uuids) == 0 {
			return "[]"
		}
		return `["` + strings.Join(uuids, `", "`) + `"]`
	}
	h.exec("UPDATE queue_job SET dependencies = $2 WHERE uuid = $1", uuid, `{"depends_on": `+list(parents)+`, "reverse_depends_on": []}`)
	for _, parent := range parents {
		h.exec(`UPDATE queue_job SET dependencies = (jsonb_set(dependencies::jsonb, '{reverse_depends_on}',
			dependencies::jsonb -> 'reverse_depends_on' || to_jsonb($2::text)))::text WHERE uuid = $1`, parent, uuid)
	}
}

func (h *harness) Mark(modules ...string) {
	h.t.Helper()
	h.exec("UPDATE ir_module_module SET state = 'installed' WHERE state LIKE 'to %'")
	for _, name := range modules {
		h.exec(`INSERT INTO ir_module_module (name, state) VALUES ($1, 'to upgrade')
			ON CONFLICT (name) DO UPDATE SET state = 'to upgrade'`, name)
	}
}

// Change marks a module in a transaction that is not committed.
func (h *harness) Change() (end func()) {
	h.t.Helper()
	tx, err := h.connect().Begin(h.t.Context())
	require.NoError(h.t, err)
	_, err = tx.Exec(h.t.Context(), "UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'base'")
	require.NoError(h.t, err)
	return func() { require.NoError(h.t, tx.Rollback(context.Background())) }
}

func (h *harness) SetState(uuid, state string) {
	h.t.Helper()
	h.exec("UPDATE queue_job SET state = $2 WHERE uuid = $1", uuid, state)
}

// SetChannels upgrades the add-on if need be.
func (h *harness) SetChannels(cfgs []channels.Config) {
	h.t.Helper()
	require.NoError(h.t, odoostub.InstallAddon(h.t.Context(), h.admin, odoostub.Channels))
	h.exec("DELETE FROM queue_job_channel")
	var list []odoostub.Channel
	for _, c := range cfgs {
		list = append(list, odoostub.Channel{
			Name: c.Name, Capacity: orNull(c.Capacity), Sequential: c.Sequential, Throttle: orNull(int(c.Throttle / time.Second)),
			Paused: c.Paused, CapacityDefault: orNull(c.CapacityDefault), SequentialDefault: c.SequentialDefault,
		})
	}
	require.NoError(h.t, odoostub.SetChannels(h.t.Context(), h.admin, list...))
}

// orNull returns nil for 0.
func orNull(n int) *int {
	if n == 0 {
		return nil
	}
	return &n
}

func (h *harness) Delete(uuid string) {
	h.t.Helper()
	h.exec("DELETE FROM queue_job WHERE uuid = $1", uuid)
}

func (h *harness) Notify(payload string) {
	h.t.Helper()
	channel := "queue_job"
	if h.gen.Connector() {
		channel = "connector"
	}
	h.exec("SELECT pg_notify($1, $2)", channel, payload)
}

// HoldLock does what a worker does in the transaction that runs the job.
func (h *harness) HoldLock(uuid string) uint32 {
	h.t.Helper()
	worker := h.connect()
	h.workers[uuid] = worker
	_, err := worker.Exec(h.t.Context(), "BEGIN")
	require.NoError(h.t, err)
	var id int32
	require.NoError(h.t, worker.QueryRow(h.t.Context(), `SELECT l.id FROM queue_job_lock l
		WHERE queue_job_id IN (SELECT id FROM queue_job WHERE uuid = $1) FOR NO KEY UPDATE SKIP LOCKED`, uuid).Scan(&id))
	return worker.PgConn().PID()
}

func (h *harness) FreeLock(uuid string) {
	h.t.Helper()
	_, err := h.workers[uuid].Exec(h.t.Context(), "ROLLBACK")
	require.NoError(h.t, err)
}

func (h *harness) Cause(uuid string) (text string) {
	h.t.Helper()
	require.NoError(h.t, h.admin.QueryRow(h.t.Context(), "SELECT coalesce(exc_info, '') FROM queue_job WHERE uuid = $1", uuid).Scan(&text))
	return text
}

func (h *harness) Terminate() {
	h.t.Helper()
	h.exec(`SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'caddy-jobrunner/%'`)
}

// server starts a stub of Odoo.
func (h *harness) server() (*odoostub.Server, driver.Upstream) {
	h.t.Helper()
	s, err := odoostub.New(odoostub.Options{Postgres: h.pg.ConnConfig})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { require.NoError(h.t, s.Close()) })
	return s, upstream(s.Addr())
}

func upstream(addr string) driver.Upstream {
	return driver.Upstream{
		Name: "http://" + addr, Scheme: "http", Host: addr,
		Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil},
	}
}

func (h *harness) Upstream(b drivertest.Behaviour) driver.Upstream {
	h.t.Helper()
	s, up := h.server()
	switch b {
	case drivertest.Works:
	case drivertest.Unavailable:
		s.SetFault(odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusServiceUnavailable, AllPaths: true})
	case drivertest.Closed:
		s.Refuse()
	case drivertest.Cuts:
		s.SetFault(odoostub.Fault{Kind: odoostub.ResetAfterRead})
	}
	return up
}

// session opens a session that has a fingerprint.
func (h *harness) session() driver.Session {
	h.t.Helper()
	s, err := h.Driver().OpenSession(h.deadline(), h.Postgres(), h.db)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { require.NoError(h.t, s.Close(context.Background())) })
	_, err = s.Fingerprint(h.deadline())
	require.NoError(h.t, err)
	return s
}

func (h *harness) deadline() context.Context {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 30*time.Second)
	h.t.Cleanup(cancel)
	return ctx
}

// silent returns an address that accepts connections and never answers.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l.Addr().String() // the kernel accepts
}
