package odoo

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// archive is a table with more jobs than a window has: all are done but one of a thousand, which
// failed, and the last hundred, which are pending.
const archive = `
ALTER TABLE queue_job DISABLE TRIGGER USER;
INSERT INTO queue_job (uuid, state, channel, name, model_name, method_name, date_created, exc_name, identity_key)
SELECT md5(i::text)::uuid::text,
	CASE WHEN i > 29900 THEN 'pending' WHEN i % 1000 = 0 THEN 'failed' ELSE 'done' END,
	CASE WHEN i % 500 = 0 THEN 'root.rare.' || i % 7 WHEN i % 3 = 0 THEN 'mail' END,
	'Send the mail ' || i, 'mail.mail', CASE WHEN i % 2 = 0 THEN 'send' ELSE 'fetch' END,
	now() AT TIME ZONE 'UTC' - (30001 - i) * interval '1 minute',
	CASE WHEN i % 1000 = 0 THEN 'odoo.exceptions.UserError' END, 'key ' || i
FROM generate_series(1, 30000) i;
ANALYZE queue_job`

// newArchive returns operations on such a table.
func newArchive(t *testing.T, gen odoostub.Generation) *operations {
	t.Helper()
	pg := pgtest.Shared(t)
	db, pool := odoostub.NewDatabase(t, pg, gen)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	_, err = conn.Conn().PgConn().Exec(t.Context(), archive).ReadAll()
	require.NoError(t, err)
	conn.Release()
	opened, err := New(Options{}).OpenOperations(t.Context(), pg.ConnConfig("postgres"), db)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, opened.Close(context.Background())) })
	o, ok := opened.(*operations)
	require.True(t, ok)
	return o
}

// archived are filters, with how many jobs of the archive meet them and the index that a plan has to
// use; empty if it has to be that of the ids.
var archived = map[string]struct {
	filter driver.Filter
	want   int
	index  string
}{
	"none":               {driver.Filter{}, 30000, ""},
	"uuid":               {driver.Filter{UUIDs: []string{"c4ca4238-a0b9-2382-0dcc-509a6f75849b"}}, 1, "queue_job_uuid_index"},
	"prefix":             {driver.Filter{Prefix: "c4ca4"}, 1, "queue_job_uuid_index"},
	"failed":             {driver.Filter{States: []channels.State{channels.Failed}}, 29, "queue_job_state_index"},
	"several states":     {driver.Filter{States: []channels.State{channels.Failed, channels.Pending}}, 129, "queue_job_state_index"},
	"done":               {driver.Filter{States: []channels.State{channels.Done}}, 29871, ""},
	"channel":            {driver.Filter{Channel: "rare"}, 60, "queue_job_channel_index"},
	"channel below":      {driver.Filter{Channel: "root.rare.3"}, 8, "queue_job_channel_index"},
	"common channel":     {driver.Filter{Channel: "mail"}, 9980, ""},
	"done, rare channel": {driver.Filter{States: []channels.State{channels.Done}, Channel: "rare"}, 30, "queue_job_channel_index"},
	"exception":          {driver.Filter{Exception: "odoo.exceptions.UserError"}, 30, ""},
	"function":           {driver.Filter{Function: "mail.mail.send"}, 15000, ""},
	"model":              {driver.Filter{Function: "mail.mail"}, 30000, ""},
	"method":             {driver.Filter{Function: "fetch"}, 15000, ""},
	"no function":        {driver.Filter{Function: "mail.send"}, 0, ""},
	"name":               {driver.Filter{Name: "THE MAIL 2999"}, 11, ""},
	"identity":           {driver.Filter{Identity: "key 29999"}, 1, ""},
	"unfinished":         {driver.Filter{Identity: "key 29999", States: []channels.State{channels.Pending}}, 1, "queue_job_identity_key_state_partial_index"},
	"old":                {driver.Filter{OlderThan: 20 * 24 * time.Hour}, 30000 - 20*24*60, ""},
	"new":                {driver.Filter{NewerThan: time.Hour}, 60, ""},
	"failed, name":       {driver.Filter{States: []channels.State{channels.Failed}, Name: "mail 1000"}, 2, "queue_job_state_index"},
	"nothing":            {driver.Filter{Name: "%"}, 0, ""},
}

// TestListFindsAll: page by page, every job that a filter selects is found, once, the newest first.
func TestListFindsAll(t *testing.T) {
	o := newArchive(t, odoostub.QueueJobLock)
	for name, c := range archived {
		for _, limit := range []int{700, 10000} {
			n, pages, last, next := 0, 0, int64(math.MaxInt64), int64(0)
			for more := true; more; more = next != 0 {
				out, err := o.List(t.Context(), c.filter, next, limit)
				require.NoError(t, err, name)
				require.LessOrEqual(t, len(out.Jobs), limit)
				for i := range out.Jobs {
					require.Less(t, out.Jobs[i].ID, last, name)
					last = out.Jobs[i].ID
				}
				next = out.Next
				n, pages = n+len(out.Jobs), pages+1
				require.Less(t, pages, 100, name)
			}
			require.InDelta(t, c.want, n, 1, "%s: the clock goes on while this runs", name)
		}
	}
}

// rowsRead is how many rows a part of a plan has read.
var rowsRead = regexp.MustCompile(`rows=(\d+)(?:\.\d+)? loops=(\d+)`)

// TestListPlans: no plan reads the whole table, and none reads more of it than a window, whatever the
// filter is.
func TestListPlans(t *testing.T) {
	o := newArchive(t, odoostub.QueueJobLock)
	explain := func(sql string, args []any) string {
		rows, err := o.conn.Query(t.Context(), "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) "+o.g.named(sql), append([]any{pgx.QueryExecModeExec}, args...)...)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		plan := strings.Join(lines, "\n")
		require.NotContains(t, plan, "Seq Scan on queue_job")
		for _, m := range rowsRead.FindAllStringSubmatch(plan, -1) {
			n, err := strconv.Atoi(m[1])
			require.NoError(t, err)
			require.LessOrEqual(t, n, windowSize+1, plan)
		}
		for _, m := range regexp.MustCompile(`Rows Removed by Filter: (\d+)`).FindAllStringSubmatch(plan, -1) {
			n, err := strconv.Atoi(m[1])
			require.NoError(t, err)
			require.LessOrEqual(t, n, windowSize+1, plan)
		}
		return plan
	}
	a, err := o.readAccess(t.Context())
	require.NoError(t, err)
	require.True(t, a.bytewise, "Odoo makes its databases so")
	for name, c := range archived {
		all := o.g.conditions(c.filter)
		var used []string
		for i := range all {
			if a.serves(&all[i]) {
				plan := explain(o.g.fewStatement(all, i, math.MaxInt64, 50))
				used = append(used, regexp.MustCompile(`queue_job_\w+_index`).FindAllString(plan, -1)...)
			}
		}
		if c.index != "" {
			require.True(t, slices.Contains(used, c.index), "%s: %v", name, used)
		}
		plan := explain(o.g.windowStatement(all, math.MaxInt64, 50))
		require.Contains(t, plan, "queue_job_pkey", name)
		require.NotContains(t, plan, "_index", name)
	}
}

// TestListWithoutIndexes: where an index is missing, or does not serve the beginnings of texts, the
// jobs are found window by window all the same.
func TestListWithoutIndexes(t *testing.T) {
	o := newArchive(t, odoostub.QueueJobLock)
	_, err := o.conn.Exec(t.Context(), "DROP INDEX public.queue_job_state_index, public.queue_job_uuid_index, public.queue_job_channel_index")
	require.NoError(t, err)
	a, err := o.readAccess(t.Context())
	require.NoError(t, err)
	require.NotContains(t, a.indexed, "state")
	for _, name := range []string{"failed", "prefix", "channel"} {
		n := 0
		for next, more := int64(0), true; more; more = next != 0 {
			out, err := o.List(t.Context(), archived[name].filter, next, 50)
			require.NoError(t, err)
			n, next = n+len(out.Jobs), out.Next
		}
		require.Equal(t, archived[name].want, n, name)
	}
}

// TestServes: an index finds what it is about, and the beginnings of texts where it is ordered by bytes.
func TestServes(t *testing.T) {
	t.Parallel()
	whole, begins, none := condition{column: "uuid"}, condition{column: "uuid", begins: true}, condition{}
	for name, c := range map[string]struct {
		access access
		want   []condition
	}{
		"indexed, by bytes": {access{indexed: []string{"id", "uuid"}, bytewise: true}, []condition{whole, begins}},
		"indexed":           {access{indexed: []string{"uuid"}}, []condition{whole}},
		"another":           {access{indexed: []string{"id", ""}, bytewise: true}, nil},
		"no index":          {access{bytewise: true}, nil},
	} {
		var served []condition
		for _, one := range []condition{whole, begins, none} {
			if c.access.serves(&one) {
				served = append(served, one)
			}
		}
		require.Equal(t, c.want, served, name)
	}
}

// TestListFindsFewAtOnce: what an index finds is found by the first call, however old it is; where there
// is too much of it, the first call goes through the newest jobs.
func TestListFindsFewAtOnce(t *testing.T) {
	o := newArchive(t, odoostub.QueueJobLock)
	oldest := driver.Filter{Identity: "key 1000", States: []channels.State{channels.Failed}} // by its state
	out, err := o.List(t.Context(), oldest, 0, 50)
	require.NoError(t, err)
	require.Len(t, out.Jobs, 1)
	require.Zero(t, out.Next)
	for name, c := range archived {
		out, err := o.List(t.Context(), c.filter, 0, 200)
		require.NoError(t, err)
		switch {
		case c.index != "":
			require.InDelta(t, c.want, len(out.Jobs), 1, name)
			require.Zero(t, out.Next, name)
		case c.want >= 15000:
			require.NotEmpty(t, out.Jobs, name)
			require.NotZero(t, out.Next, name)
		}
	}
}

// TestFewAreAWindow: an index is asked for as many jobs as a window has, and not for more.
func TestFewAreAWindow(t *testing.T) {
	o := newArchive(t, odoostub.QueueJobLock)
	for n, found := range map[int]int{windowSize: 10, windowSize + 1: 0} {
		_, err := o.conn.Exec(t.Context(), "UPDATE public.queue_job SET channel = 'root.few' WHERE id <= $1", n)
		require.NoError(t, err)
		out, err := o.List(t.Context(), driver.Filter{Channel: "root.few"}, 0, 10)
		require.NoError(t, err)
		require.Len(t, out.Jobs, found, "of %d", n)
		require.NotZero(t, out.Next)
	}
}

// TestLimitOfAList: none would be no limit at all for PostgreSQL, and no test waits for it.
func TestLimitOfAList(t *testing.T) {
	t.Parallel()
	require.Equal(t, 5*time.Second, listLimit)
}

// TestListOfEverySeries: each filter is possible in each series, and what a series does not have
// selects nothing.
func TestListOfEverySeries(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			pg := pgtest.Shared(t)
			db, _ := odoostub.NewDatabase(t, pg, gen)
			o, err := New(Options{}).OpenOperations(t.Context(), pg.ConnConfig("postgres"), db)
			require.NoError(t, err)
			defer o.Close(context.Background())
			for name, c := range archived {
				_, err := o.List(t.Context(), c.filter, 0, 10)
				require.NoError(t, err, name)
				_, err = o.Change(t.Context(), driver.Change{Action: driver.Requeue}, c.filter, 0, 10, true)
				require.NoError(t, err, fmt.Sprint("dry run: ", name))
			}
		})
	}
}
