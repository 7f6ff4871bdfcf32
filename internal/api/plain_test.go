package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlain: one sentence instead of every attempt with its causes, and without names for those who
// only look on.
func TestPlain(t *testing.T) {
	for in, want := range map[string][2]string{
		"refused": {"refused", "refused"},
		"no leader is known: connect to postgres: connection lost: failed to connect to `user=u database=postgres`:\n\t127.0.0.1:1 (127.0.0.1): dial error: dial tcp 127.0.0.1:1: connect: connection refused\n\t127.0.0.1:1 (127.0.0.1): dial error: dial tcp 127.0.0.1:1: connect: connection refused": {
			"no leader is known: PostgreSQL at 127.0.0.1:1 unreachable: connection refused", "no leader is known: PostgreSQL unreachable: connection refused",
		},
		"prod: failed to connect to `user=u database=prod`: 10.0.0.1:5432 (db): server error: FATAL: password authentication failed for user \"u\" (SQLSTATE 28P01)": {
			"prod: PostgreSQL at 10.0.0.1:5432 unreachable: password authentication failed for user \"u\"", "prod: PostgreSQL unreachable: password authentication failed for user …",
		},
		"failed to connect to `user=u database=x`: hostname resolving error: lookup db: no such host": {
			"PostgreSQL unreachable: lookup db: no such host", "PostgreSQL unreachable: lookup db: no such host",
		},
	} {
		require.Equal(t, want, [2]string{Plain(in), Discreet(in)})
	}
}
