package integration

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// blocksOf returns the blocks of a language in a document of the repository, without the indentation of
// their fences.
func blocksOf(t *testing.T, document, language string) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(document)))
	require.NoError(t, err)
	var list []string
	for _, m := range regexp.MustCompile("(?ms)^( *)```"+language+"\n(.*?)^ *```$").FindAllStringSubmatch(string(content), -1) {
		list = append(list, regexp.MustCompile("(?m)^"+m[1]).ReplaceAllString(m[2], ""))
	}
	require.NotEmpty(t, list, "%s has no %s", document, language)
	return list
}

// quickStart is the Caddyfile of the README, with the addresses of the test in place of its own.
func (tb *testBed) quickStart(role string) string {
	tb.Helper()
	secret := filepath.Join(tb.TempDir(), "odoo_db")
	require.NoError(tb, os.WriteFile(secret, []byte("secret\n"), 0o600))
	_, port, err := net.SplitHostPort(tb.site)
	require.NoError(tb, err)
	text := blocksOf(tb.T, "README.md", "caddyfile")[0]
	for old, here := range map[string]string{
		"postgres://odoo@db.internal:5432/postgres?sslmode=verify-full": "postgres://" + role + "@127.0.0.1:" + itoa(tb.Postgres.ConnConfig("postgres").Port) + "/postgres?sslmode=disable",
		"{file./run/secrets/odoo_db}":                                   "{file." + secret + "}",
		"odoo.example.com {":                                            "http://odoo.example.com:" + port + " {",
		"10.0.0.5:8069 10.0.0.6:8069":                                   tb.Odoo[0].Addr() + " " + tb.Odoo[1].Addr(),
		"{\n\tjobrunner {":                                              "{\n\tadmin " + tb.admin + "\n\tjobrunner {",
	} {
		require.Equal(tb, 1, strings.Count(text, old), old)
		text = strings.Replace(text, old, here, 1)
	}
	return text
}

// TestREADME: the Quick start of the README runs jobs as it is, and each of its commands says what the
// README promises.
func TestREADME(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir()) // a history without the jobs of other tests
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 2)
	tb.connectAsOwner()
	db := tb.dbs[0]
	role := "owner_" + db
	require.NoError(t, tb.Postgres.Exec(t.Context(), "postgres", "ALTER DATABASE "+pgx.Identifier{db}.Sanitize()+" OWNER TO "+role))
	t.Cleanup(func() {
		require.NoError(t, tb.Postgres.Exec(context.Background(), "postgres", "ALTER DATABASE "+pgx.Identifier{db}.Sanitize()+" OWNER TO postgres"))
	})
	text := tb.quickStart(role)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(text), 0o600))
	loaded, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	require.NoError(t, err)

	// What each command prints, by its first words.
	promised := map[string]string{
		"doctor": "0 errors", "status": "ready", "channels --watch": "root.mail", "why": "to run it again: caddy jobrunner requeue",
		"pause": "mail server is down", "drain": "can be stopped", "requeue": "would be changed: 1",
		"history": "stub.model", "top": "no job runs", "simulate": "2 > 4",
	}
	failed := tb.enqueue(db, in("root.mail", odoostub.JobSpec{State: "failed"}))[0]
	start := func() {
		require.NoError(t, caddy.Load(loaded, true))
		t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
		tb.untilReady()
		tb.enqueue(db, repeat(20, odoostub.JobSpec{})...)
		tb.enqueue(db, repeat(2, in("root.mail", odoostub.JobSpec{}))...)
		tb.untilStates(map[string]int{"done": 22, "failed": 1})
		tb.until("they are in the history", func() bool {
			return tb.get("history?database="+db, http.StatusOK)["total"].(map[string]any)["attempts"].(float64) == 22
		})
	}
	var seen []string
	here := strings.NewReplacer("prod ", db+" ", "3f1c8a52-9d40-4f6e-8b1a-6a7f0c2d9e15", failed, "10.0.0.5:8069", tb.Odoo[0].Addr())
	for _, block := range blocksOf(t, "README.md", "sh") {
		for _, m := range regexp.MustCompile(`(?m)^caddy (jobrunner (\S+).*?)(?: +# .*)?$`).FindAllStringSubmatch(block, -1) {
			if len(seen) == 1 {
				start() // the doctor comes before
			}
			args := words(here.Replace(m[1]))
			name := m[2]
			if args[len(args)-1] == "--watch" {
				name += " --watch"
			}
			require.NotEmpty(t, promised[name], "the README promises nothing of %s", name)
			seen = append(seen, name)
			require.Contains(t, tb.typed(dir, args, promised[name]), promised[name], m[1])
		}
	}
	for name := range promised {
		require.Contains(t, seen, name)
	}
	require.Equal(t, "doctor", seen[0])
	// Pauses and drains are kept, and the next test has the same storage.
	tb.typed(dir, []string{"jobrunner", "resume", "--channel", "root.mail"}, "")
	tb.typed(dir, []string{"jobrunner", "undrain", tb.Odoo[0].Addr()}, "")
}

// words takes a line of shell apart.
func words(line string) []string {
	var list []string
	for _, word := range regexp.MustCompile(`"[^"]*"|\S+`).FindAllString(line, -1) {
		list = append(list, strings.Trim(word, `"`))
	}
	return list
}

// typed runs a command in a folder, and returns what it prints, up to a word if it does not end by
// itself.
func (tb *testBed) typed(dir string, args []string, until string) string {
	tb.Helper()
	ctx, cancel := tb.patient()
	defer cancel()
	if args[1] != "doctor" {
		args = append(args, "--address", tb.admin)
	}
	cmd := tb.caddyCommand(ctx, tb.TempDir(), args...)
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	require.NoError(tb, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(tb, cmd.Start())
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if args[2] == "--watch" && strings.Contains(said.String(), until) {
			require.NoError(tb, cmd.Process.Kill())
			break
		}
	}
	if err := cmd.Wait(); args[2] != "--watch" {
		require.NoError(tb, err, said.String())
	}
	return said.String()
}

// TestRightsOfTheGuide: the rights that docs/guide.md lists suffice for a role that owns nothing.
func TestRightsOfTheGuide(t *testing.T) {
	tb := newTestBed(t, odoostub.Channels, 1, 1)
	role := tb.connectAs("guided", "postgres")
	tb.tree, tb.own = none, "max_capacity 3"
	for _, sql := range blocksOf(t, "docs/guide.md", "sql") {
		require.Contains(t, sql, " TO jobrunner;")
		tb.exec(strings.ReplaceAll(sql, " TO jobrunner;", " TO "+role+";"))
	}
	tb.run()
	tb.untilReady()
	tb.enqueue(tb.dbs[0], repeat(5, odoostub.JobSpec{})...)
	tb.untilStates(map[string]int{"done": 5})
	found, status := tb.doctor()
	require.Zero(t, status, "%+v", found)
}
