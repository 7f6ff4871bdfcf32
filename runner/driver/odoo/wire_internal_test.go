package odoo

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// allKeys are the keys that rows can tell, in all combinations.
var allKeys = []driver.Keys{{}, {Companies: true}, {Identities: true}, {Companies: true, Identities: true}}

// positions are those of the columns of a row, by what is expected there.
func positions(keys driver.Keys) (texts, times, numbers []int) {
	texts, times, numbers = []int{atUUID, atChannel, atState, atException}, []int{atCreated, atETA, atEnqueued}, []int{atID, atPriority, atRetry}
	at := atKeys
	if keys.Companies {
		numbers = append(numbers, at)
		at++
	}
	if keys.Identities {
		texts = append(texts, at)
	}
	return texts, times, numbers
}

// sentRows are rows as they were sent, and nothing else can be learnt of them.
type sentRows struct {
	pgx.Rows

	fields []pgconn.FieldDescription
	values [][]byte
}

func (r sentRows) FieldDescriptions() []pgconn.FieldDescription { return r.fields }
func (r sentRows) RawValues() [][]byte                          { return r.values }
func (r sentRows) Scan(...any) error                            { return errScanned }

var errScanned = errors.New("scanned")

// What is not sent as it is decoded is scanned, although it may be as long: eight digits, or none of them.
func TestWhatIsNotDecodedIsScanned(t *testing.T) {
	t.Parallel()
	fields, values := make([]pgconn.FieldDescription, atKeys), make([][]byte, atKeys)
	texts, times, numbers := positions(driver.Keys{})
	for _, at := range texts {
		fields[at].DataTypeOID = pgtype.TextOID
	}
	for _, at := range times {
		fields[at] = pgconn.FieldDescription{DataTypeOID: pgtype.TimestampOID, Format: pgx.BinaryFormatCode}
	}
	for _, at := range numbers {
		fields[at], values[at] = pgconn.FieldDescription{DataTypeOID: pgtype.Int8OID, Format: pgx.BinaryFormatCode}, make([]byte, 8)
	}
	read := func() error {
		r := newDecoder()
		_, err := r.row(sentRows{fields: fields, values: values}, &scanner{})
		return err
	}
	require.NoError(t, read())
	fields[atPriority].Format = pgx.TextFormatCode
	require.ErrorIs(t, read(), errScanned)
	fields[atPriority].Format, values[atPriority] = pgx.BinaryFormatCode, []byte("1")
	require.ErrorIs(t, read(), errScanned)
}

// Only what is sent as Odoo's fields are is decoded.
func TestWhichColumnsAreDecoded(t *testing.T) {
	t.Parallel()
	for _, keys := range allKeys {
		texts, times, numbers := positions(keys)
		fields := make([]pgconn.FieldDescription, columnsOf(keys))
		for _, at := range texts {
			fields[at].DataTypeOID = pgtype.VarcharOID
		}
		for _, at := range times {
			fields[at] = pgconn.FieldDescription{DataTypeOID: pgtype.TimestampOID, Format: pgx.BinaryFormatCode}
		}
		for _, at := range numbers {
			fields[at] = pgconn.FieldDescription{DataTypeOID: pgtype.Int4OID, Format: pgx.BinaryFormatCode}
		}
		require.True(t, decodable(fields, keys), "%+v", keys)
		require.False(t, decodable(fields[1:], keys))
		require.False(t, decodable(slices.Concat(fields, fields[:1]), keys))
		for at := range fields {
			field := fields[at]
			for _, oid := range []uint32{pgtype.VarcharOID, pgtype.TextOID, pgtype.TimestampOID, pgtype.Int4OID, pgtype.Int8OID, pgtype.NumericOID} {
				for _, format := range []int16{pgx.BinaryFormatCode, pgx.TextFormatCode} {
					fields[at].DataTypeOID, fields[at].Format = oid, format
					want := format == pgx.BinaryFormatCode
					switch {
					case slices.Contains(texts, at):
						want = oid == pgtype.VarcharOID || oid == pgtype.TextOID
					case slices.Contains(times, at):
						want = want && oid == pgtype.TimestampOID
					default:
						want = want && (oid == pgtype.Int4OID || oid == pgtype.Int8OID)
					}
					require.Equal(t, want, decodable(fields, keys), "%+v: column %d of type %d in format %d", keys, at, oid, format)
				}
			}
			fields[at] = field
		}
	}
}

// A number has the length of one, or is NULL, or nothing is decoded.
func TestWhichValuesAreDecoded(t *testing.T) {
	t.Parallel()
	for _, keys := range allKeys {
		texts, times, _ := positions(keys)
		values := make([][]byte, columnsOf(keys))
		require.True(t, wellFormed(values, keys))
		require.False(t, wellFormed(values[1:], keys))
		for at := range values {
			for n := range 10 {
				values[at] = make([]byte, n)
				want := slices.Contains(texts, at) || n == 8 || n == 4 && !slices.Contains(times, at)
				require.Equal(t, want, wellFormed(values, keys), "%+v: column %d with %d bytes", keys, at, n)
			}
			values[at] = nil
		}
	}
}

// What is decoded is what was sent.
func TestDecodedRows(t *testing.T) {
	t.Parallel()
	number := func(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	at := time.Unix(1_700_000_000, 0)
	moment := number(at.UnixMicro() - millennium)
	for _, keys := range allKeys {
		var r reader
		values := make([][]byte, columnsOf(keys))
		require.Equal(t, driver.Row{Job: channels.Job{Key: channels.Key{DB: "prod"}}, State: channels.ParseState(""), Nameless: true}, r.decode(values, "prod", keys))
		values[atID], values[atPriority], values[atRetry] = number(1<<40), number(1<<40), []byte{0, 0, 0, 3}
		values[atUUID], values[atChannel], values[atState] = []byte("a"), []byte("root.b"), []byte("pending")
		values[atException] = []byte("odoo.Error")
		values[atCreated], values[atETA], values[atEnqueued] = moment, number(math.MinInt64), moment
		want := driver.Row{
			Job: channels.Job{
				Key: channels.Key{DB: "prod", UUID: "a"}, Channel: "root.b", ID: 1 << 40, Priority: math.MaxInt32, Created: at.UnixMicro(),
			},
			State: channels.Pending, RawState: "pending", Enqueued: at.UnixMicro(), Retry: 3, Exception: "odoo.Error",
		}
		if keys.Companies {
			values[atKeys], want.Company = number(7), 7
		}
		if keys.Identities {
			values[len(values)-1], want.Identity = []byte("key"), identity([]byte("key"))
		}
		require.Equal(t, want, r.decode(values, "prod", keys), "%+v", keys)
		for length, nameless := range map[int]bool{UUIDLimit: false, UUIDLimit + 1: true} {
			values[atUUID] = []byte(strings.Repeat("x", length))
			require.Equal(t, nameless, r.decode(values, "prod", keys).Nameless, length)
		}
	}
}

// sent is a row that sets what it is scanned into.
type sent struct {
	pgx.Rows
	uuid pgtype.Text
	err  error
}

func (s sent) Scan(targets ...any) error {
	*targets[atUUID].(*pgtype.Text) = s.uuid
	return s.err
}

// A row without a uuid, or with one that is too long, can be told from others, however it is read.
func TestNamesOfScannedRows(t *testing.T) {
	t.Parallel()
	var s scanner
	for name, c := range map[string]struct {
		uuid     pgtype.Text
		nameless bool
	}{
		"none":     {pgtype.Text{}, true},
		"longest":  {pgtype.Text{String: strings.Repeat("x", UUIDLimit), Valid: true}, false},
		"too long": {pgtype.Text{String: strings.Repeat("x", UUIDLimit+1), Valid: true}, true},
	} {
		row, err := s.scan(sent{uuid: c.uuid})
		require.NoError(t, err, name)
		require.Equal(t, c.nameless, row.Nameless, name)
	}
	_, err := s.scan(sent{err: driver.ErrLost})
	require.ErrorIs(t, err, driver.ErrLost)
}

// Of two rows of one uuid, the one that occupies a slot matters more, then the one that waits for one,
// then the older one.
func TestWhichRowMatters(t *testing.T) {
	t.Parallel()
	rows := []driver.Row{
		{State: channels.Enqueued, Job: channels.Job{ID: 8}}, {State: channels.Started, Job: channels.Job{ID: 9}},
		{State: channels.Pending, Job: channels.Job{ID: 5}}, {State: channels.Pending, Job: channels.Job{ID: 6}},
		{State: channels.Done, Job: channels.Job{ID: 1}}, {State: channels.Failed, Job: channels.Job{ID: 2}},
	}
	for i, a := range rows {
		for j, b := range rows {
			require.Equal(t, i < j, better(a, b), "%d before %d", i, j)
		}
	}
}

// What a statement names exists, and what it reads is not longer than it may be.
func TestPartsOfStatements(t *testing.T) {
	t.Parallel()
	columns := []column{{"uuid", "varchar"}, {"state", "varchar"}, {"retry", "int4"}, {"eta", "timestamp"}}
	require.Equal(t, "CASE WHEN octet_length(j.uuid) <= 129 THEN j.uuid ELSE left(j.uuid, 129) END, "+
		"CASE WHEN octet_length(j.state) <= 256 THEN j.state ELSE left(j.state, 256) END, j.retry, NULL::timestamp",
		selectList(columns, []string{"uuid", "state", "retry"}))

	var g generation
	require.Equal(t, "NULL", g.pathSQL())
	g.path = `"it's", public`
	require.Equal(t, `set_config('search_path', '"it''s", public', true)`, g.pathSQL())

	plain := g.rowColumns()
	require.Equal(t, len(rowColumns), strings.Count(plain, ", "))
	require.True(t, strings.HasSuffix(plain, ", NULL::varchar"), plain)
	g.readable = []string{"exc_name"}
	require.Contains(t, g.rowColumns(), ", CASE WHEN j.state = 'failed' THEN left(j.exc_name::text, 256) END")
	g.keys, g.readable = driver.Keys{Companies: true}, []string{companyColumn.name}
	require.Equal(t, plain+", j."+companyColumn.name, g.rowColumns())
	g.readable = nil
	require.Equal(t, plain+", NULL::"+companyColumn.kind, g.rowColumns())

	for _, c := range []struct {
		writable, typed []string
		set             bool
	}{
		{[]string{"exc_name"}, nil, true}, {nil, nil, false}, {[]string{"exc_name"}, []string{"exc_name"}, false}, {nil, []string{"exc_name"}, false},
	} {
		g := generation{writable: c.writable, typed: c.typed}
		require.Equal(t, c.set, strings.Contains(g.failSQL("X"), "exc_name = 'X'"), "%+v", c)
	}
}
