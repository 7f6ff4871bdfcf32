package docs

import (
	"net"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	dsnURL   = regexp.MustCompile("postgres(?:ql)?://[^\\s\"'`]+")
	dsnWords = regexp.MustCompile("\\bhost=[^\\s\"'`&]+(?: [a-z_]+=[^\\s\"'`]+)*")
)

// unverified returns the connection strings of a text that leave open whether a remote server is
// verified, with their offsets, and how many strings it has in all.
func unverified(text string) (open map[int]string, all int) {
	open = map[int]string{}
	for _, at := range dsnURL.FindAllStringIndex(text, -1) {
		dsn := strings.TrimRight(text[at[0]:at[1]], ".,;:)")
		all++
		u, err := url.Parse(dsn)
		if err != nil {
			open[at[0]] = dsn
			continue
		}
		host := u.Hostname()
		if h := u.Query().Get("host"); h != "" {
			host = h
		}
		if remote(host) && u.Query().Get("sslmode") == "" {
			open[at[0]] = dsn
		}
	}
	for _, at := range dsnWords.FindAllStringIndex(dsnURL.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat(" ", len(s)) }), -1) {
		dsn := text[at[0]:at[1]]
		all++
		host, _, _ := strings.Cut(strings.TrimPrefix(dsn, "host="), " ")
		if remote(host) && !strings.Contains(dsn, " sslmode=") {
			open[at[0]] = dsn
		}
	}
	return open, all
}

func remote(host string) bool {
	ip := net.ParseIP(host)
	return host != "" && host != "localhost" && !strings.HasPrefix(host, "/") && (ip == nil || !ip.IsLoopback())
}

// TestExamplesVerify: whoever copies an example with a remote PostgreSQL decides about TLS, knowingly.
func TestExamplesVerify(t *testing.T) {
	sum := 0
	for _, f := range files(t, ".md", ".yaml", ".yml", "Caddyfile", "Caddyfile.example", ".conf", ".txt") {
		if strings.Contains("/"+f.path, "/testdata/") {
			continue
		}
		open, all := unverified(f.text)
		sum += all
		for at, dsn := range open {
			assert.Fail(t, "an example without sslmode", "%s: %s", f.at(at), dsn)
		}
	}
	require.Greater(t, sum, 10, "the examples are found")
}

func TestUnverifiedAreFound(t *testing.T) {
	for text, want := range map[string]int{
		"postgres postgres://odoo@db.internal:5432/postgres":                      1,
		"`postgres://odoo@db/postgres?application_name=x`.":                       1,
		"\"host=db.internal user=odoo\"":                                          1,
		"postgres postgresql://odoo@10.0.0.1/postgres":                            1,
		"postgres postgres://odoo@db.internal:5432/postgres?sslmode=verify-full":  0,
		"`host=db.internal user=odoo sslmode=verify-full`":                        0,
		"postgres://odoo@127.0.0.1:5432/postgres and postgres://odoo@[::1]/x":     0,
		"postgres:///jobrunner?host=/run/postgresql&user=jobrunner":               0,
		"\"host=/run/postgresql user=caddy dbname=postgres\" host=localhost x=1":  0,
		"postgres:///x?host=db.internal postgres://u@localhost/x?host=10.0.0.9,a": 2,
	} {
		open, _ := unverified(text)
		require.Len(t, open, want, text)
	}
}
