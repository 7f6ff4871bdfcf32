package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// IsLost reports whether an error means that the connection, or the server as one that can be
// written to, is gone: there is no point in another statement. An interrupted statement counts,
// because pgx gives up the connection with it.
func IsLost(err error) bool {
	if err == nil {
		return false
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return lostState(pgErr)
	}
	var netErr net.Error
	return errors.Is(err, driver.ErrLost) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, errTooLarge) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &netErr)
}

// lostState classifies what the server itself reported.
func lostState(err *pgconn.PgError) bool {
	switch err.Code {
	case "57P01", // admin_shutdown: also pg_terminate_backend
		"57P02", // crash_shutdown
		"57P03", // cannot_connect_now: starting up, shutting down
		"57P05", // idle_session_timeout
		"25P03", // idle_in_transaction_session_timeout
		"25006", // read_only_sql_transaction: demoted to a standby
		"53300", // too_many_connections
		"3D000": // invalid_catalog_name: dropped or renamed
		return true
	}
	return strings.HasPrefix(err.Code, "08") ||
		err.SeverityUnlocalized == "FATAL" || err.SeverityUnlocalized == "PANIC"
}

// Wrap says what was being done when err happened, and makes it match [driver.ErrLost] when
// [IsLost] holds. It returns nil for nil.
func Wrap(err error, doing string) error {
	switch {
	case err == nil:
		return nil
	case IsLost(err):
		return lost(err, doing)
	}
	return fmt.Errorf("%s: %w", doing, cut(err))
}

// tooMany reports whether a connection was refused because the role or the server, or a pooler before
// it, has too many. One that a limit of the database refused is not: others have their own. The text
// depends on the server's language, the routine does not.
func tooMany(err error) bool {
	const tooManyConnections, limitExceeded, limitOfDatabase = "53300", "53400", "CheckMyDatabase"
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if ok && pgErr.Code == "08P01" { // PgBouncer's code for everything, up to 1.18 at least
		return strings.HasPrefix(pgErr.Message, "no more connections allowed")
	}
	return ok && (pgErr.Code == tooManyConnections || pgErr.Code == limitExceeded) && pgErr.Routine != limitOfDatabase
}

// tooManyError is an error for which driver.ErrTooMany holds. Its text is that of the error.
type tooManyError struct{ error }

func (e *tooManyError) Is(target error) bool { return target == driver.ErrTooMany }

func (e *tooManyError) Unwrap() error { return e.error }

// ErrorLimit is how much of an error's text is kept, in bytes. A trigger can raise one of any
// length.
const ErrorLimit = 1000

// cutError is an error with less text.
type cutError struct {
	error
	text string
}

func (e *cutError) Error() string { return e.text }

func (e *cutError) Unwrap() error { return e.error }

// cut returns an error whose text is short.
func cut(err error) error {
	text := err.Error()
	if len(text) <= ErrorLimit {
		return err
	}
	return &cutError{err, strings.ToValidUTF8(text[:ErrorLimit], "") + "…"}
}

// lost wraps an error that ended a connection.
func lost(err error, doing string) error {
	if errors.Is(err, driver.ErrLost) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if tooMany(err) {
		err = &tooManyError{cut(err)}
	}
	return fmt.Errorf("%s: %w: %w", doing, driver.ErrLost, cut(err))
}
