package postgres_test

import (
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// strange is a server that answers the first query with some messages.
func strange(t *testing.T, answer ...pgproto3.BackendMessage) *pgx.ConnConfig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		<-served
	})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			greet(conn, answer)
			_ = conn.Close()
		}
	}()
	cfg, err := pgx.ParseConfig("postgres://" + l.Addr().String() + "/x?sslmode=disable&user=x")
	require.NoError(t, err)
	return cfg
}

func greet(conn net.Conn, answer []pgproto3.BackendMessage) {
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.BackendKeyData{ProcessID: 7, SecretKey: []byte{1, 2, 3, 4}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for b.Flush() == nil {
		m, err := b.Receive()
		if err != nil {
			return
		}
		if _, ok := m.(*pgproto3.Query); ok {
			for _, a := range answer {
				b.Send(a)
			}
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
	}
}

// TestServersThatDoNotSayWhoTheyAre: what is not PostgreSQL, or does not answer as it does, is no
// server of ours. A standby says that it is one.
func TestServersThatDoNotSayWhoTheyAre(t *testing.T) {
	columns := func(n int) *pgproto3.RowDescription {
		d := &pgproto3.RowDescription{}
		for range n {
			d.Fields = append(d.Fields, pgproto3.FieldDescription{Name: []byte("x"), DataTypeOID: 25})
		}
		return d
	}
	row := func(values ...string) *pgproto3.DataRow {
		r := &pgproto3.DataRow{}
		for _, v := range values {
			r.Values = append(r.Values, []byte(v))
		}
		return r
	}
	end := &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")}
	for name, c := range map[string]struct {
		answer []pgproto3.BackendMessage
		want   string
	}{
		"an error":      {[]pgproto3.BackendMessage{&pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX000", Message: "not today"}}, "not today"},
		"nothing":       {[]pgproto3.BackendMessage{&pgproto3.EmptyQueryResponse{}}, "does not say who it is"},
		"no row":        {[]pgproto3.BackendMessage{columns(2), end}, "does not say who it is"},
		"one column":    {[]pgproto3.BackendMessage{columns(1), row("7"), end}, "does not say who it is"},
		"three columns": {[]pgproto3.BackendMessage{columns(3), row("7", "f", "f"), end}, "does not say who it is"},
		"two rows":      {[]pgproto3.BackendMessage{columns(2), row("7", "f"), row("8", "f"), end}, "does not say who it is"},
		"two results":   {[]pgproto3.BackendMessage{columns(2), row("7", "f"), end, columns(2), row("7", "f"), end}, "does not say who it is"},
		"no process id": {[]pgproto3.BackendMessage{columns(2), row("x", "f"), end}, "invalid syntax"},
		"a standby":     {[]pgproto3.BackendMessage{columns(2), row("7", "t"), end}, "the server is in recovery"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := postgres.Connect(deadline(t), strange(t, c.answer...), "", "test")
			require.ErrorIs(t, err, driver.ErrLost)
			require.ErrorContains(t, err, c.want)
		})
	}
}
