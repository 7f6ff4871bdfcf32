package channels

import (
	"bytes"
	"cmp"
	"encoding/hex"
)

// record is one job in memory. There can be millions: its size is 64 bytes.
//
// A job is in exactly one place at a time, and only put, take and the pass
// move it, adjusting the counters of the channels it goes through. So a place
// cannot be released twice.
type record struct {
	home     *home
	created  int64
	eta      int64 // as in the row; see waitsForETA
	id       int64
	uuid     uuid
	priority int32
	index    int32 // in the heap that holds it
	state    State
	place    place
	sync     uint8 // the last synchronization that saw it, see BeginSync
	odd      bool  // its uuid is not canonical, see database.oddNames
}

// place says where a job is: running, among the failed jobs of its own
// channel, among those of its own channel that wait for their eta, nowhere
// because its database is suspended, or in the ready queue of the channel that
// many levels above its own.
type place uint8

const (
	inOwnQueue place = 0
	suspended  place = 252
	inETAQueue place = 253
	inFailed   place = 254
	inRunning  place = 255
)

// inReady reports whether the place is some channel's ready queue.
func (p place) inReady() bool { return p < suspended }

// home is what all jobs of one database with the same channel name share.
// It exists as long as such a job does.
type home struct {
	db      *database
	channel *channel
	name    string // as in the rows
	jobs    int
	states  [len(stateNames)]int // how many of them are in which state
}

// database holds the jobs of one database.
type database struct {
	name  string
	jobs  map[uuid]*record
	homes map[string]*home
	// Uuids that are not canonical are rare (hand-made rows), but they are jobs.
	odd       map[string]*record
	oddNames  map[*record]string
	sync      uint8 // the current synchronization, see BeginSync
	suspended bool  // between Suspend and Resume
	peak      int   // most entries jobs has had
}

func newDatabase(name string) *database {
	return &database{
		name:     name,
		jobs:     make(map[uuid]*record),
		homes:    make(map[string]*home),
		odd:      make(map[string]*record),
		oddNames: make(map[*record]string),
	}
}

func (d *database) find(name string) *record {
	if id, ok := parseUUID(name); ok {
		return d.jobs[id]
	}
	return d.odd[name]
}

// add returns a new record that is in no place yet.
func (d *database) add(name string) *record {
	r := &record{sync: d.sync}
	if id, ok := parseUUID(name); ok {
		r.uuid = id
		d.jobs[id] = r
		d.peak = max(d.peak, len(d.jobs))
		return r
	}
	r.odd = true
	d.odd[name] = r
	d.oddNames[r] = name
	return r
}

// forgetAbove is the size from which on an emptied map is replaced: maps of
// Go never give memory back.
const forgetAbove = 1024

func (d *database) drop(r *record) {
	if r.odd {
		delete(d.odd, d.oddNames[r])
		delete(d.oddNames, r)
		return
	}
	delete(d.jobs, r.uuid)
	if len(d.jobs) == 0 && d.peak > forgetAbove {
		d.jobs, d.peak = make(map[uuid]*record), 0
	}
}

func (d *database) len() int { return len(d.jobs) + len(d.odd) }

// each calls yield for all records until it returns false. Records may be
// dropped meanwhile.
func (d *database) each(yield func(*record) bool) {
	for _, r := range d.jobs {
		if !yield(r) {
			return
		}
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
		ETA:      r.eta,
	}
}

// differs reports whether a property that influences scheduling is not what
// the row says.
func (r *record) differs(j *Job) bool {
	return r.id != j.ID || r.priority != j.Priority || r.created != j.Created || r.eta != j.ETA ||
		r.home.name != j.Channel && r.home.channel.name != Normalize(j.Channel)
}

// before is the order of ready jobs: priority, date_created, id (contract.md
// 2.3). Rows of two databases can agree in all three; names decide then, so
// that the order never depends on chance.
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
	digits := 0
	for i := range len(s) {
		var value byte
		switch c := s[i]; {
		case i == dashes[0] || i == dashes[1] || i == dashes[2] || i == dashes[3]:
			if c != '-' {
				return uuid{}, false
			}
			continue
		case '0' <= c && c <= '9':
			value = c - '0'
		case 'a' <= c && c <= 'f':
			value = c - 'a' + 10
		default:
			return uuid{}, false
		}
		id[digits/2] = id[digits/2]<<4 | value
		digits++
	}
	return id, true
}

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
