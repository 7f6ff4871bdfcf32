package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// Pooling is what stands between a connection and its backend.
type Pooling uint8

const (
	// Direct: nothing, or something that cannot be told from nothing.
	Direct Pooling = iota
	// SessionPooling: a pooler that keeps one backend per client. That works.
	SessionPooling
	// TransactionPooling: a pooler that gives each transaction any backend.
	// LISTEN and session locks appear to succeed there and mean nothing.
	TransactionPooling
)

// ErrTransactionPooling says what to do about [TransactionPooling].
var ErrTransactionPooling = errors.New("there is a connection pooler in transaction mode, through which " +
	"neither LISTEN nor session locks work: use session pooling, or connect to PostgreSQL directly (option postgres)")

// poolerProbes is how many transactions are looked at for a changing backend.
const poolerProbes = 5

// Pooling finds out whether there is a pooler. A pooler hands out process ids
// of its own. In transaction mode one of two things shows: consecutive
// transactions run on different backends, or, if the pooler is idle and always
// takes the same one, a second connection gets the backend of the first, which
// a pooler in session mode never does. The second connection is only made when
// there is a pooler.
func (c *Conn) Pooling(ctx context.Context) (Pooling, error) {
	told := c.PgConn().PID()
	for i := range poolerProbes {
		pid, err := backendPID(ctx, c.Conn)
		switch {
		case err != nil:
			return Direct, c.Failed(err, "look for a pooler")
		case pid != c.PID:
			return TransactionPooling, nil
		case i == 0 && pid == told:
			return Direct, nil
		}
	}
	second, err := pgx.ConnectConfig(ctx, c.Config())
	if err != nil {
		return Direct, Wrap(err, "look for a pooler")
	}
	defer (&Conn{Conn: second}).Abandon(ctx)
	other, err := backendPID(ctx, second)
	if err != nil {
		return Direct, Wrap(err, "look for a pooler")
	}
	first, err := backendPID(ctx, c.Conn)
	switch {
	case err != nil:
		return Direct, c.Failed(err, "look for a pooler")
	case other == c.PID || first != c.PID:
		return TransactionPooling, nil
	}
	return SessionPooling, nil
}

// backendPID asks without a prepared statement, which might stay behind on
// another backend.
func backendPID(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	err = conn.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid)
	return pid, err
}
