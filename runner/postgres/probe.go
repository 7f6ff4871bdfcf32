package postgres

import (
	"context"
	"errors"
	"fmt"
)

// Expect is what a session is supposed to have.
type Expect struct {
	// Channel is the notification channel that it listens on; empty for none.
	Channel string
	// Lock is the key of the advisory lock that it holds; nil for none.
	Lock *int64
	// Trigger is the OID of the trigger that notifies, which must be there and be switched on; 0
	// for none.
	Trigger uint32
}

// Probe proves in one statement that the session is alive, writable and still has what it is
// expected to have: its backend, its locks, its LISTEN and the trigger. On a half-open connection,
// waiting for a notification never fails, so only a statement with a deadline shows it. Every error
// matches [driver.ErrLost]: a session that is not what it should be cannot be used.
func (c *Conn) Probe(ctx context.Context, want Expect) error {
	var classid, objid, pid uint32
	if want.Lock != nil {
		classid, objid = lockHalves(*want.Lock)
	}
	var recovering, readOnly, listening, locked, triggered bool
	err := c.QueryRow(ctx, fmt.Sprintf(`
		SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only')::bool,
			EXISTS (SELECT FROM pg_listening_channels() c WHERE c = $1), `+holdsAdvisoryLock+`,
			EXISTS (SELECT FROM pg_trigger WHERE oid = $4 AND tgenabled IN ('O', 'A'))`, "$2", "$3"),
		want.Channel, classid, objid, want.Trigger).Scan(&pid, &recovering, &readOnly, &listening, &locked, &triggered)
	switch {
	case err != nil:
	case pid != c.PID && !c.Pooled():
		err = fmt.Errorf("the session moved from backend %d to %d: there is a pooler in transaction mode", c.PID, pid)
	case recovering:
		err = errors.New("the server has become a standby")
	case readOnly:
		err = errors.New("the session is read-only")
	case want.Channel != "" && !listening:
		err = fmt.Errorf("the session does not listen on %s any more", want.Channel)
	case want.Lock != nil && !locked:
		err = errors.New("the session does not hold its advisory lock any more")
	case want.Trigger != 0 && !triggered:
		err = errors.New("the trigger that notifies has been replaced, removed or switched off")
	default:
		return nil
	}
	return lost(err, "probe")
}
