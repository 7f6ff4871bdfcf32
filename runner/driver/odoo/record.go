package odoo

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// messageLimit and payloadLimit bound texts, in characters, and relativesLimit the list of
	// relatives that is read at all, in bytes: that of about 25,000 jobs.
	messageLimit   = 2000
	payloadLimit   = 64 << 10
	relativesLimit = 1 << 20
)

// recordColumns are what a [driver.Record] has beyond a detail.
var recordColumns = []column{
	{"date_cancelled", "timestamp"}, {"exec_time", "float8"}, {"worker_pid", "int8"}, {"company_id", "int8"}, {"user_id", "int8"},
	{"graph_uuid", "varchar"},
}

// payloadColumns are those of a [driver.Payload], in the order of its fields, by the names that they
// have had: the first that there is counts.
var payloadColumns = [][]string{{"exc_info"}, {"records", "record_ids"}, {"args", "func_string"}, {"kwargs"}, {"result"}}

// recordRow is what is read.
type recordRow struct {
	cancelled                    pgtype.Timestamp
	ran                          pgtype.Float8
	worker, company, user        pgtype.Int8
	graph, message, dependencies pgtype.Text
	size                         pgtype.Int8
	texts                        [5]pgtype.Text
	bytes                        [5]pgtype.Int8
}

func (r *recordRow) targets() []any {
	list := []any{&r.cancelled, &r.ran, &r.worker, &r.company, &r.user, &r.graph, &r.message, &r.dependencies, &r.size}
	for i := range r.texts {
		list = append(list, &r.texts[i], &r.bytes[i])
	}
	return list
}

// recordSQL reads the rows of one uuid.
func (g *generation) recordSQL(payloads bool) string {
	plain := g.plain()
	list := []string{g.rowColumns(), selectList(detailColumns, plain), selectList(recordColumns, plain)}
	cut := func(column, text string) string {
		if slices.Contains(plain, column) {
			return text
		}
		return "NULL"
	}
	list = append(list,
		cut("exc_message", fmt.Sprintf("left(j.exc_message, %d)", messageLimit)),
		cut("dependencies", fmt.Sprintf("CASE WHEN octet_length(j.dependencies::text) <= %d THEN j.dependencies::text END", relativesLimit)),
		cut("dependencies", "octet_length(j.dependencies::text)::int8"))
	for _, names := range payloadColumns {
		at := slices.IndexFunc(names, func(name string) bool { return slices.Contains(plain, name) })
		if at < 0 || !payloads {
			list = append(list, "NULL", "NULL::int8")
			continue
		}
		list = append(list, fmt.Sprintf("left(j.%s::text, %d)", names[at], payloadLimit), fmt.Sprintf("octet_length(j.%s::text)::int8", names[at]))
	}
	return "SELECT " + strings.Join(list, ", ") + " FROM queue_job j WHERE j.uuid = $1::text"
}

// Record implements [driver.Operations]. Of several rows of one uuid it returns the one that matters.
func (o *operations) Record(ctx context.Context, uuid string, payloads bool) (*driver.Record, error) {
	var out *driver.Record
	var read recordRow
	err := o.conn.Limited(ctx, listLimit, func() error {
		rows, err := o.conn.Query(ctx, o.g.named(o.g.recordSQL(payloads)), pgx.QueryExecModeExec, uuid)
		if err != nil {
			return err
		}
		defer rows.Close()
		scan := &scanner{database: o.database}
		for rows.Next() {
			var r recordRow
			d, _, err := scan.detail(rows, r.targets()...)
			if err != nil {
				return err
			}
			if out == nil || better(d.Row, out.Row) {
				out, read = r.record(d, payloads), r
			}
		}
		return rows.Err()
	})
	if err != nil || out == nil {
		return nil, o.conn.Failed(err, "read the job")
	}
	if err := o.relatives(ctx, out, &read); err != nil || out.State != channels.WaitDependencies || len(out.Relatives) == 0 {
		return out, err
	}
	return out, o.parents(ctx, &out.Detail)
}

func (r *recordRow) record(d driver.Detail, payloads bool) *driver.Record {
	out := &driver.Record{
		Detail: d, Worker: r.worker.Int64, Company: r.company.Int64, User: r.user.Int64, Message: r.message.String, Graph: r.graph.String,
	}
	if r.cancelled.Valid {
		out.Cancelled = r.cancelled.Time
	}
	if s := r.ran.Float64; s > 0 && s < math.MaxInt64/float64(time.Second) {
		out.Ran = time.Duration(s * float64(time.Second))
	}
	if payloads {
		text := func(i int) driver.Text { return driver.Text{Text: r.texts[i].String, Bytes: r.bytes[i].Int64} }
		out.Payload = &driver.Payload{Traceback: text(0), Records: text(1), Arguments: text(2), Keywords: text(3), Result: text(4)}
	}
	return out
}

// relatives finds the jobs that a job depends on, and those that depend on it (docs/contract.md 1.2).
func (o *operations) relatives(ctx context.Context, out *driver.Record, r *recordRow) error {
	var names struct {
		Parents  []string `json:"depends_on"`
		Children []string `json:"reverse_depends_on"`
	}
	switch {
	case !r.dependencies.Valid && r.size.Int64 > 0:
		out.RelativesProblem = fmt.Sprintf("the list of them has %d bytes, which is too much to be read", r.size.Int64)
		return nil
	case r.dependencies.String == "":
		return nil
	}
	if err := json.Unmarshal([]byte(r.dependencies.String), &names); err != nil {
		out.RelativesProblem = "the list of them is not what Odoo writes"
		return nil //nolint:nilerr // the rest of the job can be shown
	}
	at := make(map[string][]int)
	for i, uuid := range slices.Concat(names.Parents, names.Children) {
		if len(out.Relatives) == driver.RelativesLimit {
			out.MoreRelatives = len(names.Parents) + len(names.Children) - i
			break
		}
		if len(uuid) > UUIDLimit {
			continue
		}
		at[uuid] = append(at[uuid], len(out.Relatives))
		out.Relatives = append(out.Relatives, driver.Relative{UUID: uuid, Child: i >= len(names.Parents)})
	}
	if len(at) == 0 {
		return nil
	}
	return o.states(ctx, out.Relatives, at)
}

// states fills in what the rows of relatives say.
func (o *operations) states(ctx context.Context, list []driver.Relative, at map[string][]int) error {
	uuids := make([]string, 0, len(at))
	for uuid := range at {
		uuids = append(uuids, uuid)
	}
	sql := "SELECT left(j.uuid, 128), " + selectList([]column{{"state", "varchar"}, {"model_name", "varchar"}, {"method_name", "varchar"}}, o.g.plain()) +
		fmt.Sprintf(" FROM queue_job j WHERE j.uuid = ANY($1::text[]) ORDER BY j.id LIMIT %d", 2*driver.RelativesLimit)
	err := o.conn.Limited(ctx, listLimit, func() error {
		rows, err := o.conn.Query(ctx, o.g.named(sql), pgx.QueryExecModeExec, uuids)
		if err != nil {
			return err
		}
		var uuid, state, model, method pgtype.Text
		_, err = pgx.ForEachRow(rows, []any{&uuid, &state, &model, &method}, func() error {
			for _, i := range at[uuid.String] {
				list[i].State, list[i].Model, list[i].Method = state.String, model.String, method.String
			}
			return nil
		})
		return err
	})
	return o.conn.Failed(err, "read the jobs that a job depends on")
}
