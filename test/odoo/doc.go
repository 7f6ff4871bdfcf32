// Package odootest runs the module against real Odoo servers: Odoo 14 and 19 as
// Debian packages them, with OCA's queue_job as its authors publish it, prefork
// workers, and a real Caddy in front.
//
//	make test-odoo
//
// It needs root, debootstrap, the network the first time, and some gigabytes in the
// cache folder; testbed.sh says what exactly, before anything is built. What it found out about Odoo and the
// add-on stands in docs/compatibility.md.
//
// All of it is behind the build tag odoo.
package odootest
