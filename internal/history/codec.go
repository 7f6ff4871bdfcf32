package history

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// errMalformed is what reading a block ends with that was not written by this code.
var errMalformed = errors.New("malformed block of the history")

const (
	// blockLimit bounds what a block may hold uncompressed, in bytes.
	blockLimit = 64 << 20
	// seriesMost and failuresMost are how many a table has at most, and namesMost how many names those
	// have. A block that tells of more was not written by this code, and could take all memory.
	seriesMost   = seriesLimit + databaseLimit + 1
	failuresMost = failuresLimit + databaseLimit + 1
	namesMost    = 4*seriesMost + 5*failuresMost
)

// encoder writes numbers of variable length, and names by their place in a list.
type encoder struct {
	out   []byte
	names []string
	known map[string]uint64
}

func (e *encoder) number(n uint64) { e.out = binary.AppendUvarint(e.out, n) }

func (e *encoder) duration(d time.Duration) { e.number(uint64(max(d, 0) / time.Microsecond)) }

func (e *encoder) name(s string) {
	i, ok := e.known[s]
	if !ok {
		i = uint64(len(e.names))
		e.known[s] = i
		e.names = append(e.names, s)
	}
	e.number(i)
}

func (e *encoder) series(s *Series) {
	for _, name := range []string{s.Database, s.Channel, s.Model, s.Method} {
		e.name(name)
	}
}

// latencies writes the buckets that are not empty.
func (e *encoder) latencies(l *Latencies) {
	used := uint64(0)
	for _, n := range l {
		if n > 0 {
			used++
		}
	}
	e.number(used)
	step := uint64(0)
	for _, n := range l {
		if n > 0 {
			e.number(step)
			e.number(n)
			step = 0
		}
		step++
	}
}

// seal returns the block: the names, and what was written, compressed.
func (e *encoder) seal() ([]byte, error) {
	var head encoder
	head.number(uint64(len(e.names)))
	for _, name := range e.names {
		head.number(uint64(len(name)))
		head.out = append(head.out, name...)
	}
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		return nil, fmt.Errorf("compressing a block of the history: %w", err)
	}
	_, first := w.Write(head.out)
	_, second := w.Write(e.out)
	if err := errors.Join(first, second, w.Close()); err != nil {
		return nil, fmt.Errorf("compressing a block of the history: %w", err)
	}
	return b.Bytes(), nil
}

// encode writes a table as a block.
func (t *table) encode() ([]byte, error) {
	e := encoder{known: make(map[string]uint64)}
	e.number(t.attempts)
	e.number(uint64(len(t.series)))
	order := make([]Series, 0, len(t.series))
	for s := range t.series {
		order = append(order, s)
	}
	slices.SortFunc(order, compareSeries) // similar ones beside each other are compressed better
	for _, s := range order {
		sums := t.series[s]
		e.series(&s)
		for _, n := range sums.Outcomes {
			e.number(n)
		}
		e.latencies(&sums.Wait)
		e.latencies(&sums.Run)
		e.duration(sums.WaitTotal)
		e.duration(sums.RunTotal)
		e.duration(sums.RunMost)
	}
	e.failures(&t.failures)
	return e.seal()
}

// failures come last, so that a version that does not know them reads what is before.
func (e *encoder) failures(f *failures) {
	e.number(uint64(len(f.of)))
	order := make([]Failure, 0, len(f.of))
	for x := range f.of {
		order = append(order, x)
	}
	slices.SortFunc(order, func(a, b Failure) int {
		return cmp.Or(compareSeries(a.Series, b.Series), strings.Compare(a.Exception, b.Exception))
	})
	for _, x := range order {
		e.series(&x.Series)
		e.name(x.Exception)
		e.number(f.of[x])
	}
}

func compareSeries(a, b Series) int {
	for _, pair := range [][2]string{{a.Database, b.Database}, {a.Channel, b.Channel}, {a.Model, b.Model}, {a.Method, b.Method}} {
		if c := strings.Compare(pair[0], pair[1]); c != 0 {
			return c
		}
	}
	return 0
}

// decoder reads what an encoder has written. The first mistake ends it.
type decoder struct {
	in    []byte
	names []string
	err   error
}

// open reads a block up to where its numbers begin.
func open(block []byte) (*decoder, error) {
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(block)), blockLimit+1))
	if err != nil || len(raw) > blockLimit {
		return nil, fmt.Errorf("%w: %d bytes, %v", errMalformed, len(raw), err) //nolint:errorlint // one error is enough to tell
	}
	d := &decoder{in: raw}
	for range d.count(namesMost) {
		n := d.number()
		if n > nameLimit || n > uint64(len(d.in)) {
			return nil, errMalformed
		}
		d.names = append(d.names, string(d.in[:n]))
		d.in = d.in[n:]
	}
	return d, d.err
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint(d.in)
	if size <= 0 {
		d.in, d.err = nil, errMalformed
		return 0
	}
	d.in = d.in[size:]
	return n
}

// count reads how many things follow, of which there are no more than most.
func (d *decoder) count(most uint64) uint64 {
	n := d.number()
	if n > most {
		d.in, d.err = nil, errMalformed
		return 0
	}
	return n
}

func (d *decoder) duration() time.Duration {
	n := d.number()
	if n > uint64(1<<63-1)/uint64(time.Microsecond) {
		return 1<<63 - 1
	}
	return time.Duration(n) * time.Microsecond
}

func (d *decoder) name() string {
	i := d.number()
	if i >= uint64(len(d.names)) {
		d.in, d.err = nil, errMalformed
		return ""
	}
	return d.names[i]
}

func (d *decoder) series() Series {
	return Series{Database: d.name(), Channel: d.name(), Model: d.name(), Method: d.name()}
}

func (d *decoder) latencies(l *Latencies) {
	at := uint64(0)
	for range d.count(latencyBuckets) {
		step, n := d.number(), d.number()
		if step >= latencyBuckets || at+step >= latencyBuckets {
			d.in, d.err = nil, errMalformed
			return
		}
		at += step
		l[at] = plus(l[at], n)
	}
}

// decode reads a table, handing on each series, and each kind of failure. It stops at the first mistake,
// which it returns.
func decode(block []byte, see func(s Series, sums *Sums), failed func(f Failure, n uint64)) (folded uint64, err error) {
	d, err := open(block)
	if err != nil {
		return 0, err
	}
	folded = d.number()
	for range d.count(seriesMost) {
		var sums Sums
		s := d.series()
		for i := range sums.Outcomes {
			sums.Outcomes[i] = d.number()
		}
		d.latencies(&sums.Wait)
		d.latencies(&sums.Run)
		sums.WaitTotal, sums.RunTotal, sums.RunMost = d.duration(), d.duration(), d.duration()
		if d.err != nil {
			return folded, d.err
		}
		see(s, &sums)
	}
	if len(d.in) == 0 { // of a version that did not count failures
		return folded, d.err
	}
	for range d.count(failuresMost) {
		f := Failure{d.series(), d.name()}
		n := d.number()
		if d.err != nil {
			return folded, d.err
		}
		failed(f, n)
	}
	return folded, d.err
}
