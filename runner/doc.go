// Package runner is the engine: it keeps every unfinished job of every database
// in a tree of channels, claims the ones whose turn it is, has a driver run
// them on an upstream, and watches them until their rows say that they ended.
//
// One goroutine, the engine loop, owns the channel tree and the tasks; one
// goroutine a database, its session, owns the only connection that may lock,
// listen, read and claim there; one goroutine owns the maintenance connection
// (leader lock, discovery); one goroutine a task waits for its answer. They
// exchange closures and batches, and share no maps.
//
// # No gap
//
// LISTEN is committed before the snapshot is read. A commit before the snapshot
// is seen by the snapshot; a commit after LISTEN arrives as a notification; one
// in between is seen twice, so applying a row replaces what memory held.
//
// # A place is freed once
//
// A job occupies its place from the moment the scheduler picks it until both
// its exchange has ended and its row no longer says enqueued or started. Every
// path that frees it goes through [engine.settle].
package runner
