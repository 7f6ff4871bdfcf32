package odoo

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// Lists are encoded as pgx encodes them.
func TestTextArray(t *testing.T) {
	t.Parallel()
	types := pgtype.NewMap()
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.String(), 0, 5).Draw(t, "list")
		want, err := types.Encode(pgtype.TextArrayOID, pgx.BinaryFormatCode, list, nil)
		require.NoError(t, err)
		require.Equal(t, want, textArray(list))
	})
	require.Nil(t, textArray(nil), "NULL")
}

// A list is searched in the same way however long it is.
func TestIndex(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var x index
		var list []string
		at := func(i int) string { return list[i] }
		places := map[string]int{}
		for range rapid.IntRange(0, 3*indexLimit).Draw(t, "n") {
			name := fmt.Sprint(rapid.IntRange(0, 2*indexLimit).Draw(t, "name"))
			want, known := places[name]
			got := x.find(len(list), at, name)
			if !known {
				require.Equal(t, -1, got)
				places[name], list = len(list), append(list, name)
				continue
			}
			require.Equal(t, want, got)
		}
	})
}

// Of several rows of one uuid, the one that matters is kept, wherever in the list it is.
func TestRowSet(t *testing.T) {
	t.Parallel()
	row := func(uuid string, id int64, state channels.State) driver.Row {
		return driver.Row{Job: channels.Job{Key: channels.Key{UUID: uuid}, ID: id}, State: state}
	}
	for _, before := range []int{0, 1, indexLimit + 1} {
		found := newRowSet(before)
		for i := range before {
			found.add(row(fmt.Sprint(i), int64(i), channels.Failed))
		}
		for _, r := range []driver.Row{
			row("a", 7, channels.Failed), row("a", 8, channels.Pending), row("a", 9, channels.Pending),
			row("a", 6, channels.Done), row("a", 5, channels.Started), row("a", 4, channels.Enqueued), row("a", 4, channels.Started),
		} {
			found.add(r)
		}
		require.Len(t, found.list, before+1)
		require.Equal(t, row("a", 4, channels.Enqueued), found.list[before])
	}
}

// Only a claim whose columns are what they should be is decoded.
func TestWhichClaimsAreDecoded(t *testing.T) {
	t.Parallel()
	for _, keys := range allKeys {
		s := &session{keys: keys}
		texts, times, _ := positions(keys)
		n := columnsOf(keys)
		fields := make([]pgconn.FieldDescription, n+3)
		for i := range fields {
			fields[i] = pgconn.FieldDescription{DataTypeOID: pgtype.Int4OID, Format: pgx.BinaryFormatCode}
		}
		for _, at := range append(texts, n, n+1) {
			fields[at].DataTypeOID = pgtype.VarcharOID
		}
		for _, at := range times {
			fields[at].DataTypeOID = pgtype.TimestampOID
		}
		fields[n+2].DataTypeOID = pgtype.BoolOID
		require.True(t, s.claimFit(fields))
		require.False(t, s.claimFit(fields[:n+2]))
		for i := range fields {
			before := fields[i]
			fields[i].DataTypeOID = pgtype.NumericOID
			require.False(t, s.claimFit(fields), i)
			fields[i] = before
		}
	}
}

// A row that is not as its description says ends the statement.
func TestRowsThatDoNotFit(t *testing.T) {
	t.Parallel()
	s := &session{decoder: newDecoder(), generation: &generation{contract: queueJob}}
	c := claim{session: s}
	good := make([][]byte, columnsOf(s.keys)+3)
	good[atState], good[len(good)-1] = []byte("enqueued"), []byte{1}
	require.NoError(t, c.decode(good))
	require.Len(t, c.tasks, 1)
	for name, change := range map[string]func(v [][]byte) [][]byte{
		"too few":    func(v [][]byte) [][]byte { return v[1:] },
		"too many":   func(v [][]byte) [][]byte { return append(v, nil) },
		"odd number": func(v [][]byte) [][]byte { v[atID] = []byte{1}; return v },
		"no verdict": func(v [][]byte) [][]byte { v[len(v)-1] = nil; return v },
	} {
		require.ErrorIs(t, c.decode(change(append([][]byte(nil), good...))), errRow, name)
	}
	require.Len(t, c.tasks, 1)
}

// What is claimed is a task with what it calls, and two rows of one uuid are one: Odoo runs by uuid. A row
// that is not enqueued after all is none.
func TestDecodedClaims(t *testing.T) {
	t.Parallel()
	s := &session{decoder: newDecoder(), generation: &generation{contract: queueJob}}
	c := claim{session: s}
	n := columnsOf(s.keys)
	row := make([][]byte, n+3)
	row[atState], row[n], row[n+1] = []byte("enqueued"), []byte("res.partner"), []byte("write")
	for _, uuid := range []string{"a", "a", "b", "a", "b"} {
		row[atUUID], row[n+2] = []byte(uuid), []byte{1}
		require.NoError(t, c.decode(row))
	}
	row[atUUID], row[n+2] = []byte("c"), []byte{0}
	require.NoError(t, c.decode(row))
	row[atUUID], row[atState], row[n+2] = []byte("d"), []byte("pending"), []byte{1}
	require.NoError(t, c.decode(row))
	var uuids []string
	for _, task := range c.tasks {
		uuids = append(uuids, task.UUID)
		require.Equal(t, "res.partner.write", task.Model+"."+task.Method)
	}
	require.Equal(t, []string{"a", "b"}, uuids)
	require.Len(t, c.read.list, 1, "what is only read is no task")
}

// sessionOf opens a session on a new database, with a job.
func sessionOf(t *testing.T, change func(*pgx.ConnConfig)) (*session, *pgxpool.Pool) {
	t.Helper()
	pg := pgtest.Shared(t)
	db, pool := odoostub.NewDatabase(t, pg, odoostub.QueueJobLock)
	_, err := pool.Exec(t.Context(), `INSERT INTO queue_job (uuid, state, channel, model_name, method_name, priority, date_created, retry, max_retries)
		VALUES ('a', 'pending', 'root.x', 'res.partner', 'write', 7, now() AT TIME ZONE 'UTC', 1, 5)`)
	require.NoError(t, err)
	cfg := pg.ConnConfig("postgres")
	change(cfg)
	opened, err := New(Options{}).OpenSession(t.Context(), cfg, db)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, opened.Close(context.Background())) })
	_, err = opened.Fingerprint(t.Context())
	require.NoError(t, err)
	return opened.(*session), pool
}

// prepared counts what the server has prepared.
func prepared(t *testing.T, s *session) (n int) {
	t.Helper()
	require.NoError(t, s.conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'jobrunner_%'", pgx.QueryExecModeExec).Scan(&n))
	return n
}

// Rows are the same, decoded and scanned, and so are claims.
func TestDecodedAndScanned(t *testing.T) {
	s, pool := sessionOf(t, func(*pgx.ConnConfig) {})
	scanned, otherPool := sessionOf(t, func(cfg *pgx.ConnConfig) { cfg.DefaultQueryExecMode = pgx.QueryExecModeExec })
	_, err := otherPool.Exec(t.Context(), "UPDATE queue_job SET date_created = '2001-02-03 04:05:06'")
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), "UPDATE queue_job SET date_created = '2001-02-03 04:05:06'")
	require.NoError(t, err)
	scanned.database = s.database
	rows, err := s.Read(t.Context(), []string{"a", "b"})
	require.NoError(t, err)
	same, err := scanned.Read(t.Context(), []string{"a", "b"})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, channels.Pending, rows[0].State)
	require.Equal(t, same, rows)
	tasks, read, err := s.Claim(t.Context(), []string{"a"}, []string{"a"})
	require.NoError(t, err)
	sameTasks, sameRead, err := scanned.Claim(t.Context(), []string{"a"}, []string{"a"})
	require.NoError(t, err)
	require.Len(t, tasks, 1)
	require.Equal(t, "res.partner", tasks[0].Model)
	sameTasks[0].Enqueued = tasks[0].Enqueued
	require.Equal(t, sameTasks, tasks)
	require.Equal(t, sameRead, read)
	require.Equal(t, 2, prepared(t, s))
	require.NotNil(t, s.reading.description, "decoded")
	require.NotNil(t, s.claiming.description, "decoded")
	require.Zero(t, prepared(t, scanned))
}

// A statement whose table has changed fails once, and leaves nothing behind at the server; otherwise it is
// not prepared again.
func TestStatementsArePreparedAnew(t *testing.T) {
	s, pool := sessionOf(t, func(*pgx.ConnConfig) {})
	for name, c := range map[string]struct {
		statement *repeated
		run       func() ([]driver.Row, error)
	}{
		"read": {&s.reading, func() ([]driver.Row, error) { return s.Read(t.Context(), []string{"a"}) }},
		"claim": {&s.claiming, func() ([]driver.Row, error) {
			_, rows, err := s.Claim(t.Context(), nil, []string{"a"})
			return rows, err
		}},
	} {
		_, err := c.run()
		require.NoError(t, err)
		before := prepared(t, s)
		for _, kind := range []string{"bigint", "numeric", "integer"} {
			_, err = pool.Exec(t.Context(), "ALTER TABLE queue_job ALTER COLUMN priority TYPE "+kind)
			require.NoError(t, err)
			_, err = c.run()
			require.Error(t, err, kind)
			require.Empty(t, c.statement.sql, "forgotten")
			rows, err := c.run()
			require.NoError(t, err, kind)
			require.Len(t, rows, 1)
			require.EqualValues(t, 7, rows[0].Priority)
			require.Equal(t, kind != "numeric", c.statement.description != nil, "%s: decoded", name)
			require.NotEmpty(t, c.statement.sql, "remembered")
			require.LessOrEqual(t, prepared(t, s), before)
		}
	}
}

// Where a site has made the uuid of another type, which is then that of the parameters, pgx encodes them.
func TestParametersOfAnotherType(t *testing.T) {
	s, pool := sessionOf(t, func(*pgx.ConnConfig) {})
	_, err := pool.Exec(t.Context(), "ALTER TABLE queue_job ALTER COLUMN uuid TYPE char(40)")
	require.NoError(t, err)
	rows, err := s.Read(t.Context(), []string{"a"})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, "a", rows[0].UUID)
	require.Nil(t, s.reading.description)
}

// The rows of one statement share memory with each other and not with those of others.
func TestMemoryOfRows(t *testing.T) {
	t.Parallel()
	r := newDecoder()
	r.begin(2)
	r.uuids.add([]byte("00000000-0000-4000-8000-000000000001"))
	require.Less(t, r.uuids.text.Cap(), 3*uuidSize)
	r.begin(1_000_000)
	r.uuids.add([]byte("a"))
	require.Less(t, r.uuids.text.Cap(), 2*blockSize)
	for i := range 2 * internedFew {
		r.channel.get(fmt.Appendf(nil, "root.%d", i))
	}
	require.Len(t, r.channel.all, internedFew)
}
