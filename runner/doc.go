// Package runner is the engine: it keeps every unfinished job of every database in a tree of
// channels, claims the ones whose turn it is, has a driver run them on a server, and watches them
// until their rows say that they ended.
//
// One goroutine, the engine loop, owns the channel tree and the tasks; one goroutine a database, its
// session (package session), owns the only connection that may lock, listen, read and claim there;
// one goroutine owns the maintenance connection (package cluster: leader lock, discovery); one
// goroutine a task waits for its answer (package exchange). What they find out enters the loop
// through its mailbox, all of it in reports.go; they share no maps. Package upstream knows which
// servers are up.
//
// # No gap
//
// LISTEN is committed before the snapshot is read, so what lies in between is seen twice: applying a
// row replaces what memory held.
//
// # A slot is freed once
//
// A job occupies its slot from the moment the scheduler picks it until both its exchange has ended
// and its row no longer says enqueued or started. Every path that frees it goes through
// [engine.settle].
package runner
