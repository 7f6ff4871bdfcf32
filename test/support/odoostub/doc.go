// Package odoostub plays Odoo as far as its job runner can see it: the tables,
// and servers that execute jobs on request in the transactions that the real
// add-on uses (docs/contract.md 1). A [Recorder] keeps what happened, so that tests
// can tell whether a job ran twice at once, a channel exceeded its capacity or
// a job was left behind. Faults can be switched on while a server runs.
package odoostub
