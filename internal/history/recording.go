package history

import (
	"context"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// RecordKeep is for how long single attempts are kept, and recordLimit bounds what they take in the
	// file, in bytes.
	RecordKeep  = 24 * time.Hour
	recordLimit = 32 << 20
	// attemptsLimit bounds the attempts that are kept of one interval.
	attemptsLimit = 50_000
	// recordUnit is how exact their times are.
	recordUnit = 100 * time.Microsecond
)

// recordBucket has the single attempts of each interval.
var recordBucket = []byte("attempts")

// Attempt is one attempt that was sent and has ended.
type Attempt struct {
	Series

	Priority int32
	Outcome  Outcome
	End      time.Time
	// Wait is the time from the job's creation, or its eta, to its request, and Run the time from then on.
	Wait, Run time.Duration
}

// Sent is when its request was sent, and Ready since when it could have been.
func (a *Attempt) Sent() time.Time { return a.End.Add(-a.Run) }

// Ready is since when it could have been sent.
func (a *Attempt) Ready() time.Time { return a.Sent().Add(-a.Wait) }

// attempt is one in memory.
type attempt struct {
	end       int64 // nanoseconds since the Unix epoch
	wait, run time.Duration
	series    uint32
	priority  int32
	outcome   Outcome
}

// recording is the attempts of one interval.
type recording struct {
	list   []attempt
	series []Series
	known  map[Series]uint32
	// missing counts those that did not fit.
	missing uint64
}

func (r *recording) add(n *note) {
	switch {
	case n.wait <= 0 || n.run <= 0 || n.outcome == NotRun:
		return // it was not sent, or since when it runs is not known
	case len(r.list) >= attemptsLimit:
		r.missing++
		return
	}
	series := n.series
	if !permitted(series.Model, series.Method) {
		series.Model, series.Method = "", Other
	}
	i, ok := r.known[series]
	if !ok {
		if len(r.series) >= seriesLimit || !permitted(series.Channel, series.Database) {
			r.missing++
			return
		}
		if r.known == nil {
			r.known = make(map[Series]uint32)
		}
		i = uint32(len(r.series)) //nolint:gosec // it is below seriesLimit
		r.known[series] = i
		r.series = append(r.series, series)
	}
	r.list = append(r.list, attempt{end: n.at, wait: n.wait, run: n.run, series: i, priority: n.priority, outcome: n.outcome})
}

// merge adds the attempts of another recording of the same interval.
func (r *recording) merge(o *recording) {
	r.missing = plus(r.missing, o.missing)
	for i := range o.list {
		a := &o.list[i]
		r.add(&note{at: a.end, wait: a.wait, run: a.run, series: o.series[a.series], priority: a.priority, outcome: a.outcome})
	}
}

// encode writes the recording as a block. begin is that of its interval.
func (r *recording) encode(begin time.Time) ([]byte, error) {
	e := encoder{known: make(map[string]uint64)}
	e.number(r.missing)
	e.number(uint64(len(r.series)))
	for i := range r.series {
		e.series(&r.series[i])
	}
	e.number(uint64(len(r.list)))
	last := begin.UnixNano()
	for i := range r.list {
		a := &r.list[i]
		// The sign is for a clock that was set back.
		step := (a.end - last) / int64(recordUnit)
		last += step * int64(recordUnit)
		e.signed(step)
		e.number(uint64(a.series))
		e.number(uint64(max(a.wait/recordUnit, 1)))
		e.number(uint64(max(a.run/recordUnit, 1)))
		e.signed(int64(a.priority))
		e.number(uint64(a.outcome))
	}
	return e.seal()
}

// signed writes a number that may be negative.
func (e *encoder) signed(n int64) { e.number(uint64(n)<<1 ^ uint64(n>>63)) } //nolint:gosec // zigzag

func (d *decoder) signed() int64 {
	n := d.number()
	return int64(n>>1) ^ -int64(n&1)
}

// units reads a time of a recording.
func (d *decoder) units() time.Duration {
	return time.Duration(min(d.number(), uint64(1<<62)/uint64(recordUnit))) * recordUnit
}

// decodeRecording reads a recording of the interval that begins at a time.
func decodeRecording(block []byte, begin time.Time) (*recording, error) {
	d, err := open(block)
	if err != nil {
		return nil, err
	}
	r := &recording{missing: d.number(), known: make(map[Series]uint32)}
	for range d.count(seriesLimit) {
		s := d.series()
		r.known[s] = uint32(len(r.series)) //nolint:gosec // a block is not that large
		r.series = append(r.series, s)
	}
	last := begin.UnixNano()
	for range d.count(attemptsLimit) {
		last += d.signed() * int64(recordUnit)
		n, wait, run, priority, outcome := d.number(), d.units(), d.units(), d.signed(), d.number()
		if n >= uint64(len(r.series)) || outcome >= uint64(outcomes) || priority != int64(int32(priority)) { //nolint:gosec // that is the question
			d.err = errMalformed
		}
		if d.err != nil {
			return nil, d.err
		}
		r.list = append(r.list, attempt{end: last, wait: wait, run: run, series: uint32(n), priority: int32(priority), outcome: Outcome(outcome)}) //nolint:gosec // checked above
	}
	return r, d.err
}

// record adds the attempts of an interval to those that the file has, and removes what is too old or too
// much.
func (iv *interval) record(b *bolt.Bucket, now time.Time) error {
	begin := iv.begin()
	r := &iv.recording
	if old := b.Get(keyOf(begin)); old != nil {
		if sum, err := decodeRecording(old, begin); err == nil {
			sum.merge(r)
			r = sum
		}
	}
	if len(r.list) > 0 || r.missing > 0 {
		block, err := r.encode(begin)
		if err == nil {
			err = b.Put(keyOf(begin), block)
		}
		if err != nil {
			return fmt.Errorf("writing the attempts: %w", err)
		}
	}
	size := 0
	err := b.ForEach(func(_, block []byte) error { size += len(block); return nil })
	if err == nil {
		err = drop(b, now.Add(-RecordKeep), trimLimit)
	}
	if err == nil && size > recordLimit {
		err = drop(b, now, trimLimit)
	}
	if err != nil {
		return fmt.Errorf("removing old attempts: %w", err)
	}
	return nil
}

// Recording is the attempts that ended in a time.
type Recording struct {
	// Attempts are in the order of their ends.
	Attempts []Attempt
	// Known is since when there is a recording; zero if there is none.
	Known time.Time
	// Missing counts attempts that ended in that time and were too many to be kept, or of which nothing can be read.
	Missing uint64
}

// Recording returns the attempts that ended between two times, as far as they are kept. It fails if ctx
// ends, or if the file cannot be read.
func (l *Log) Recording(ctx context.Context, from, to time.Time) (*Recording, error) {
	release, err := l.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	out := new(Recording)
	take := func(r *recording, begin time.Time) {
		if out.Known.IsZero() || begin.Before(out.Known) {
			out.Known = begin
		}
		if begin.Add(Step).Before(from) || !begin.Before(to) {
			return
		}
		out.Missing = plus(out.Missing, r.missing)
		for i := range r.list {
			a := &r.list[i]
			if end := time.Unix(0, a.end).UTC(); !end.Before(from) && end.Before(to) {
				out.Attempts = append(out.Attempts, Attempt{Series: r.series[a.series], Priority: a.priority, Outcome: a.outcome, End: end, Wait: a.wait, Run: a.run})
			}
		}
	}
	if err := l.readRecording(ctx, from, to, out, take); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for iv := range l.unwritten {
		take(&iv.recording, iv.begin())
	}
	slices.SortStableFunc(out.Attempts, func(a, b Attempt) int { return a.End.Compare(b.End) })
	return out, nil
}

// readRecording hands on what the file has; the caller has the turn.
func (l *Log) readRecording(ctx context.Context, from, to time.Time, out *Recording, take func(*recording, time.Time)) error {
	if written, err := l.openWritten(); err != nil || !written {
		return err
	}
	first := true
	err := l.file.store.scan(recordBucket, time.Unix(0, 0), to, func(begin time.Time, block []byte) error {
		if first || !begin.Add(Step).Before(from) {
			first = false
			if r, err := decodeRecording(block, begin); err == nil {
				take(r, begin)
			} else {
				out.Missing++
			}
		}
		return ctx.Err()
	})
	if ctx.Err() != nil {
		return fmt.Errorf("reading the history: %w", context.Cause(ctx))
	}
	l.damaged(err)
	return err
}
