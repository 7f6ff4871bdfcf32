package odoo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.ChannelReader = (*session)(nil)

// channelColumns are the columns of queue_job_channel by which channels are configured in the
// database (docs/contract.md 6.2).
var channelColumns = []string{"capacity", "sequential", "throttle", "paused", "capacity_default", "sequential_default"}

// channelCatalogSQL tells which columns the table has, and whether we may read it.
const channelCatalogSQL = `SELECT coalesce(array_agg(attname::text), '{}'),
	coalesce(has_table_privilege(to_regclass($1), 'SELECT'), false)
FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped`

// channelsSQL reads what is configured. NULL is 0 or false, and the unit of a throttle is the
// second, as in the configuration string.
const channelsSQL = `SELECT complete_name, coalesce(capacity, 0), coalesce(sequential, false),
	coalesce(throttle, 0), coalesce(paused, false), coalesce(capacity_default, 0), coalesce(sequential_default, false)
FROM queue_job_channel
WHERE complete_name IS NOT NULL
ORDER BY complete_name`

// Channels implements [driver.ChannelReader].
func (s *session) Channels(ctx context.Context) ([]channels.Config, error) {
	if s.generation == nil {
		return nil, errNoFingerprint
	}
	var columns []string
	var readable bool
	if err := s.conn.QueryRow(ctx, channelCatalogSQL, pgx.QueryExecModeExec, s.generation.tables.qualify("queue_job_channel")).Scan(&columns, &readable); err != nil {
		return nil, s.conn.Failed(err, "check the table of the channels")
	}
	switch missing := without(channelColumns, columns); {
	case len(columns) == 0:
		return nil, fmt.Errorf("%w: there is no table queue_job_channel", driver.ErrChannels)
	case len(missing) > 0:
		return nil, fmt.Errorf("%w: the table queue_job_channel lacks %s: upgrade the add-on %s",
			driver.ErrChannels, strings.Join(missing, ", "), s.generation.module)
	case !readable:
		return nil, fmt.Errorf("%w: the role may not read queue_job_channel: GRANT SELECT on it", driver.ErrChannels)
	}
	// Nothing is prepared: the table can change while we are connected.
	rows, err := s.conn.Query(ctx, s.generation.named(channelsSQL), pgx.QueryExecModeExec)
	if err != nil {
		return nil, s.failed(err, "read the channels")
	}
	var list []channels.Config
	var c channels.Config
	var throttle int32
	targets := []any{&c.Name, &c.Capacity, &c.Sequential, &throttle, &c.Paused, &c.CapacityDefault, &c.SequentialDefault}
	_, err = pgx.ForEachRow(rows, targets, func() error {
		c.Throttle = time.Duration(throttle) * time.Second
		list = append(list, c)
		return nil
	})
	return list, s.failed(err, "read the channels")
}
