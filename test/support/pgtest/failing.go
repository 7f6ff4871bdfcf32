package pgtest

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// Failing is a tracer for pgx that has one statement of its connections fail before it is sent, so
// that the connection can be used afterwards. The zero value lets all of them pass.
type Failing struct {
	mu   sync.Mutex // guards the following
	left int
	over bool
}

var (
	_ pgx.QueryTracer   = (*Failing)(nil)
	_ pgx.PrepareTracer = (*Failing)(nil)
)

// Nth has the n-th statement from now on fail, the first being 1; to prepare one counts, too. 0 has
// none fail.
func (f *Failing) Nth(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.over = n, false
}

// Failed reports whether it has come to that.
func (f *Failing) Failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

// next returns a context for the next statement, which has ended if that is the one.
func (f *Failing) next(ctx context.Context) context.Context {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left != 0 {
		return ctx
	}
	f.over = true
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

// TraceQueryStart implements [pgx.QueryTracer].
func (f *Failing) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return f.next(ctx)
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (f *Failing) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TracePrepareStart implements [pgx.PrepareTracer].
func (f *Failing) TracePrepareStart(ctx context.Context, _ *pgx.Conn, _ pgx.TracePrepareStartData) context.Context {
	return f.next(ctx)
}

// TracePrepareEnd implements [pgx.PrepareTracer].
func (f *Failing) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}
