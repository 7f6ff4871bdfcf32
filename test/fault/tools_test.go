//go:build fault

package fault

import (
	"context"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// reload gives the node the configuration as it is now. Caddy's admin endpoint is
// made anew by it, so that the answer may get lost.
func (n *node) reload() {
	n.tb.Helper()
	n.tb.until("the configuration is loaded", func() bool {
		err := n.Load(context.Background(), n.config())
		require.NotErrorIs(n.tb, err, testbed.ErrRefused)
		return err == nil
	})
}

func (n *node) signal(s syscall.Signal) { require.NoError(n.tb, n.Signal(s)) }

// adopt counts a database among those to serve.
func (tb *testBed) adopt(name string) {
	tb.Helper()
	_, err := tb.Adopt(name)
	require.NoError(tb, err)
}

// exec runs a statement in one database.
func (tb *testBed) exec(db, sql string, args ...any) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	_, err := tb.Pool(db).Exec(ctx, sql, args...)
	require.NoError(tb, err, sql)
}

// hold begins a transaction in a database, runs a statement in it, and returns
// what commits it.
func (tb *testBed) hold(db, sql string) (commit func()) {
	tb.Helper()
	conn := tb.connect(db)
	run := func(sql string) {
		tb.Helper()
		ctx, cancel := context.WithTimeout(tb.Context(), patience)
		defer cancel()
		_, err := conn.Exec(ctx, sql)
		require.NoError(tb, err, sql)
	}
	run("BEGIN")
	run(sql)
	return func() {
		run("COMMIT")
		require.NoError(tb, conn.Close(tb.Context()))
	}
}

// adopt puts into the books what a database holds that is a copy.
func (l *load) adopt(db string, uuids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger[db] = make(map[string]bool)
	for _, uuid := range uuids {
		l.ledger[db][uuid] = true
	}
}

// rename moves the books of a database.
func (l *load) rename(from, to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger[to] = l.ledger[from]
	delete(l.ledger, from)
}

// forget drops the books of a database that has been dropped with its jobs.
func (l *load) forget(db string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ledger, db)
}

// killWorkers kills workers at work until so many have died.
func killWorkers(tb *testBed, count int) {
	for killed := 0; killed < count; tb.wait(100 * time.Millisecond) {
		for _, s := range tb.Odoo {
			killed += s.KillBusy()
		}
	}
}
