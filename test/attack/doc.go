// Package attack holds the attack suite: a real Caddy with the module, a real
// PostgreSQL and stub Odoo servers, with one tenant who only wants his jobs to run,
// while somebody else attacks: the owner of another database, a role that may only
// connect, a false PostgreSQL, a false Odoo, a visitor. SECURITY.md says what is
// promised, and its commands set the suite up. `make attack` runs all of it; the
// build tag is attack.
package attack
