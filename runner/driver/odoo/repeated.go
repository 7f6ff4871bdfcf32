package odoo

import (
	"context"
	"encoding/binary"
	"errors"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// repeated is a statement that is executed for every job. It is executed by what is below pgx's
// queries, because finding out each time how to encode lists of texts and how to scan rows costs more
// than the rest.
type repeated struct {
	// name is that of the prepared statement.
	name string
	sql  string
	// description is of what is prepared; nil if nothing is, or if sql is to be run by pgx because its
	// columns are not what [reader.decode] expects. stale is what is to be forgotten by the server.
	description, stale *pgconn.StatementDescription
}

// binaryFormat is that of all parameters, and of all columns.
var binaryFormat = []int16{pgx.BinaryFormatCode}

// prepare sees to it that sql is prepared, with lists of texts as its parameters. fit judges its
// columns. It reports whether it can be executed.
func (r *repeated) prepare(ctx context.Context, conn *pgx.Conn, sql string, fit func([]pgconn.FieldDescription) bool) (bool, error) {
	if r.sql == sql {
		return r.description != nil, nil
	}
	r.forget()
	if conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		return false, nil
	}
	if r.stale != nil {
		if err := conn.Deallocate(ctx, r.name); err != nil {
			return false, err
		}
		r.stale = nil
	}
	d, err := conn.Prepare(ctx, r.name, sql)
	if err != nil {
		return false, err
	}
	r.sql = sql
	for _, oid := range d.ParamOIDs {
		if oid != pgtype.TextArrayOID { // which it is where the column is a varchar, too
			r.stale = d
			return false, nil
		}
	}
	fields := make([]pgconn.FieldDescription, len(d.Fields))
	for i, f := range d.Fields {
		fields[i] = f
		fields[i].Format = pgx.BinaryFormatCode
	}
	if !fit(fields) {
		r.stale = d
		return false, nil
	}
	r.description = d
	return true, nil
}

// forget has the statement prepared anew: its tables may have changed.
func (r *repeated) forget() {
	if r.description != nil {
		r.stale = r.description
	}
	r.sql, r.description = "", nil
}

// execute runs the statement with lists, and calls each for every row. The values are valid until it
// returns.
func (r *repeated) execute(ctx context.Context, conn *pgx.Conn, each func(values [][]byte) error, lists ...[]string) error {
	params := make([][]byte, len(lists))
	for i, list := range lists {
		params[i] = textArray(list)
	}
	result := conn.PgConn().ExecStatement(ctx, r.description, params, binaryFormat, binaryFormat)
	var failed error
	for failed == nil && result.NextRow() {
		failed = each(result.Values())
	}
	_, err := result.Close()
	if err = errors.Join(failed, err); err != nil {
		r.forget()
	}
	return err
}

// textArray encodes a list as an array of texts, nil as NULL.
func textArray(list []string) []byte {
	if list == nil {
		return nil
	}
	size := 20
	for _, v := range list {
		size += 4 + len(v)
	}
	b := make([]byte, 0, size)
	b = binary.BigEndian.AppendUint32(b, 1) // dimension
	b = binary.BigEndian.AppendUint32(b, 0) // there is no NULL
	b = binary.BigEndian.AppendUint32(b, pgtype.TextOID)
	b = binary.BigEndian.AppendUint32(b, length(len(list)))
	b = binary.BigEndian.AppendUint32(b, 1) // the first index
	for _, v := range list {
		b = binary.BigEndian.AppendUint32(b, length(len(v)))
		b = append(b, v...)
	}
	return b
}

// length is a length as it is sent. What is longer than a message may be is refused by the server.
func length(n int) uint32 { return uint32(min(n, math.MaxInt32)) } //nolint:gosec // so it fits

// errRow is a row that is not what its description says.
var errRow = errors.New("the server sent a row whose columns are not as it has said")

// readFit reports whether the columns of a read can be decoded, claimFit those of a claim.
func (s *session) readFit(fields []pgconn.FieldDescription) bool { return decodable(fields, s.keys) }

func (s *session) claimFit(fields []pgconn.FieldDescription) bool {
	n := columnsOf(s.keys)
	if len(fields) != n+3 || !decodable(fields[:n], s.keys) || fields[n+2].DataTypeOID != pgtype.BoolOID {
		return false
	}
	for _, f := range fields[n : n+2] {
		if f.DataTypeOID != pgtype.VarcharOID && f.DataTypeOID != pgtype.TextOID {
			return false
		}
	}
	return true
}
