package channels

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// record is one job in memory. There can be millions: its size is 64 bytes.
//
// A job has exactly one location at a time. Only put, take and the pass move it, and adjust the
// counters of the channels it goes through, so a slot cannot be released twice.
type record struct {
	home     *home
	created  int64
	eta      int64 // as in the row; see waitsForETA
	id       int64
	uuid     uuid
	priority int32
	company  int32
	index    int32 // in the heap that holds it
	state    State
	location location
	snapshot uint8 // the last snapshot that named it, see BeginSnapshot
	odd      bool  // its uuid is not canonical, see database.oddNames
}

// location says where a job is: running, among the failed jobs of its own channel, among those of
// its own channel that wait for their eta, or in the ready queue of the channel that many levels
// above its own. While its database is suspended, what would be in a queue of its own channel is in
// that of its home.
type location uint8

const (
	inOwnQueue location = 0
	inETAQueue location = 253
	inFailed   location = 254
	inRunning  location = 255
)

// inReady reports whether the location is some channel's ready queue.
func (l location) inReady() bool { return l < inETAQueue }

// parked reports whether the job waits, but in no queue, because its database is suspended.
func (r *record) parked() bool { return r.location < inFailed && r.home.db.suspended }

// home is what all jobs of one database with the same channel name share. It exists as long as such
// a job does.
type home struct {
	db      *database
	channel *channel
	name    string // as in the rows
	jobs    int
	states  [len(stateNames)]int // how many of them are in which state
	levels  int                  // what it takes of the allowance
	shares  []level              // see sharesOf; nil without shares
	scope   *scope               // see scopeOf
	gate    *gate                // see gateOf; nil if there is none
	shared  bool                 // its jobs have many names; see NamesPerDatabase
	// ready and eta are those that wait while the database is suspended, in the order of the queues
	// that they will be in.
	ready heap[*record, readyOrder]
	eta   heap[*record, etaOrder]
}

// database holds the jobs of one database.
type database struct {
	name  string
	jobs  index
	homes map[string]*home
	// recent is the home that was asked for last: neighbours often share one.
	recent *home
	// Uuids that are not canonical are rare (hand-made rows), but they are jobs.
	odd        map[string]*record
	oddNames   map[*record]string
	snapshot   uint8 // the current snapshot, see BeginSnapshot
	seen       int   // how many jobs it has named
	suspended  bool  // its waiting jobs are parked: unwanted, or displaced
	unwanted   bool  // between Suspend and Resume
	displaced  bool  // see Displaced
	placing    bool  // the snapshot that ends that has begun
	names      int   // what its homes take of the allowance
	sharing    int   // how many of its jobs share a channel
	companies  companies
	identities identities
}

func newDatabase(name string) *database {
	return &database{
		name:     name,
		homes:    make(map[string]*home),
		odd:      make(map[string]*record),
		oddNames: make(map[*record]string),
	}
}

// name is the uuid of a row, as memory holds it.
type name struct {
	uuid uuid
	hash uint32 // of the uuid, if it is canonical
	odd  bool   // it is not: text counts
	text string
}

func newName(text string) name {
	id, ok := parseUUID(text)
	if !ok {
		return name{odd: true, text: text}
	}
	return name{uuid: id, hash: id.hash(), text: text}
}

// find returns the record of a job, nil if there is none. A nil database has none.
func (d *database) find(n *name) *record {
	if d == nil {
		return nil
	}
	if n.odd {
		return d.odd[n.text]
	}
	return d.jobs.get(&n.uuid, n.hash)
}

// records returns those of the uuids that are known, each once.
func (d *database) records(uuids []string) []*record {
	known := make(map[*record]struct{}, len(uuids))
	for _, uuid := range uuids {
		n := newName(uuid)
		if r := d.find(&n); r != nil {
			known[r] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(known))
}

// add returns a new record that is nowhere yet.
func (d *database) add(n *name) *record {
	r := &record{snapshot: d.snapshot, uuid: n.uuid, odd: n.odd}
	d.seen++
	if n.odd {
		text := strings.Clone(n.text) // which may be a part of something big
		d.odd[text] = r
		d.oddNames[r] = text
		return r
	}
	d.jobs.add(r, n.hash)
	return r
}

// see notes that the current snapshot has named a job.
func (d *database) see(r *record) {
	if r.snapshot != d.snapshot {
		r.snapshot = d.snapshot
		d.seen++
	}
}

func (d *database) drop(r *record) {
	if r.snapshot == d.snapshot {
		d.seen--
	}
	d.companies.leave(r.company)
	d.identities.leave(r)
	if r.odd {
		delete(d.odd, d.oddNames[r])
		delete(d.oddNames, r)
		return
	}
	d.jobs.remove(r)
}

func (d *database) len() int { return d.jobs.len() + len(d.odd) }

// each calls yield for all records until it returns false. Records may be dropped meanwhile.
func (d *database) each(yield func(*record) bool) {
	if !d.jobs.each(yield) {
		return
	}
	for _, r := range d.odd {
		if !yield(r) {
			return
		}
	}
}

func (r *record) key() Key {
	db := r.home.db
	if r.odd {
		return Key{DB: db.name, UUID: db.oddNames[r]}
	}
	return Key{DB: db.name, UUID: r.uuid.String()}
}

func (r *record) job() Job {
	return Job{
		Key:      r.key(),
		Channel:  r.home.name,
		ID:       r.id,
		Priority: r.priority,
		Created:  r.created,
		Company:  r.company,
		Identity: r.home.db.identities.of[r],
		ETA:      r.eta,
	}
}

// differs reports whether a property that influences scheduling, beside the channel, is not what the
// row says.
func (r *record) differs(j *Job) bool {
	return r.sortsElse(j) || r.company != j.Company || r.home.db.identities.of[r] != j.Identity
}

// sortsElse reports whether one of those differs that decide on its order.
func (r *record) sortsElse(j *Job) bool {
	return r.id != j.ID || r.priority != j.Priority || r.created != j.Created || r.eta != j.ETA
}

// before is the order of ready jobs: priority, date_created, id (docs/contract.md 2.3). Rows of two
// databases can agree in all three; names decide then, so that the order never depends on chance.
func (r *record) before(o *record) bool {
	if r.priority != o.priority {
		return r.priority < o.priority
	}
	if r.created != o.created {
		return r.created < o.created
	}
	if r.id != o.id {
		return r.id < o.id
	}
	return r.nameBefore(o)
}

func (r *record) nameBefore(o *record) bool {
	if c := cmp.Compare(r.home.db.name, o.home.db.name); c != 0 {
		return c < 0
	}
	if r.odd != o.odd {
		return o.odd
	}
	if r.odd {
		names := r.home.db.oddNames
		return names[r] < names[o]
	}
	return bytes.Compare(r.uuid[:], o.uuid[:]) < 0
}

// readyOrder is the order of ready and of failed jobs.
type readyOrder struct{}

func (readyOrder) before(a, b *record) bool   { return a.before(b) }
func (readyOrder) moved(r *record, index int) { r.index = int32(index) } //nolint:gosec // memory ends before int32 does

// etaOrder is the order of jobs that wait for their eta.
type etaOrder struct{}

func (etaOrder) before(a, b *record) bool {
	if a.eta != b.eta {
		return a.eta < b.eta
	}
	return a.before(b)
}
func (etaOrder) moved(r *record, index int) { r.index = int32(index) } //nolint:gosec // as above

// uuid is a canonical uuid in a quarter of the space of its text.
type uuid [16]byte

const canonicalLength = 36

// dashes are the positions of the dashes in a canonical uuid.
var dashes = [...]int{8, 13, 18, 23}

// parseUUID reads a uuid that is written exactly as uuid.String would.
func parseUUID(s string) (id uuid, ok bool) {
	if len(s) != canonicalLength {
		return uuid{}, false
	}
	for _, i := range dashes {
		if s[i] != '-' {
			return uuid{}, false
		}
	}
	var all byte
	for i, at := range pairs {
		high, low := digits[s[at]], digits[s[at+1]]
		id[i] = high<<4 | low
		all |= high | low
	}
	if all >= noDigit {
		return uuid{}, false
	}
	return id, true
}

// pairs are the positions of the digits, two by two.
var pairs = [len(uuid{})]uint8{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

// digits are the values of the characters that a canonical uuid has.
var digits = func() (table [256]byte) {
	for c := range table {
		table[c] = noDigit
	}
	for value := range 16 {
		table["0123456789abcdef"[value]] = byte(value)
	}
	return table
}()

// noDigit has a bit that no value has.
const noDigit = 0x80

func (id uuid) String() string {
	var text [canonicalLength]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	for _, i := range dashes {
		text[i] = '-'
	}
	return string(text[:])
}
