// Package history remembers what became of the jobs of each runner: how many attempts ended and how, how
// long jobs waited and ran, by database, channel and function. It keeps that in a file on this machine,
// in intervals of five minutes for two days and of an hour for as long as it is told, and never in the
// databases of the application. Whatever is wrong with the file, jobs run.
package history

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

const (
	// foldDelay is for how long ends of attempts are collected before they are counted.
	foldDelay = time.Second
	// notesLimit bounds what is collected. Beyond it, attempts are not counted, which is told.
	notesLimit = 4096
	// pendingLimit bounds the intervals that wait to be written.
	pendingLimit = 12
	// retryInterval is the time between two attempts at writing what could not be written.
	retryInterval = time.Minute
	// asideInterval is the least time between two files that are put aside, and asideLimit how many of
	// them are kept.
	asideInterval = time.Hour
	asideLimit    = 3
	fileName      = "history.db"
)

// KeepDefault is for how long hours are kept unless the configuration says otherwise.
const KeepDefault = 90 * 24 * time.Hour

// Options are what a configuration says of a history.
type Options struct {
	// Dir is the directory of the file; each runner has its own.
	Dir string
	// Keep is for how long hours are kept. Default: [KeepDefault].
	Keep time.Duration
	// Policies are those whose objectives are counted.
	Policies []policy.Policy
	// Logger gets what is wrong with the file.
	Logger *zap.Logger
	// Tell gets [runner.EventObjectiveBurns] and [runner.EventObjectiveKept], one at a time. Default: they are
	// not told.
	Tell func(runner.Event)
}

// Log is the history of one runner.
type Log struct {
	name string
	now  func() time.Time

	notes notes
	// wake is signalled when there are notes, and due when an interval has to be written.
	wake, due chan struct{}
	stop      chan struct{}
	ended     sync.WaitGroup
	// turn is held, by whoever has put something into it, while the file is read or written.
	turn chan struct{}

	// file is for who holds the turn.
	file struct {
		store   *store
		asideAt time.Time
	}

	mu      sync.Mutex // guards the following
	options Options
	present *interval
	pending []*interval
	// complaint is what is wrong with the file, and aside where one was put that could not be used.
	complaint, aside string
	lost             uint64
	objectives       objectives
}

// interval is what ended in one interval of the shortest length.
type interval struct {
	number int64 // since the Unix epoch
	*table

	recording recording
}

func number(at time.Time) int64 { return at.Unix() / int64(Step/time.Second) }

// begin is when the interval begins.
func (iv *interval) begin() time.Time { return time.Unix(iv.number*int64(Step/time.Second), 0).UTC() }

// notes are ends of attempts that have not been counted yet.
type notes struct {
	mu    sync.Mutex // guards the following, for moments only, because the loops of the runners wait for it
	list  []note
	spare []note
	lost  uint64
}

// put adds a note, and reports whether somebody has to be woken.
func (n *notes) put(x note) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.list) == notesLimit {
		n.lost++
		return true
	}
	n.list = append(n.list, x)
	return len(n.list) == 1 || len(n.list) == notesLimit/2
}

// take returns all notes. They are valid until the next take.
func (n *notes) take() (list []note, lost uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list, lost = n.list, n.lost
	n.list, n.spare, n.lost = n.spare[:0], list, 0
	return list, lost
}

// full reports whether they must not wait.
func (n *notes) full() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.list) >= notesLimit/2
}

// logs are the histories of this process by the runners' names. They are global because the runners tell
// what happens whatever configuration is in force.
var logs atomic.Pointer[map[string]*Log]

// registering is held while the table of histories is replaced.
var registering sync.Mutex

func register(name string, from, to *Log) {
	registering.Lock()
	defer registering.Unlock()
	next := make(map[string]*Log)
	if old := logs.Load(); old != nil {
		maps.Copy(next, *old)
	}
	switch {
	case to != nil:
		next[name] = to
	case next[name] == from:
		delete(next, name)
	}
	logs.Store(&next)
}

// Observe counts the end of an attempt, a moment later. It neither blocks nor allocates.
func Observe(ev runner.Event) {
	outcome, ok := outcomeOf(ev.Kind)
	if !ok {
		return
	}
	all := logs.Load()
	if all == nil {
		return
	}
	l := (*all)[ev.Runner]
	if l == nil {
		return
	}
	n := note{at: ev.Time.UnixNano(), outcome: outcome, series: Series{ev.Database, ev.Channel, ev.Model, ev.Method}, run: ev.Run, priority: ev.Priority, exception: ev.Exception}
	if ev.Waited() {
		n.wait = ev.Wait
	}
	if l.notes.put(n) {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Start begins the history of a runner. It goes on with the file that is there.
func Start(name string, o Options) *Log {
	l := newLog(name, o, time.Now)
	register(name, nil, l)
	l.ended.Go(func() { l.guarded(l.fold) })
	l.ended.Go(func() { l.guarded(l.save) })
	return l
}

func newLog(name string, o Options, now func() time.Time) *Log {
	l := &Log{
		name: name, now: now, options: o, wake: make(chan struct{}, 1), due: make(chan struct{}, 1), stop: make(chan struct{}),
		turn: make(chan struct{}, 1),
		// So that no note ever allocates.
		notes: notes{list: make([]note, 0, notesLimit), spare: make([]note, 0, notesLimit)},
	}
	l.objectives.configure(o.Policies)
	return l
}

// guarded runs a goroutine of the history. A panic ends the history, and nothing else.
func (l *Log) guarded(f func()) {
	if err := guard.Call(func() error { f(); return nil }); err != nil {
		l.logger().Error("the history has ended", zap.Error(err))
	}
}

// Configure puts other options into force.
func (l *Log) Configure(o Options) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.options = o
	l.objectives.configure(o.Policies)
}

// Stop ends the history: what is known is written, in the background.
func (l *Log) Stop() {
	register(l.name, l, nil)
	close(l.stop)
}

// Wait waits until a history that was stopped has been written.
func (l *Log) Wait() { l.ended.Wait() }

func (l *Log) logger() *zap.Logger {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.options.Logger
}

// fold counts what is noted, until the history ends.
func (l *Log) fold() {
	defer close(l.due)
	timer := time.NewTimer(Step)
	defer timer.Stop()
	for ended := false; !ended; {
		timer.Reset(l.beat(l.now()))
		select {
		case <-l.wake:
			ended = l.collect()
		case <-timer.C:
		case <-l.stop:
			ended = true
		}
		l.count()
		l.watch()
		l.closeInterval(ended)
	}
}

// collect waits a moment for more, and reports whether the history has ended meanwhile.
func (l *Log) collect() (ended bool) {
	timer := time.NewTimer(foldDelay)
	defer timer.Stop()
	for !l.notes.full() {
		select {
		case <-timer.C:
			return false
		case <-l.wake:
		case <-l.stop:
			return true
		}
	}
	return false
}

// count takes in what is noted.
func (l *Log) count() {
	list, lost := l.notes.take()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost += lost
	for i := range list {
		n := number(time.Unix(0, list[i].at))
		// Also when the clock has been set back: the file adds to what it has of that time.
		if l.present != nil && l.present.number != n {
			l.hold(l.present)
			l.present = nil
		}
		if l.present == nil {
			l.present = &interval{number: n, table: newTable()}
		}
		l.present.add(&list[i])
		l.present.recording.add(&list[i])
		l.objectives.add(&list[i])
	}
	clear(list) // its texts belong to others
}

// hold keeps an interval that is over until it is written; the caller holds mu.
func (l *Log) hold(iv *interval) {
	for _, p := range l.pending {
		if p.number == iv.number {
			p.merge(iv.table)
			p.recording.merge(&iv.recording)
			return
		}
	}
	l.pending = append(l.pending, iv)
	slices.SortFunc(l.pending, func(a, b *interval) int { return cmp.Compare(a.number, b.number) })
	if len(l.pending) > pendingLimit {
		for _, sums := range l.pending[0].series {
			l.lost += sums.Attempts()
		}
		l.pending = slices.Delete(l.pending, 0, 1)
	}
}

// closeInterval has the present interval written if it is over, or if nothing will come any more.
func (l *Log) closeInterval(ended bool) {
	l.mu.Lock()
	if l.present != nil && (ended || l.present.number != number(l.now())) {
		l.hold(l.present)
		l.present = nil
	}
	waits := len(l.pending) > 0
	l.mu.Unlock()
	if waits {
		select {
		case l.due <- struct{}{}:
		default:
		}
	}
}

// save writes what is over, until the history ends.
func (l *Log) save() {
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for open := true; open; {
		select {
		case _, open = <-l.due:
		case <-retry.C:
		}
		l.turn <- struct{}{}
		l.write()
		if !open && l.file.store != nil {
			l.file.store.close()
			l.file.store = nil
		}
		<-l.turn
	}
}

// write writes all that is over; the caller has the turn.
func (l *Log) write() {
	for {
		l.mu.Lock()
		if len(l.pending) == 0 {
			l.mu.Unlock()
			return
		}
		// Out of the list, because others add to what is in there.
		iv, o := l.pending[0], l.options
		l.pending = slices.Delete(l.pending, 0, 1)
		l.mu.Unlock()
		err := l.open()
		if err == nil {
			err = l.file.store.write(iv, o.keep(), l.now())
			l.damaged(err)
		}
		l.complain(err)
		if err != nil {
			l.mu.Lock()
			l.hold(iv)
			l.mu.Unlock()
			return
		}
	}
}

func (o *Options) keep() time.Duration {
	if o.Keep == 0 {
		return KeepDefault
	}
	return o.Keep
}

func (l *Log) path() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return filepath.Join(l.options.Dir, l.name, fileName)
}

// open opens the file unless it is open; the caller has the turn. A file that cannot be used is put aside.
func (l *Log) open() (err error) {
	if l.file.store != nil {
		return nil
	}
	path := l.path()
	l.file.store, err = openStore(path)
	if !errors.Is(err, errCorrupt) && !errors.Is(err, errNewer) {
		return err
	}
	if !l.putAside(path, err) {
		return err
	}
	l.file.store, err = openStore(path)
	return err
}

// openWritten is open for what only reads: it makes no file, and reports whether there is one.
func (l *Log) openWritten() (written bool, err error) {
	if l.file.store == nil {
		if _, err := os.Stat(l.path()); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
	}
	return true, l.open()
}

// unwritten goes through the intervals that are not in the file; the caller holds mu.
func (l *Log) unwritten(yield func(*interval) bool) {
	for _, iv := range l.pending {
		if !yield(iv) {
			return
		}
	}
	if l.present != nil {
		yield(l.present)
	}
}

// damaged closes a file that has turned out to be so. It is put aside when it is opened again; one that
// opens and cannot be read is put aside at once.
func (l *Log) damaged(err error) {
	if err == nil || !errors.Is(err, errCorrupt) {
		return
	}
	l.file.store.close()
	l.file.store = nil
	l.putAside(l.path(), err)
}

// putAside gives a file that cannot be used another name, and reports whether it has.
func (l *Log) putAside(path string, why error) bool {
	now := l.now()
	if !l.file.asideAt.IsZero() && now.Sub(l.file.asideAt).Abs() < asideInterval {
		return false
	}
	l.file.asideAt = now
	word := "corrupt"
	if errors.Is(why, errNewer) {
		word = "newer"
	}
	to := fmt.Sprintf("%s.%s-%s", path, word, now.UTC().Format("20060102T150405Z"))
	if err := os.Rename(path, to); err != nil {
		l.logger().Error("the history cannot be used, nor put aside", zap.String("file", path), zap.NamedError("cause", why), zap.Error(err))
		return false
	}
	l.logger().Error("the history cannot be used: it was put aside, and begins anew", zap.String("file", path), zap.String("aside", to), zap.Error(why))
	l.mu.Lock()
	l.aside = to
	l.mu.Unlock()
	// Of damaged ones, only the last few are worth their space. A newer one is for its own version.
	old, _ := filepath.Glob(path + ".corrupt-*") // the pattern is valid
	slices.Sort(old)
	for len(old) > asideLimit {
		_ = os.Remove(old[0]) // it is tried again with the next one
		old = old[1:]
	}
	return true
}

// complain remembers what is wrong with the file, and logs it once.
func (l *Log) complain(err error) {
	text := ""
	if err != nil {
		text, _, _ = strings.Cut(err.Error(), "\n")
	}
	l.mu.Lock()
	before, log := l.complaint, l.options.Logger
	l.complaint = text
	l.mu.Unlock()
	switch {
	case text == before:
	case text == "":
		log.Info("the history is written again")
	default:
		log.Error("the history cannot be written now, the last hour is kept in memory", zap.Error(err))
	}
}
