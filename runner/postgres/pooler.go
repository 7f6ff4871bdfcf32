package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// Pooling is what lies between a connection and its backend.
type Pooling uint8

const (
	// Direct: nothing, or something that cannot be told from nothing.
	Direct Pooling = iota
	// SessionPooling: a pooler that keeps one backend per client. That works.
	SessionPooling
	// TransactionPooling: a pooler that gives each transaction any backend. LISTEN and session
	// locks appear to succeed there and mean nothing: no notification arrives, and two clients can
	// hold the same exclusive lock.
	TransactionPooling
)

// ErrTransactionPooling says what to do about [TransactionPooling].
var ErrTransactionPooling = errors.New("there is a connection pooler in transaction mode, through which " +
	"neither LISTEN nor session locks work: use session pooling, or connect to PostgreSQL directly (option postgres) and reach only the databases through it (option pooler)")

// poolerProbes is how many transactions are checked for a changing backend.
const poolerProbes = 5

// pooling finds out whether there is a pooler. A pooler hands out process ids that are its own. In
// transaction mode one of two things shows: consecutive transactions run on different backends, or,
// if the pooler is idle and always takes the same one, a second connection gets the backend of the
// first, which a pooler in session mode never does. Where there is no pooler, nothing is asked.
func (c *Conn) pooling(ctx context.Context) (Pooling, error) {
	if c.PID == c.PgConn().PID() {
		return Direct, nil
	}
	for range poolerProbes {
		pid, err := backendPID(ctx, c.Conn)
		switch {
		case err != nil:
			return Direct, c.Failed(err, "check for a pooler")
		case pid != c.PID:
			return TransactionPooling, nil
		}
	}
	cfg := c.Config()
	var met server
	cfg.ValidateConnect, cfg.BuildFrontend = met.ask, new(messages).frontend
	second, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return Direct, Wrap(err, "check for a pooler")
	}
	defer (&Conn{Conn: second}).Abandon(ctx)
	first, err := backendPID(ctx, c.Conn)
	switch {
	case err != nil:
		return Direct, c.Failed(err, "check for a pooler")
	case met.pid == c.PID || first != c.PID:
		return TransactionPooling, nil
	}
	return SessionPooling, nil
}

// backendPID asks without a prepared statement, which might stay behind on another backend, and
// without a name that another role could have defined.
func backendPID(ctx context.Context, conn *pgx.Conn) (pid uint32, err error) {
	err = conn.QueryRow(ctx, "SELECT pg_catalog.pg_backend_pid()", pgx.QueryExecModeExec).Scan(&pid)
	return pid, err
}
