package odoo

import (
	"context"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// claim is the result of one, as its rows arrive.
type claim struct {
	session *session
	tasks   []driver.Task
	index   index
	read    rowSet
}

// run claims jobs and reads others: mostly by decoding what the server sends. With vacant, it claims
// only those that want nothing but a slot of root.
func (c *claim) run(ctx context.Context, uuids, others []string, vacant bool) error {
	s := c.session
	sql, prepared, name := s.claimStatement(vacant), &s.claiming, "jobrunner_claim"
	if vacant {
		prepared, name = &s.vacant, "jobrunner_claim_vacant"
	}
	direct, err := s.direct(ctx, prepared, name, sql, s.claimFit)
	if err != nil {
		return err
	}
	if direct {
		s.decoder.begin(len(uuids) + len(others))
		return prepared.execute(ctx, s.conn.Conn, c.decode, uuids, others)
	}
	var model, method pgtype.Text
	var claimed bool
	add := func(row driver.Row) { c.add(row, claimed, model.String, method.String) }
	err = s.scanRows(ctx, sql, []any{uuids, others}, add, &model, &method, &claimed)
	if err != nil {
		prepared.forget()
	}
	return err
}

// decode takes in a row as the server sends it.
func (c *claim) decode(values [][]byte) error {
	s := c.session
	n := columnsOf(s.keys)
	if len(values) != n+3 || !wellFormed(values[:n], s.keys) || len(values[n+2]) != 1 {
		return errRow
	}
	row := s.decoder.decode(values[:n], s.database, s.keys)
	c.add(row, values[n+2][0] != 0, s.decoder.models.get(values[n]), s.decoder.methods.get(values[n+1]))
	return nil
}

// add takes in a row. Two rows of one uuid are one task: Odoo runs by uuid. A row that is not
// enqueued, because a trigger of others has changed it, is no claim: Odoo would not run it, and if
// it is pending, it would be claimed again at once.
func (c *claim) add(row driver.Row, claimed bool, model, method string) {
	if !claimed {
		c.read.add(row)
		return
	}
	if row.State != channels.Enqueued {
		return
	}
	if c.index.find(len(c.tasks), func(i int) string { return c.tasks[i].UUID }, row.UUID) >= 0 {
		return
	}
	c.tasks = append(c.tasks, driver.Task{
		Key: row.Key, Enqueued: row.Enqueued, Retry: row.Retry,
		Model: model, Method: method, DriverState: c.session.generation.driverState(),
	})
}
