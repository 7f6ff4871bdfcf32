package postgres

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// TestCut: an error is cut where it is too long, and no earlier.
func TestCut(t *testing.T) {
	t.Parallel()
	just := errors.New(strings.Repeat("x", ErrorLimit))
	require.Equal(t, just, cut(just))
	long := errors.New(strings.Repeat("x", ErrorLimit+1))
	require.Equal(t, just.Error()+"…", cut(long).Error())
	require.ErrorIs(t, cut(long), long)
}

// TestTooMany: what a role or a server, or a pooler, has too many of concerns all databases; a limit of the
// database does not, nor does anything else that is wrong.
func TestTooMany(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"of the server or the role": {&pgconn.PgError{Code: "53300", Routine: "InitPostgres"}, true},
		"of the database":           {&pgconn.PgError{Code: "53300", Routine: "CheckMyDatabase"}, false},
		"a limit":                   {&pgconn.PgError{Code: "53400", Routine: "x"}, true},
		"a limit of the database":   {&pgconn.PgError{Code: "53400", Routine: "CheckMyDatabase"}, false},
		"of a pooler":               {&pgconn.PgError{Code: "08P01", Message: "no more connections allowed (max_client_conn)"}, true},
		"else of a pooler":          {&pgconn.PgError{Code: "08P01", Message: "no such user"}, false},
		"something else":            {&pgconn.PgError{Code: "42601", Message: "no more connections allowed"}, false},
		"no answer":                 {errors.New("no more connections allowed"), false},
	} {
		require.Equal(t, c.want, tooMany(c.err), name)
		require.Equal(t, c.want, errors.Is(lost(c.err, "connect"), driver.ErrTooMany), name)
	}
}
