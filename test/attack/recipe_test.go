//go:build attack

package attack

import (
	"context"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// document holds the commands that are recommended.
const document = "../../SECURITY.md"

// blocks returns the fenced blocks of the document in one language.
func (b *bed) blocks(language string) (list []string) {
	b.Helper()
	text, err := os.ReadFile(document)
	require.NoError(b, err)
	for _, rest := range strings.Split(string(text), "```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(rest, "```")
		list = append(list, block)
	}
	return list
}

// recommended carries out the recommendations for the whole cluster.
func (b *bed) recommended() {
	b.Helper()
	sql, text := b.blocks("sql"), b.blocks("text")
	require.Len(b, sql, 2)
	require.Len(b, text, 2)
	for statement := range strings.SplitSeq(strings.TrimSpace(sql[0]), ";") {
		if statement != "" {
			b.exec("postgres", statement)
		}
	}
	me, err := user.Current()
	require.NoError(b, err)
	// This PostgreSQL has no certificate.
	hba := strings.ReplaceAll(text[0], "hostssl all jobrunner 0.0.0.0/0 cert\n", "")
	if b.attack.tcp {
		hba = ""
	}
	b.configure("pg_hba.conf", hba+"local all all trust\nhost all all 127.0.0.1/32 trust\n")
	b.configure("pg_ident.conf", strings.ReplaceAll(text[1], " caddy ", " "+me.Username+" "))
	b.exec("postgres", "SELECT pg_reload_conf()")
}

// configure writes one of PostgreSQL's files.
func (b *bed) configure(name, content string) {
	b.Helper()
	file := filepath.Join(b.Postgres.Dir(), "data", name)
	info, err := os.Stat(file)
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(file, []byte(content), info.Mode().Perm())) // which keeps its owner
}

// recommendedIn carries out the recommendations for one database.
func (b *bed) recommendedIn(db string) {
	b.Helper()
	b.exec(db, strings.ReplaceAll(b.blocks("sql")[1], "DATABASE prod", "DATABASE "+pgx.Identifier{db}.Sanitize()))
}

// exec runs statements as a superuser.
func (b *bed) exec(db, sql string) { b.as("postgres", db, sql) }

// as runs statements as a role.
func (b *bed) as(role, db, sql string) {
	b.Helper()
	require.NoError(b, b.try(role, db, sql), sql)
}

// try runs statements as a role, which may fail.
func (b *bed) try(role, db, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := b.Postgres.ConnConfig(db)
	cfg.User = role
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	// Without arguments, PostgreSQL takes several statements at once.
	return conn.PgConn().Exec(ctx, sql).Close()
}

// ask runs a statement as a superuser that returns one value.
func ask[T any](b *bed, db, sql string, args ...any) (value T) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := b.Postgres.ConnConfig(db)
	cfg.RuntimeParams["search_path"] = "pg_catalog, public"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	require.NoError(b, err)
	defer func() { _ = conn.Close(ctx) }()
	require.NoError(b, conn.QueryRow(ctx, sql, args...).Scan(&value), sql)
	return value
}
