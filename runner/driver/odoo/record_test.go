package odoo_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// openOperations opens operations for the test.
func (h *harness) openOperations() driver.Operations {
	h.t.Helper()
	o, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), h.Postgres(), h.db)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { require.NoError(h.t, o.Close(context.Background())) })
	return o
}

// TestRecord: a job is told with all that its row has, in every series, and with what is confidential only
// if that is asked for.
func TestRecord(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			h.Insert(drivertest.Job{UUID: "a", State: "failed", MaxRetries: 5, Retry: 2})
			h.exec(`UPDATE queue_job SET name = 'Send', company_id = 1, user_id = 2, result = 'a result', exc_info = 'Traceback',
				date_started = '2026-01-02 03:04:05'`)
			o := h.openOperations()
			r, err := o.Record(h.deadline(), "a", false)
			require.NoError(t, err)
			require.Equal(t, "Send", r.Name)
			require.Equal(t, []int64{1, 2}, []int64{r.Company, r.User})
			require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), r.Started)
			require.Nil(t, r.Payload)
			require.Empty(t, r.Relatives)
			require.Empty(t, r.RelativesProblem)
			r, err = o.Record(h.deadline(), "a", true)
			require.NoError(t, err)
			require.Equal(t, driver.Text{Text: "a result", Bytes: 8}, r.Payload.Result)
			require.Equal(t, driver.Text{Text: "Traceback", Bytes: 9}, r.Payload.Traceback)
			r, err = o.Record(h.deadline(), "nothing", true)
			require.NoError(t, err)
			require.Nil(t, r)
		})
	}
}

// TestRecordOfMonsters: texts of any size are cut by the server, and lists of relatives that are none, or
// too long, are told as such.
func TestRecordOfMonsters(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "failed"})
	h.exec(`UPDATE queue_job SET name = repeat('n', 5000000), exc_name = repeat('e', 5000000), exc_message = repeat('<b>', 2000000),
		exc_info = repeat('t', 50000000), args = repeat('a', 50000000), kwargs = repeat('k', 200000), result = repeat('r', 200000),
		record_ids = repeat('1', 200000), dependencies = repeat('d', 5000000), exec_time = 'NaN', worker_pid = -1`)
	o := h.openOperations()
	r, err := o.Record(h.deadline(), "a", true)
	require.NoError(t, err)
	require.Len(t, r.Name, 256)
	require.Len(t, r.Exception, 256)
	require.Len(t, r.Message, 2000)
	require.Zero(t, r.Ran)
	for _, text := range []driver.Text{r.Payload.Traceback, r.Payload.Arguments, r.Payload.Keywords, r.Payload.Result, r.Payload.Records} {
		require.Len(t, text.Text, 64<<10)
		require.Contains(t, []int64{200_000, 50_000_000}, text.Bytes)
	}
	require.Equal(t, "the list of them has 5000000 bytes, which is too much to be read", r.RelativesProblem)
	for name, filter := range map[string]driver.Filter{"name": {Name: "nn"}, "function": {Function: "nothing"}, "exception": {Exception: "e"}} {
		_, err := o.List(h.deadline(), filter, 0, 10)
		require.NoError(t, err, name)
	}

	for text, problem := range map[string]string{
		"": "", "{}": "", `{"depends_on": null}`: "", "[": "is not what Odoo writes", `{"depends_on": 1}`: "is not what Odoo writes",
		`{"depends_on": ["` + strings.Repeat("x", 200) + `"]}`: "",
	} {
		h.exec("UPDATE queue_job SET state = 'wait_dependencies', dependencies = $1", text)
		r, err := o.Record(h.deadline(), "a", false)
		require.NoError(t, err)
		require.Empty(t, r.Relatives, text)
		require.Contains(t, r.RelativesProblem, problem)
		require.Equal(t, problem == "", r.RelativesProblem == "", text)
	}
}

// TestRelatives: the jobs that a job depends on come first, and no more than a table can show.
func TestRelatives(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "wait_dependencies"})
	h.Insert(drivertest.Job{UUID: "done", State: "done"})
	h.Insert(drivertest.Job{UUID: "late", State: "pending"})
	h.exec("UPDATE queue_job SET model_name = 'm', method_name = 'f' WHERE uuid = 'late'")
	list := func(n int) string {
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("%q", fmt.Sprint("child", i))
		}
		return strings.Join(names, ",")
	}
	o := h.openOperations()
	for n, more := range map[int]int{0: 0, 2: 0, 498: 0, 499: 1, 5000: 4502} {
		h.exec("UPDATE queue_job SET dependencies = $1 WHERE uuid = 'a'", `{"depends_on": ["done", "late"], "reverse_depends_on": [`+list(n)+`]}`)
		r, err := o.Record(h.deadline(), "a", false)
		require.NoError(t, err)
		require.Len(t, r.Relatives, min(n+2, driver.RelativesLimit))
		require.Equal(t, more, r.MoreRelatives)
		require.Equal(t, driver.Relative{UUID: "done", State: "done"}, r.Relatives[0])
		require.Equal(t, driver.Relative{UUID: "late", State: "pending", Model: "m", Method: "f"}, r.Relatives[1])
		if n > 0 {
			require.Equal(t, driver.Relative{UUID: "child0", Child: true}, r.Relatives[2])
		}
		require.Equal(t, 1, r.WaitsFor)
		require.Equal(t, "late", r.FirstParent)
	}
	long := strings.Repeat("x", odoo.UUIDLimit)
	h.exec("UPDATE queue_job SET dependencies = $1 WHERE uuid = 'a'", `{"depends_on": ["`+long+`x", "`+long+`", "late"]}`)
	r, err := o.Record(h.deadline(), "a", false)
	require.NoError(t, err)
	require.Equal(t, []driver.Relative{{UUID: long}, {UUID: "late", State: "pending", Model: "m", Method: "f"}}, r.Relatives, "all but the one that is too long")
}

// TestBytesThatAreNoText: a database that does not know its encoding holds anything, which is shown as it can be.
func TestBytesThatAreNoText(t *testing.T) {
	pg := pgtest.Shared(t)
	h := &harness{t: t, pg: pg, gen: odoostub.QueueJobLock}
	h.db = pg.NewDatabase(t) + "_ascii"
	require.NoError(t, pg.Exec(t.Context(), "postgres", "CREATE DATABASE "+h.db+" TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"))
	t.Cleanup(func() {
		require.NoError(t, pg.Exec(context.Background(), "postgres", "DROP DATABASE "+h.db+" WITH (FORCE)"))
	})
	h.admin = h.connect()
	require.NoError(t, odoostub.Install(t.Context(), h.admin, h.gen))
	h.Insert(drivertest.Job{UUID: "a", State: "failed"})
	h.exec(`UPDATE queue_job SET name = E'caf\xe9', model_name = E'\xff', method_name = E'\xff', exc_name = E'\xff', exc_message = E'\xff', args = E'\xff',
		exc_info = E'\xff', identity_key = E'\xff', channel = E'root.\xff', dependencies = E'{"depends_on": ["\xff"]}'`)
	o := h.openOperations()
	for name, f := range map[string]driver.Filter{
		"all": {}, "name": {Name: "CAF"}, "failed": {States: []channels.State{channels.Failed}}, "exception": {Exception: "\xff"}, "channel": {Channel: "\xff"},
	} {
		out, err := o.List(h.deadline(), f, 0, 10)
		require.NoError(t, err, name)
		require.Len(t, out.Jobs, 1, name)
		require.Equal(t, "caf\xe9", out.Jobs[0].Name)
	}
	r, err := o.Record(h.deadline(), "a", true)
	require.NoError(t, err)
	require.Equal(t, "\xff", r.Message)
	raw, err := json.Marshal(r)
	require.NoError(t, err)
	require.True(t, utf8.Valid(raw))
	changed, err := o.Change(h.deadline(), driver.Change{Action: driver.Requeue}, driver.Filter{Name: "caf"}, 0, 10, false)
	require.NoError(t, err)
	require.Len(t, changed.UUIDs, 1)
}
