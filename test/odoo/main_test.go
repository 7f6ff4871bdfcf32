//go:build odoo

package odootest

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run starts PostgreSQL, where every connection needs its password and Odoo's
// role owns what it creates, as on a real site.
func run(m *testing.M) int {
	if _, err := os.Stat(binary()); err != nil {
		fmt.Fprintln(os.Stderr, "odootest: no Caddy to test; run make build:", err)
		return 1
	}
	ctx := context.Background()
	started, err := pgtest.Start(ctx, pgtest.Options{Password: "the superuser's"})
	if err != nil {
		fmt.Fprintln(os.Stderr, "odootest: could not get PostgreSQL:", err)
		return 1
	}
	cluster = started
	code := 1
	err = cluster.Exec(ctx, "postgres", fmt.Sprintf("CREATE ROLE %q LOGIN CREATEDB PASSWORD '%s'", odooRole, odooPassword))
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, "odootest:", err)
	}
	if err := cluster.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "odootest:", err)
		return 1
	}
	return code
}
