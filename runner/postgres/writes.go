package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Watcher = (*Cluster)(nil)

// writesSQL reads the statistics of databases. A backend reports what it has done at the end of a
// transaction, at most once a second; what it has not reported then, it reports when it has been idle
// for ten seconds, or, up to PostgreSQL 14, with its next transaction or when it ends. Transactions
// that were rolled back count, too.
const writesSQL = `SELECT datid, tup_inserted + tup_updated, coalesce((extract(epoch FROM stats_reset) * 1000000)::int8, 0)
FROM pg_stat_database WHERE datid <> 0`

// Writes implements [driver.Watcher].
func (c *Cluster) Writes(ctx context.Context) (map[uint32]driver.Writes, error) {
	rows, err := c.conn.Query(ctx, writesSQL)
	if err != nil {
		return nil, c.conn.Failed(err, "read the statistics of the databases")
	}
	all := make(map[uint32]driver.Writes)
	var oid uint32
	var w driver.Writes
	_, err = pgx.ForEachRow(rows, []any{&oid, &w.Rows, &w.Reset}, func() error {
		all[oid] = w
		return nil
	})
	return all, c.conn.Failed(err, "read the statistics of the databases")
}

// WritesHere reads how much has been written to the database of a connection.
func WritesHere(ctx context.Context, c *Conn) (w driver.Writes, err error) {
	var oid uint32
	err = c.QueryRow(ctx, writesSQL+" AND datname = current_database()").Scan(&oid, &w.Rows, &w.Reset)
	return w, c.Failed(err, "read the statistics of the database")
}
