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
	// hashes say what is in the slots. With them, a page is split without a look at its records, each of
	// which is somewhere else in memory.
	hashes []uint32
	slots  []*record
}

const (
	pageFirst, pageSize = 7, 224
	// pageBits bounds the number of pages; beyond it, they become larger.
	pageBits = 24
)

// These are in a slot instead of a hash if there is nothing, or if its record was removed.
const (
	hashFree uint32 = iota
	hashGone
	hashFirst
)

// indexSeed keeps whoever writes uuids from knowing which ones share a slot.
var indexSeed = maphash.MakeSeed()

// hash is at least hashFirst.
func (id *uuid) hash() uint32 {
	h := uint32(maphash.Bytes(indexSeed, id[:]) >> 32)
	return max(h, hashFirst)
}

func newPage(bits uint8, size int) *page {
	return &page{bits: bits, hashes: make([]uint32, size), slots: make([]*record, size)}
}

// at is the slot in which the search for a hash begins: by the bits that its records do not share.
func (p *page) at(hash uint32) int { return int(uint64(hash<<p.bits) * uint64(len(p.slots)) >> 32) }

func (p *page) next(slot int) int {
	if slot++; slot < len(p.slots) {
		return slot
	}
	return 0
}

// full reports whether no other slot should be used: a search ends at a free one.
func (p *page) full() bool { return p.used >= len(p.slots)-len(p.slots)/8-1 }

func (x *index) len() int { return x.count }

func (x *index) page(hash uint32) *page { return x.pages[hash>>(32-x.bits)] }

// get returns the record of a uuid with this hash, nil if there is none.
func (x *index) get(id *uuid, hash uint32) *record {
	if x.count == 0 {
		return nil
	}
	p := x.page(hash)
	for slot := p.at(hash); p.hashes[slot] != hashFree; slot = p.next(slot) {
		if p.hashes[slot] == hash && p.slots[slot].uuid == *id {
			return p.slots[slot]
		}
	}
	return nil
}

// add adds a record whose uuid has this hash, and is not in it.
func (x *index) add(r *record, hash uint32) {
	if x.pages == nil {
		x.pages = []*page{newPage(0, pageFirst)}
	}
	for x.page(hash).full() {
		x.makeRoom(hash)
	}
	x.page(hash).add(r, hash)
	x.count++
}

func (p *page) add(r *record, hash uint32) {
	slot := p.at(hash)
	for p.hashes[slot] > hashGone {
		slot = p.next(slot)
	}
	if p.hashes[slot] == hashGone {
		p.gone--
	} else {
		p.used++
	}
	p.hashes[slot], p.slots[slot] = hash, r
}

// remove removes a record that is in it.
func (x *index) remove(r *record) {
	hash := r.uuid.hash()
	p := x.page(hash)
	slot := p.at(hash)
	for p.slots[slot] != r {
		slot = p.next(slot)
	}
	p.remove(slot)
	if x.count--; x.count == 0 {
		*x = index{} // pages are not given back one by one
	}
}

func (p *page) remove(slot int) {
	p.hashes[slot], p.slots[slot] = hashGone, nil
	p.gone++
	if p.hashes[p.next(slot)] != hashFree {
		return
	}
	for p.hashes[slot] == hashGone { // no search has to go on here
		p.hashes[slot] = hashFree
		p.used--
		p.gone--
		if slot--; slot < 0 {
			slot = len(p.slots) - 1
		}
	}
}

// makeRoom lets the page of a hash have a free slot, or halves what it is responsible for.
func (x *index) makeRoom(hash uint32) {
	p := x.page(hash)
	switch {
	case p.gone > len(p.slots)/4:
		p.become(newPage(p.bits, len(p.slots)))
	case len(p.slots) < pageSize || p.bits >= pageBits:
		p.become(newPage(p.bits, 2*len(p.slots)))
	default:
		x.split(p, hash)
	}
}

// become moves all records into another page and takes its place.
func (p *page) become(other *page) {
	p.each(other.add)
	*p = *other
}

// each calls yield for all records of a page.
func (p *page) each(yield func(*record, uint32)) {
	for slot, r := range p.slots {
		if r != nil {
			yield(r, p.hashes[slot])
		}
	}
}

// split makes two pages of the one of a hash, by its next bit.
func (x *index) split(p *page, hash uint32) {
	if p.bits == x.bits {
		twice := make([]*page, 0, 2*len(x.pages))
		for _, both := range x.pages {
			twice = append(twice, both, both)
		}
		x.pages = twice
		x.bits++
	}
	old := *p
	*p = *newPage(old.bits+1, len(old.slots))
	second := newPage(p.bits, len(p.slots))
	n := 1 << (x.bits - p.bits)
	half := int(hash>>(32-x.bits))&^(2*n-1) + n
	for i := range n {
		x.pages[half+i] = second
	}
	old.each(func(r *record, of uint32) { x.page(of).add(r, of) })
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
