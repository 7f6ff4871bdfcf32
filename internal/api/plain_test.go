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
		// As a PostgreSQL without TLS refuses a password, and what stands around it.
		"no leader is known: connect to the maintenance database postgres: connect to postgres: connection lost: failed to connect to `user=u database=postgres`:\n\t10.0.0.1:5432 (db): tls error: server refused TLS connection\n\t10.0.0.1:5432 (db): failed SASL auth: FATAL: password authentication failed for user \"u\" (SQLSTATE 28P01); check that PostgreSQL runs": {
			"no leader is known: PostgreSQL at 10.0.0.1:5432 unreachable: password authentication failed for user \"u\"; check that PostgreSQL runs",
			"no leader is known: PostgreSQL unreachable: password authentication failed for user …; check that PostgreSQL runs",
		},
		"failed to connect to `user=u database=x`: 10.0.0.1:5432 (db): tls error: server refused TLS connection": {
			"PostgreSQL at 10.0.0.1:5432 unreachable: tls error: server refused TLS connection", "PostgreSQL unreachable: tls error: server refused TLS connection",
		},
		"database prod has no fresh session, it is unreachable: connect: connection lost: failed to connect to `user=u database=prod`:\n\t10.0.0.1:1 (db): dial error: dial tcp 10.0.0.1:1: connect: connection refused\n\t10.0.0.1:1 (db): dial error: dial tcp 10.0.0.1:1: connect: connection refused (12 jobs wait)": {
			"database prod has no fresh session, it is unreachable: PostgreSQL at 10.0.0.1:1 unreachable: connection refused (12 jobs wait)",
			"database prod has no fresh session, it is unreachable: PostgreSQL unreachable: connection refused (12 jobs wait)",
		},
		"database prod has no fresh session, it is unreachable: failed to connect to `user=u database=prod`: 10.0.0.1:1 (db): dial error: dial tcp 10.0.0.1:1: connect: connection refused (1 job waits)": {
			"database prod has no fresh session, it is unreachable: PostgreSQL at 10.0.0.1:1 unreachable: connection refused (1 job waits)",
			"database prod has no fresh session, it is unreachable: PostgreSQL unreachable: connection refused (1 job waits)",
		},
		"database prod has no fresh session, it is unreachable: failed to connect to `user=u database=prod`: 10.0.0.1:1 (db): dial error: dial tcp 10.0.0.1:1: connect: connection refused (how many jobs wait is unknown)": {
			"database prod has no fresh session, it is unreachable: PostgreSQL at 10.0.0.1:1 unreachable: connection refused (how many jobs wait is unknown)",
			"database prod has no fresh session, it is unreachable: PostgreSQL unreachable: connection refused (how many jobs wait is unknown)",
		},
		// An Odoo server.
		"http://10.0.0.5:8069 takes no jobs: check http://10.0.0.5:8069: dial tcp 10.0.0.5:8069: connect: connection refused; start Odoo": {
			"http://10.0.0.5:8069 takes no jobs: connection refused; start Odoo", "http://10.0.0.5:8069 takes no jobs: connection refused; start Odoo",
		},
		"check http://odoo:8069: dial tcp: lookup odoo on 10.0.0.2:53: no such host": {
			"lookup odoo on 10.0.0.2:53: no such host", "lookup odoo on 10.0.0.2:53: no such host",
		},
		"check http://10.0.0.5:8069: status 502":                {"status 502", "status 502"},
		"check http://10.0.0.5:8069: context deadline exceeded": {"no answer in time", "no answer in time"},
	} {
		require.Equal(t, want, [2]string{Plain(in), Discreet(in)})
	}
}
