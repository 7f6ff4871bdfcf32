package pgtest

import (
	"context"
	"errors"
	"sync"
	"testing"

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

// Each has the statements of do fail, the first, the second and so on, and requires that do returns the
// error of each. In the end it succeeds.
func (f *Failing) Each(tb testing.TB, name string, do func() error) {
	tb.Helper()
	defer f.Nth(0)
	for n := 1; ; n++ {
		f.Nth(n)
		err := do()
		switch {
		case !f.Failed() && n == 1:
			tb.Fatalf("%s: there is no statement", name)
		case !f.Failed() && err != nil:
			tb.Fatalf("%s: %v", name, err)
		case !f.Failed():
			return
		case !errors.Is(err, context.Canceled):
			tb.Fatalf("%s: statement %d fails, and the error is %v", name, n, err)
		}
	}
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
