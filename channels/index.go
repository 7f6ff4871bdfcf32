package channels

import "hash/maphash"

// index finds the records of a database by their uuids. A map of Go has the keys once more, and
// while it grows, it needs the memory of the old and of the new one: more for a job than its record.
// This one grows by a page at a time, in its own memory. The zero value is empty.
type index struct {
	// pages are by the first bits of the hash. One that has not been split so often is there
	// several times, one beside the other.
	pages []*page
	bits  uint8
	count int
}

// page is a part of an index: a table in which a record is in the first slot from that of its hash
// on that was free.
type page struct {
	bits uint8 // of the hash, which all of its records share
	// used are the slots that are not free, gone those of them whose record was removed.
	used, gone int
	tags       []uint8
	slots      []*record
}

const (
	pageFirst, pageSize = 7, 224
	// pageBits bounds the number of pages; beyond it, they become larger.
	pageBits = 24
)

// A tag says what is in a slot: nothing, a record that was removed, or else a part of the hash.
const (
	tagFree uint8 = 0
	tagGone uint8 = 1
	tagUsed uint8 = 0x80
)

// indexSeed keeps whoever writes uuids from knowing which ones share a slot.
var indexSeed = maphash.MakeSeed()

func (id *uuid) hash() uint64 { return maphash.Bytes(indexSeed, id[:]) }

func newPage(bits uint8, size int) *page {
	return &page{bits: bits, tags: make([]uint8, size), slots: make([]*record, size)}
}

// at is the slot in which the search for a hash begins, and its tag.
func (p *page) at(hash uint64) (slot int, tag uint8) {
	const low = 1<<32 - 1
	slot = int(hash & low * uint64(len(p.slots)) >> 32)
	return slot, uint8(hash>>32&0x7f) | tagUsed
}

func (p *page) next(slot int) int {
	if slot++; slot < len(p.slots) {
		return slot
	}
	return 0
}

// full reports whether no other slot should be used: a search ends at a free one.
func (p *page) full() bool { return p.used >= len(p.slots)-len(p.slots)/8-1 }

func (x *index) len() int { return x.count }

func (x *index) page(hash uint64) *page { return x.pages[hash>>(64-x.bits)] }

// get returns the record of a uuid, nil if there is none.
func (x *index) get(id *uuid) *record {
	if x.count == 0 {
		return nil
	}
	hash := id.hash()
	p := x.page(hash)
	for slot, tag := p.at(hash); p.tags[slot] != tagFree; slot = p.next(slot) {
		if p.tags[slot] == tag && p.slots[slot].uuid == *id {
			return p.slots[slot]
		}
	}
	return nil
}

// add adds a record whose uuid is not in it.
func (x *index) add(r *record) {
	if x.pages == nil {
		x.pages = []*page{newPage(0, pageFirst)}
	}
	hash := r.uuid.hash()
	for x.page(hash).full() {
		x.makeRoom(hash)
	}
	x.page(hash).add(hash, r)
	x.count++
}

func (p *page) add(hash uint64, r *record) {
	slot, tag := p.at(hash)
	for p.tags[slot] > tagGone {
		slot = p.next(slot)
	}
	if p.tags[slot] == tagGone {
		p.gone--
	} else {
		p.used++
	}
	p.tags[slot], p.slots[slot] = tag, r
}

// remove removes a record that is in it.
func (x *index) remove(r *record) {
	hash := r.uuid.hash()
	p := x.page(hash)
	slot, _ := p.at(hash)
	for p.slots[slot] != r {
		slot = p.next(slot)
	}
	p.remove(slot)
	if x.count--; x.count == 0 {
		*x = index{} // pages are not given back one by one
	}
}

func (p *page) remove(slot int) {
	p.tags[slot], p.slots[slot] = tagGone, nil
	p.gone++
	if p.tags[p.next(slot)] != tagFree {
		return
	}
	for p.tags[slot] == tagGone { // no search has to go on here
		p.tags[slot] = tagFree
		p.used--
		p.gone--
		if slot--; slot < 0 {
			slot = len(p.slots) - 1
		}
	}
}

// makeRoom lets the page of a hash have a free slot, or halves what it is responsible for.
func (x *index) makeRoom(hash uint64) {
	p := x.page(hash)
	switch {
	case p.gone > len(p.slots)/4:
		p.refill(p.slots)
	case len(p.slots) < pageSize || p.bits >= pageBits:
		old := p.slots
		p.tags, p.slots = make([]uint8, 2*len(old)), make([]*record, 2*len(old))
		p.refill(old)
	default:
		x.split(hash)
	}
}

func (p *page) empty() {
	clear(p.tags)
	clear(p.slots)
	p.used, p.gone = 0, 0
}

// refill puts records into a page anew. They may be its own.
func (p *page) refill(records []*record) {
	var own [pageSize]*record
	all := append(own[:0], records...)
	p.empty()
	for _, r := range all {
		if r != nil {
			p.add(r.uuid.hash(), r)
		}
	}
}

// split makes two pages of the one of a hash, by its next bit.
func (x *index) split(hash uint64) {
	p := x.page(hash)
	if p.bits == x.bits {
		twice := make([]*page, 0, 2*len(x.pages))
		for _, both := range x.pages {
			twice = append(twice, both, both)
		}
		x.pages = twice
		x.bits++
	}
	p.bits++
	second := newPage(p.bits, len(p.slots))
	n := 1 << (x.bits - p.bits)
	half := int(hash>>(64-x.bits))&^(2*n-1) + n //nolint:gosec // less than the number of pages
	for i := range n {
		x.pages[half+i] = second
	}
	var own [pageSize]*record
	all := append(own[:0], p.slots...)
	p.empty()
	for _, r := range all {
		if r != nil {
			of := r.uuid.hash()
			x.page(of).add(of, r)
		}
	}
}

// each calls yield for all records until it returns false. Records may be removed meanwhile.
func (x *index) each(yield func(*record) bool) bool {
	pages, bits := x.pages, x.bits
	for i := 0; i < len(pages); {
		p := pages[i]
		for _, r := range p.slots {
			if r != nil && !yield(r) {
				return false
			}
		}
		i += 1 << (bits - p.bits)
	}
	return true
}
