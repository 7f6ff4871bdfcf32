// Package integration holds tests of the whole: a real Caddy with the module, a
// real PostgreSQL, and stub Odoo servers behind a reverse_proxy.
package integration
