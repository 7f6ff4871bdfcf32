package odoo

import (
	"context"
	"encoding/binary"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// wireServer speaks as much of PostgreSQL's protocol as a session needs to run a query. It answers
// each with the same columns and the same rows, whose bytes it does not check.
type wireServer struct {
	columns []uint32 // the types
	rows    [][]byte // the bodies of DataRow messages
	// told are the bodies of NotificationResponse messages, sent at the beginning.
	told [][]byte
}

// dial is a [pgconn.DialFunc].
func (s *wireServer) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		b := pgproto3.NewBackend(server, server)
		if m, err := b.ReceiveStartupMessage(); err == nil {
			if _, ok := m.(*pgproto3.StartupMessage); ok {
				s.serve(b, server)
			}
		}
	}()
	return client, nil
}

func (s *wireServer) serve(b *pgproto3.Backend, w net.Conn) {
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if b.Flush() != nil || send(w, 'A', s.told) != nil {
		return
	}
	for b.Flush() == nil {
		m, err := b.Receive()
		if err != nil {
			return
		}
		switch m.(type) {
		case *pgproto3.Parse:
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Describe:
			b.Send(&pgproto3.ParameterDescription{ParameterOIDs: []uint32{pgtype.TextArrayOID}})
			b.Send(s.description())
		case *pgproto3.Bind:
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			if b.Flush() != nil {
				return
			}
			if send(w, 'D', s.rows) != nil {
				return
			}
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT")})
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		case *pgproto3.Terminate:
			return
		}
	}
}

// send writes messages of one kind.
func send(w io.Writer, kind byte, bodies [][]byte) error {
	for _, body := range bodies {
		message := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
		if _, err := w.Write(append(message, body...)); err != nil {
			return err
		}
	}
	return nil
}

func (s *wireServer) description() *pgproto3.RowDescription {
	d := &pgproto3.RowDescription{}
	for _, oid := range s.columns {
		d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte("c"), DataTypeOID: oid, DataTypeSize: -1, TypeModifier: -1})
	}
	return d
}

var wireTypes = map[string]uint32{"int4": pgtype.Int4OID, "varchar": pgtype.VarcharOID, "timestamp": pgtype.TimestampOID}

// wireSession is a session on a server that answers with the given rows, and tells what is given.
func wireSession(t *testing.T, rows, told [][]byte) *session {
	t.Helper()
	server := &wireServer{rows: rows, told: told}
	s := &session{database: "db", inbox: inbox{own: 1}}
	g := &generation{contract: queueJob}
	for _, c := range rowColumns {
		g.columns = append(g.columns, c.name)
		server.columns = append(server.columns, wireTypes[c.kind])
	}
	server.columns = append(server.columns, pgtype.VarcharOID) // the exception
	cfg, err := pgx.ParseConfig("host=127.0.0.1 user=x dbname=x sslmode=disable")
	require.NoError(t, err)
	cfg.DialFunc, cfg.Fallbacks = server.dial, nil
	conn, err := postgres.Raw(t.Context(), cfg)
	require.NoError(t, err)
	conn.Hear(s.inbox.put)
	t.Cleanup(func() {
		_ = conn.PgConn().Conn().Close() // the server may not be listening
		_ = conn.Close(context.Background())
		<-conn.PgConn().CleanupDone()
	})
	s.conn, s.generation, s.statements = conn, g, g.statements()
	return s
}

// wireRow is the body of a DataRow message. A nil is NULL.
func wireRow(values ...any) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		var value []byte
		switch v := v.(type) {
		case nil:
			b = binary.BigEndian.AppendUint32(b, math.MaxUint32)
			continue
		case int:
			value = binary.BigEndian.AppendUint32(nil, uint32(v))
		case int64:
			value = binary.BigEndian.AppendUint64(nil, uint64(v))
		case string:
			value = []byte(v)
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(value))), value...)
	}
	return b
}

// frames puts bodies one after the other, each behind its length, and unframe takes them apart
// again.
func frames(rows ...[]byte) (b []byte) {
	for _, row := range rows {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(row))), row...)
	}
	return b
}

func unframe(b []byte) (rows [][]byte) {
	for len(b) >= 4 {
		n := int(min(uint64(binary.BigEndian.Uint32(b)), uint64(len(b)-4)))
		rows, b = append(rows, b[4:4+n]), b[4+n:]
	}
	return rows
}

const (
	// y2k is the epoch of PostgreSQL in microseconds since that of Unix.
	y2k = 946_684_800_000_000
	// wireLast is the last timestamp of PostgreSQL, wireFirst the first.
	wireLast, wireFirst = 9223371331199999999, -211813488000000000
	goodUUID            = "00000000-0000-4000-8000-00000000000"
)

// PostgreSQL has timestamps that cannot be counted from 1970.
func TestFarTimestamps(t *testing.T) {
	for wire, want := range map[int64]int64{
		0: y2k, wireFirst: wireFirst + y2k, wireLast: math.MaxInt64, math.MaxInt64: math.MaxInt64, math.MinInt64: 0,
	} {
		s := wireSession(t, [][]byte{wireRow(1, goodUUID+"1", nil, "pending", 10, wire, wire, nil, nil, nil)}, nil)
		rows, err := s.Read(t.Context(), []string{"x"})
		require.NoError(t, err)
		require.Len(t, rows, 1)
		require.Equal(t, want, rows[0].ETA, wire)
	}
}

// FuzzRows goes the way from the bytes that PostgreSQL sends to the scheduler: whatever a row
// holds, nothing breaks, and the jobs beside it run.
func FuzzRows(f *testing.F) {
	row := wireRow
	f.Add([]byte{}, int64(0))
	f.Add(frames(row(7, goodUUID+"7", "root.a.b", "pending", 10, int64(0), nil, nil, 0, nil)), int64(0))
	f.Add(frames(row(nil, nil, nil, nil, nil, nil, nil, nil, nil, nil)), int64(0))
	f.Add(frames(row(-1, "no uuid", "a\x00\xff\n..b.", "started", math.MinInt32, int64(wireFirst), int64(wireLast), int64(1), -1, nil),
		row(-1, "no uuid", "", "pending", math.MaxInt32, int64(math.MaxInt64), int64(math.MinInt64), nil, math.MaxInt32, nil)), int64(math.MaxInt32))
	f.Add(frames(row(1, "", "root", "", 0, int64(-y2k), int64(-y2k), nil, nil, nil), row(2, "x", "seq.x", "failed", 0, nil, nil, nil, nil, nil),
		row(3, "y", "seq.x", "pending", 0, nil, nil, nil, nil, nil), row(4, "z", "slow", "pending\n", 0, nil, nil, nil, nil, nil)), int64(-1))
	f.Add(frames(row(5, "deep", strings.Repeat(".", 10000), "enqueued", 1, nil, nil, nil, nil, nil),
		row(6, "long", strings.Repeat("x", 100000), "pending", 1, nil, int64(5), nil, nil, nil)), int64(1e15))
	f.Add(frames([]byte{0, 9, 0, 0, 0, 3, 1, 2, 3}, []byte{0}, []byte{0, 1, 0, 0, 0, 4, 0, 0, 0, 1}), int64(0))
	f.Fuzz(func(t *testing.T, data []byte, now int64) {
		bodies := unframe(data)
		if len(bodies) > 100 {
			return
		}
		good := func(name string) []byte { return row(1, name, "good", "pending", 10, int64(0), nil, nil, nil, nil) }
		wire := slices.Concat([][]byte{good("A")}, bodies, [][]byte{good("Z")})
		s := wireSession(t, wire, nil)
		var rows []driver.Row
		if err := s.Snapshot(t.Context(), func(r driver.Row) { rows = append(rows, r) }); err != nil {
			require.ErrorContains(t, err, "read ")
			return // bytes that are no row: all of it is read again later
		}
		require.GreaterOrEqual(t, len(rows), len(wire))
		for i, r := range rows[:len(wire)] {
			checkRow(t, wire[i], &r)
		}
		schedule(t, rows, time.UnixMicro(now))
	})
}

// checkRow compares a row with its bytes.
func checkRow(t *testing.T, wire []byte, r *driver.Row) {
	t.Helper()
	require.Equal(t, "db", r.DB)
	var d pgproto3.DataRow
	require.NoError(t, d.Decode(wire))
	require.Equal(t, string(d.Values[1]), r.UUID)
	require.Equal(t, d.Values[1] == nil, r.Nameless)
	require.Equal(t, string(d.Values[2]), r.Channel)
	require.Equal(t, string(d.Values[3]), r.RawState)
	eta := func(b []byte) int64 {
		if b == nil {
			return 0
		}
		n := int64(binary.BigEndian.Uint64(b))
		switch {
		case n == math.MinInt64:
			return 0
		case n > math.MaxInt64-y2k-2_000_000:
			return r.ETA // the end of time, checked below
		}
		return n + y2k
	}
	require.Equal(t, eta(d.Values[6]), r.ETA)
	if b := d.Values[6]; b != nil && b[0] == 0x7f && b[1] == 0xff {
		require.Positive(t, r.ETA, "what lies far ahead never becomes the past")
	}
}

// schedule does with rows what the engine does, and reads everything that there is to see.
func schedule(t *testing.T, rows []driver.Row, now time.Time) {
	t.Helper()
	m := channels.NewManager()
	require.NoError(t, m.Configure([]channels.Config{
		{Name: "root", Capacity: 0}, {Name: "seq", Capacity: 1, Sequential: true, CapacityDefault: 1, SequentialDefault: true},
		{Name: "slow", Capacity: 1, Throttle: time.Hour},
	}))
	state := map[channels.Key]driver.Row{}
	for _, r := range rows {
		if r.Nameless {
			continue // reported by the engine
		}
		m.SetFromSnapshot(r.Job, r.State)
		if r.State != channels.Unknown {
			state[r.Key] = r
		}
	}
	size := 0
	for _, c := range m.Channels() {
		size += len(c.FullName) + len(c.String())
	}
	total := 0
	for _, r := range rows {
		total += len(r.Channel) + 10
	}
	require.Less(t, size, 1000+250*total, "what a name costs is bounded")
	m.Wakeup()
	started := m.Next(now, 0)
	for _, key := range started {
		require.Equal(t, channels.Pending, state[key].State)
		require.LessOrEqual(t, state[key].ETA, now.UnixMicro())
	}
	for _, name := range []string{"A", "Z"} {
		key := channels.Key{DB: "db", UUID: name}
		if r := state[key]; r.Channel == "good" && r.State == channels.Pending && r.ETA <= now.UnixMicro() && now.UnixMicro() >= 0 {
			require.Contains(t, started, key)
		}
	}
	for job, s := range m.Jobs("") {
		x, known := m.Explain(job.Key, now)
		require.True(t, known)
		require.NotContains(t, x.Reason.String(), "Reason(")
		require.NotEmpty(t, x.String())
		require.NotEqual(t, channels.Unknown, s)
	}
	m.Counts()
	m.Wakeup()
	m.RemoveDB("db")
	require.Zero(t, m.Len())
	require.Len(t, m.Channels(), 3, "nothing is left behind")
}

// wireNotification is the body of a NotificationResponse message.
func wireNotification(pid uint32, payload string) []byte {
	return slices.Concat(binary.BigEndian.AppendUint32(nil, pid), []byte("queue_job\x00"), []byte(payload), []byte{0})
}

// FuzzNotifications goes the way from the bytes of notifications to what the session has to look
// up: whatever they say, the one that follows them is heard.
func FuzzNotifications(f *testing.F) {
	f.Add([]byte{})
	f.Add(frames(wireNotification(1, goodUUID+"7"), wireNotification(2, goodUUID+"7"), wireNotification(2, goodUUID+"7")))
	f.Add(frames(wireNotification(2, "reload"), wireNotification(0, ""), wireNotification(math.MaxUint32, "\xff\n'; DROP TABLE queue_job; --")))
	f.Add(frames(wireNotification(2, strings.Repeat("x", 100000)), []byte{0, 0, 0, 2}, []byte{}))
	f.Fuzz(func(t *testing.T, data []byte) {
		bodies := unframe(data)
		if len(bodies) > 100 {
			return
		}
		const last = "ffffffff-ffff-4fff-bfff-ffffffffffff"
		s := wireSession(t, nil, append(slices.Clone(bodies), wireNotification(2, last)))
		want, reload := [2][]string{}, false // of others, and our own
		for _, body := range bodies {
			var n pgproto3.NotificationResponse
			if n.Decode(body) != nil {
				want = [2][]string{} // that connection is lost
				break
			}
			whose := 0
			if n.PID == 1 {
				whose = 1
			}
			reload = reload || whose == 0 && isReload([]byte(n.Payload))
			if !slices.Contains(want[whose], n.Payload) {
				want[whose] = append(want[whose], n.Payload)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got, told := [2][]string{}, false
		for !slices.Contains(got[0], last) {
			n, err := s.Wait(ctx)
			require.NoError(t, ctx.Err())
			if err != nil {
				require.ErrorIs(t, err, driver.ErrLost)
				return
			}
			for whose, list := range [][]string{n.Changed, n.Echoes} {
				for _, p := range list {
					if !slices.Contains(got[whose], p) { // told again is not wrong
						got[whose] = append(got[whose], p)
					}
				}
			}
			told = told || n.Reload
		}
		if !slices.Contains(want[0], last) {
			want[0] = append(want[0], last)
		}
		require.Equal(t, want, got)
		require.Equal(t, reload, told)
		_, err := s.Read(t.Context(), got[0])
		require.NoError(t, err)
	})
}
