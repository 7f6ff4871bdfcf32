//go:build fault

package fault

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
)

// interrupt asks the process to end and waits until it has.
func (n *node) interrupt() {
	n.signal(syscall.SIGTERM)
	<-n.ended
	require.True(n.p, n.cmd.ProcessState.Success(), "the clean stop of Caddy: %s", n.tail())
}

// reload gives the node the configuration as it stands now. Caddy's admin
// endpoint is made anew by it, so that the answer may get lost.
func (n *node) reload() {
	n.p.Helper()
	n.p.until("the configuration is loaded", func() bool {
		req, err := http.NewRequestWithContext(n.p.Context(), http.MethodPost, "http://"+n.admin+"/load", bytes.NewReader(n.caddyfile()))
		require.NoError(n.p, err)
		req.Header.Set("Content-Type", "text/caddyfile")
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.True(n.p, err != nil || res.StatusCode == http.StatusOK, string(body))
		return err == nil
	})
}

// leaveDatabase closes all connections of the test and of Odoo to a database,
// and does not count it any more.
func (p *plant) leaveDatabase(name string) {
	p.mu.Lock()
	pool := p.pools[name]
	delete(p.pools, name)
	p.dbs = slices.DeleteFunc(p.dbs, func(s string) bool { return s == name })
	p.mu.Unlock()
	pool.Close()
	for _, s := range p.odoo {
		s.Forget(name)
	}
}

// exec runs a statement in one database.
func (p *plant) exec(db, sql string, args ...any) {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	_, err := p.pool(db).Exec(ctx, sql, args...)
	require.NoError(p, err, sql)
}

// hold begins a transaction in a database, runs a statement in it, and returns
// what commits it.
func (p *plant) hold(db, sql string) (commit func()) {
	p.Helper()
	conn := p.connect(db)
	run := func(sql string) {
		p.Helper()
		ctx, cancel := context.WithTimeout(p.Context(), patience)
		defer cancel()
		_, err := conn.Exec(ctx, sql)
		require.NoError(p, err, sql)
	}
	run("BEGIN")
	run(sql)
	return func() {
		run("COMMIT")
		require.NoError(p, conn.Close(p.Context()))
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
func killWorkers(p *plant, count int) {
	for killed := 0; killed < count; p.wait(100 * time.Millisecond) {
		for _, s := range p.odoo {
			killed += s.KillBusy()
		}
	}
}
