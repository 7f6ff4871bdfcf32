// Package fault holds the fault suite: real Caddy processes with the module,
// a real PostgreSQL and stub Odoo servers under load, while something breaks.
// After each fault it counts what went wrong with the jobs: docs/reliability.md
// has the list and the figures, and `make fault` runs all of it. The build tag
// fault adds the faults that take longer than an ordinary test may.
package fault
