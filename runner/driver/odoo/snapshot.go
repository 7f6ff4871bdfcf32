package odoo

import (
	"cmp"
	"context"
	"encoding/binary"
	"hash/maphash"
	"math"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Snapshot implements [driver.Session]. Should there be several rows of one uuid, the one that
// matters is yielded once more at the end.
func (s *session) Snapshot(ctx context.Context, yield func(driver.Row)) error {
	if s.generation == nil {
		return errNoFingerprint
	}
	read := reader{names: doubles{seed: maphash.MakeSeed()}}
	err := s.query(ctx, s.statements.snapshot, nil, func(rows pgx.Rows, scan *scanner) error {
		row, err := read.row(rows, scan)
		if err == nil {
			yield(row)
		}
		return err
	})
	if err != nil {
		return s.failed(err, "read all jobs")
	}
	again := read.names.end()
	if len(again) == 0 {
		return nil
	}
	chosen, err := s.Read(ctx, again)
	for _, row := range chosen {
		yield(row)
	}
	return err
}

// reader reads the rows of a snapshot, of which there can be millions: it decodes the server's
// messages itself, and allocates almost nothing.
type reader struct {
	begun bool
	// direct is set when the columns are of the types that it can decode; the others are left to
	// the scanner.
	direct bool

	uuids           block
	channel, states interned
	models, methods interned // of claims
	names           doubles
}

// newDecoder makes a reader that lives as long as a session.
func newDecoder() reader {
	few := interned{limit: internedFew}
	return reader{channel: few, states: few, models: few, methods: few}
}

// begin makes room for the uuids of so many rows, whose memory becomes free with theirs. Unlike those of
// a snapshot, the rows of one statement have nothing to do with those of the next.
func (r *reader) begin(rows int) { r.uuids = block{size: min(rows, blockRows) * uuidSize} }

// row returns the row that has arrived.
func (r *reader) row(rows pgx.Rows, scan *scanner) (row driver.Row, err error) {
	if !r.begun {
		r.begun, r.direct = true, decodable(rows.FieldDescriptions(), scan.keys)
	}
	values := rows.RawValues()
	if r.direct && wellFormed(values, scan.keys) {
		row = r.decode(values, scan.database, scan.keys)
	} else if row, err = scan.scan(rows); err != nil {
		return row, err
	}
	if !row.Nameless { // so it is no other one
		r.names.add(row.UUID)
	}
	return row, nil
}

// The positions of the columns of rowColumns.
const (
	atID = iota
	atUUID
	atChannel
	atState
	atPriority
	atCreated
	atETA
	atEnqueued
	atRetry
	atException
	atKeys // those that are read: the company, then the identity key
)

// columnsOf is how many columns a row has.
func columnsOf(keys driver.Keys) int {
	n := atKeys
	if keys.Companies {
		n++
	}
	if keys.Identities {
		n++
	}
	return n
}

// atText reports whether a column is a text.
func atText(at int, keys driver.Keys) bool {
	switch at {
	case atUUID, atChannel, atState, atException:
		return true
	}
	return keys.Identities && at == columnsOf(keys)-1
}

// decodable reports whether the columns are what decode expects: what Odoo makes of its fields,
// sent in PostgreSQL's binary format. Of text there is only one.
func decodable(fields []pgconn.FieldDescription, keys driver.Keys) bool {
	if len(fields) != columnsOf(keys) {
		return false
	}
	for at, f := range fields {
		var ok bool
		switch {
		case atText(at, keys):
			ok = f.DataTypeOID == pgtype.VarcharOID || f.DataTypeOID == pgtype.TextOID
		case at == atCreated, at == atETA, at == atEnqueued:
			ok = f.DataTypeOID == pgtype.TimestampOID && f.Format == pgx.BinaryFormatCode
		default:
			ok = (f.DataTypeOID == pgtype.Int4OID || f.DataTypeOID == pgtype.Int8OID) && f.Format == pgx.BinaryFormatCode
		}
		if !ok {
			return false
		}
	}
	return true
}

// wellFormed reports whether the numbers among the values are as long as they have to be. NULL is
// nil.
func wellFormed(values [][]byte, keys driver.Keys) bool {
	if len(values) != columnsOf(keys) {
		return false
	}
	for _, at := range [...]int{atID, atPriority, atRetry, atKeys} {
		if at == atKeys && !keys.Companies {
			break
		}
		if v := values[at]; v != nil && len(v) != 4 && len(v) != 8 {
			return false
		}
	}
	for _, at := range [...]int{atCreated, atETA, atEnqueued} {
		if v := values[at]; v != nil && len(v) != 8 {
			return false
		}
	}
	return true
}

// decode returns what [scanner.scan] would.
func (r *reader) decode(values [][]byte, database string, keys driver.Keys) driver.Row {
	state := r.states.get(values[atState])
	eta := wireMicros(values[atETA])
	if eta == math.MinInt64 {
		eta = 0 // as in etaMicros
	}
	company, id := int32(0), uint64(0)
	if keys.Companies {
		company = narrow(wireInt(values[atKeys]))
	}
	if keys.Identities {
		id = identity(values[len(values)-1])
	}
	return driver.Row{
		Job: channels.Job{
			Key:      channels.Key{DB: database, UUID: r.uuids.add(values[atUUID])},
			Channel:  r.channel.get(values[atChannel]),
			ID:       wireInt(values[atID]),
			Priority: narrow(wireInt(values[atPriority])),
			Company:  company,
			Identity: id,
			Created:  wireMicros(values[atCreated]),
			ETA:      eta,
		},
		State:     channels.ParseState(state),
		RawState:  state,
		Enqueued:  wireMicros(values[atEnqueued]),
		Retry:     narrow(wireInt(values[atRetry])),
		Exception: string(values[atException]),
		Nameless:  values[atUUID] == nil || len(values[atUUID]) > UUIDLimit,
	}
}

// wireInt reads a number of four or eight bytes.
func wireInt(value []byte) int64 {
	switch len(value) {
	case 4:
		return int64(int32(binary.BigEndian.Uint32(value))) //nolint:gosec // so it is sent
	case 8:
		return int64(binary.BigEndian.Uint64(value)) //nolint:gosec // so it is sent
	}
	return 0
}

// millennium is PostgreSQL's epoch in microseconds since that of Unix.
const millennium = 946_684_800_000_000

// wireMicros is micros of a timestamp as it is sent. The first and the last number are the
// infinities.
func wireMicros(value []byte) int64 {
	if value == nil {
		return 0
	}
	t := int64(binary.BigEndian.Uint64(value)) //nolint:gosec // so it is sent
	switch {
	case t == math.MinInt64:
		return t
	case t >= (lastSecond+1)*1_000_000-millennium:
		return math.MaxInt64
	}
	return t + millennium
}

// interned are the texts of a column that has few different ones. Where it has many, because
// somebody wants it so, most are not remembered.
type interned struct {
	last  string
	all   map[string]string
	limit int // Default: internedLimit
}

// internedLimit is of a snapshot, internedFew of a session, of which there may be thousands.
const (
	internedLimit = 2000
	internedFew   = 50
)

func (i *interned) get(text []byte) string {
	if string(text) == i.last {
		return i.last
	}
	found, ok := i.all[string(text)]
	if !ok {
		if i.all == nil {
			i.all = make(map[string]string)
		}
		found = string(text)
		if len(i.all) < cmp.Or(i.limit, internedLimit) {
			i.all[found] = found
		}
	}
	i.last = found
	return found
}

const (
	// uuidSize is the length of a uuid, blockRows how many share memory.
	uuidSize  = 36
	blockRows = 64
	blockSize = blockRows * uuidSize
)

// block makes strings that share memory, many of one allocation.
type block struct {
	text strings.Builder
	size int // Default: blockSize
}

func (b *block) add(text []byte) string {
	if b.text.Cap()-b.text.Len() < len(text) {
		b.text = strings.Builder{}
		b.text.Grow(max(cmp.Or(b.size, blockSize), len(text)))
	}
	start := b.text.Len()
	b.text.Write(text)
	return b.text.String()[start:]
}

// doubles finds uuids that more than one row has.
type doubles struct {
	seed maphash.Seed
	// batch are the last ones. They are looked up together, because a processor fetches many
	// addresses of a large memory in the time that it takes for one.
	batch []string
	seen  hashes
	// again are those that came before, or whose hash did: to read one for nothing does no harm.
	again []string
}

const doublesBatch = 64

func (d *doubles) add(uuid string) {
	if d.batch = append(d.batch, uuid); len(d.batch) == doublesBatch {
		d.flush()
	}
}

func (d *doubles) flush() {
	var sums [doublesBatch]uint32
	for i, uuid := range d.batch {
		sums[i] = uint32(maphash.String(d.seed, uuid)) //nolint:gosec // a part of it is enough
	}
	d.seen.reserve(len(d.batch))
	for i, uuid := range d.batch {
		if !d.seen.add(sums[i]) {
			d.again = append(d.again, uuid)
		}
	}
	d.batch = d.batch[:0]
}

// end returns all that were found.
func (d *doubles) end() []string {
	d.flush()
	return d.again
}

// hashes is a set of numbers that are spread evenly. Of a million, a map would take most of the
// time in which they are read. The numbers are small, because their memory is needed while that of
// the jobs grows, too; of a million, some hundred are alike by chance.
type hashes struct {
	slots []uint32 // 0 is a free one
	count int
}

const hashesFirst = 1 << 10

// reserve makes room for more numbers.
func (h *hashes) reserve(more int) {
	for h.count+more > len(h.slots)/4*3 {
		h.grow()
	}
}

// add adds a number for which there is room, and reports whether it is new.
func (h *hashes) add(n uint32) bool {
	n |= 1 // never 0
	at := h.find(n)
	if h.slots[at] == n {
		return false
	}
	h.slots[at] = n
	h.count++
	return true
}

// find returns where a number is, or could be.
func (h *hashes) find(n uint32) uint32 {
	mask := uint32(len(h.slots) - 1) //nolint:gosec // there are slots
	at := n >> 1 & mask
	for h.slots[at] != 0 && h.slots[at] != n {
		at = (at + 1) & mask
	}
	return at
}

func (h *hashes) grow() {
	old := h.slots
	h.slots = make([]uint32, max(hashesFirst, 2*len(old)))
	for _, n := range old {
		if n != 0 {
			h.slots[h.find(n)] = n
		}
	}
}
