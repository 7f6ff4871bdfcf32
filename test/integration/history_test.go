package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestHistory: what became of jobs is there at once, over a reload and after a restart of Caddy, in a file of
// its data directory that only its user can read.
func TestHistory(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.tree = "root:4"
	home := t.TempDir()
	caddy := tb.startProcess(home)
	tb.untilReady()
	attempts := func() (n, known float64) {
		doc := tb.get("history?from=1h", http.StatusOK)
		require.Equal(t, true, doc["leader"])
		total := doc["total"].(map[string]any)
		return total["attempts"].(float64), float64(len(list(doc, "groups")))
	}
	tb.enqueue(tb.dbs[0], repeat(5, odoostub.JobSpec{})...)
	tb.enqueue(tb.dbs[0], in("mail", odoostub.JobSpec{}))
	tb.until("they are counted", func() bool { n, _ := attempts(); return n == 6 })
	doc := tb.get("history?from=1h&by=channel&channel=mail", http.StatusOK)
	require.Equal(t, "root.mail", list(doc, "groups")[0]["name"])
	require.Contains(t, list(doc, "groups")[0], "wait_p95_seconds")

	failed := tb.enqueue(tb.dbs[0], repeat(2, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "odoo.exceptions.UserError"}})...)
	tb.until("the failures are counted", func() bool { n, _ := attempts(); return n == 8 })
	doc = tb.get("history?from=1h&by=exception", http.StatusOK)
	require.Equal(t, "odoo.exceptions.UserError", list(doc, "exceptions")[0]["name"])
	require.Equal(t, 2.0, list(doc, "exceptions")[0]["failed"])
	require.Equal(t, 2.0, list(list(doc, "exceptions")[0], "counts")[0]["failed"])
	out, code := tb.caddy("jobrunner", "job", failed[0], "--address", tb.admin)
	require.Zero(t, code, out)
	require.Regexp(t, `(?m)^failed +\S+Z \(.* ago\), on http://`+tb.Odoo[0].Addr()+`: odoo.exceptions.UserError, HTTP status`, out)
	out, code = tb.caddy("jobrunner", "history", "--by", "exception", "--intervals", "--address", tb.admin)
	require.Zero(t, code, out)
	require.Regexp(t, `(?m)^\S+ +2 +odoo.exceptions.UserError$`, out)
	out, code = tb.caddy("jobrunner", "history", "--by", "exception", "--intervals", "--csv", "--address", tb.admin)
	require.Zero(t, code, out)
	require.Regexp(t, `(?m)^exception,begin,failed\nodoo.exceptions.UserError,\S+Z,2$`, out)

	require.NoError(t, caddy.Stop())
	files, err := filepath.Glob(filepath.Join(home, "*", "jobrunner", "default", "history.db"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	st, err := os.Stat(files[0])
	require.NoError(t, err)
	require.Zero(t, st.Mode().Perm()&0o077)
	tb.startProcess(home)
	tb.untilReady()
	n, _ := attempts()
	require.Equal(t, 8.0, n)
}
