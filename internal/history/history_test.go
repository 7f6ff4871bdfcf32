package history

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// start is when most tests begin.
var start = time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)

// book is a history whose steps the test takes, by a clock that the test sets.
type book struct {
	*Log

	t    testing.TB
	at   time.Time
	said *observer.ObservedLogs
}

func newBook(t testing.TB, dir string) *book {
	t.Helper()
	core, said := observer.New(zap.InfoLevel)
	b := &book{t: t, at: start, said: said}
	b.Log = newLog("default", Options{Dir: dir, Logger: zap.New(core)}, func() time.Time { return b.at })
	t.Cleanup(b.shut)
	return b
}

// ends notes ends of attempts in a series, now.
func (b *book) ends(n int, outcome Outcome, s Series) {
	for range n {
		b.notes.put(note{at: b.at.UnixNano(), outcome: outcome, series: s, wait: 2 * time.Second, run: time.Second})
	}
}

// save writes everything, also what is not over.
func (b *book) save() {
	b.t.Helper()
	b.count()
	b.closeInterval(true)
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	b.Log.write()
}

func (b *book) shut() {
	if b.file.store != nil {
		b.file.store.close()
		b.file.store = nil
	}
}

// ask answers a query that must be possible.
func (b *book) ask(q Query) *Result {
	b.t.Helper()
	b.count()
	r, err := b.Query(b.t.Context(), q)
	require.NoError(b.t, err)
	return r
}

var mail = Series{"prod", "root.mail", "mail.mail", "send"}

// TestHistorySurvivesARestart: what was written is answered by the next process, with what is not
// written yet.
func TestHistorySurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	b := newBook(t, dir)
	b.ends(3, Done, mail)
	b.ends(1, Failed, Series{"prod", "root.mail.big", "mail.mail", "send"})
	b.ends(2, Retried, Series{"test", "root", "res.partner", "merge"})
	b.save()
	b.at = b.at.Add(20 * time.Minute)
	b.ends(4, Done, mail)
	b.save()
	b.shut()

	b = newBook(t, dir)
	b.at = start.Add(25 * time.Minute)
	b.ends(5, Done, mail)
	for _, q := range []Query{
		{From: start, Step: Step}, {From: start.Add(-time.Hour), Step: LongStep}, {From: start.Add(-60 * 24 * time.Hour)}, {},
	} {
		r := b.ask(q)
		require.EqualValues(t, 12, r.Total.Outcomes[Done], "%+v", q)
		require.EqualValues(t, 1, r.Total.Outcomes[Failed])
		require.EqualValues(t, 15, r.Total.Run.Count())
		require.Equal(t, 30*time.Second, r.Total.WaitTotal)
		require.Equal(t, start, r.Known)
		sum := uint64(0)
		for _, p := range r.Points {
			sum += p.Attempts()
		}
		require.EqualValues(t, 15, sum, "every attempt is in a point")
		require.Equal(t, []string{"mail.mail.send", "res.partner.merge"}, []string{r.Groups[0].Name, r.Groups[1].Name})
	}
	r := b.ask(Query{From: start, Step: Step})
	require.Equal(t, start, r.Points[0].Begin)
	require.EqualValues(t, 6, r.Points[0].Attempts())
	require.EqualValues(t, 4, r.Points[4].Attempts())
	require.EqualValues(t, 13, b.ask(Query{Channel: "root.mail"}).Total.Attempts(), "with those below")
	require.EqualValues(t, 2, b.ask(Query{Database: "test", By: ByDatabase}).Total.Attempts())
	require.EqualValues(t, 13, b.ask(Query{Function: "mail.*"}).Total.Attempts())
	require.Equal(t, "prod", b.ask(Query{By: ByDatabase}).Groups[0].Name)
	require.Equal(t, "root.mail", b.ask(Query{By: ByChannel}).Groups[0].Name)
	require.Zero(t, b.said.Len())
}

// TestBadQueries: what cannot be asked is refused, with what is wrong.
func TestBadQueries(t *testing.T) {
	b := newBook(t, t.TempDir())
	for says, q := range map[string]Query{
		"before it begins":   {From: start.Add(time.Hour)},
		"multiple":           {Step: 7 * time.Minute},
		"beyond an hour":     {Step: 90 * time.Minute},
		"below an hour":      {From: start.Add(-72 * time.Hour), Step: Step},
		"more than 2000":     {From: start.Add(-400 * 24 * time.Hour), Step: LongStep},
		`"[" is no glob`:     {Function: "["},
		"multiple of 5m0s, ": {Step: -Step},
	} {
		_, err := b.Query(t.Context(), q)
		require.ErrorIs(t, err, ErrQuery)
		require.ErrorContains(t, err, says)
	}
	b.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Query(ctx, Query{})
	require.ErrorIs(t, err, context.Canceled, "it does not wait for a disk that hangs")
	<-b.turn
	require.NoFileExists(t, b.path(), "a question makes no file")
}

// TestHostileNames: names from databases neither grow what is kept, nor do they take the place of other
// databases; no attempt is lost.
func TestHostileNames(t *testing.T) {
	b := newBook(t, t.TempDir())
	for i := range 3 * seriesQuota {
		b.ends(1, Done, Series{"evil", fmt.Sprint("root.c", i), "m", "f"})
	}
	b.count()
	require.Len(t, b.present.series, seriesQuota+1)
	for i := range 3 * databaseLimit {
		b.ends(1, Done, Series{fmt.Sprint("d", i), "root", "m", "f"})
		b.count()
	}
	b.ends(1, Done, Series{"prod", strings.Repeat("x", nameLimit+1), "m", "f"})
	b.ends(1, Done, Series{"prod", "\xff", "m", "f"})
	b.ends(1, Done, Series{"\xff", "root", "m", "f"})
	b.ends(1, Done, Series{"", "root", "m", "f"})
	b.count()
	require.LessOrEqual(t, len(b.present.series), seriesLimit+databaseLimit+1)
	all := uint64(3*seriesQuota + 3*databaseLimit + 4)
	for range 2 { // in memory, and in the file
		r := b.ask(Query{})
		require.Equal(t, all, r.Total.Attempts())
		require.Positive(t, r.Folded)
		require.EqualValues(t, 3*seriesQuota, b.ask(Query{Database: "evil"}).Total.Attempts(), "its own stay its own")
		require.EqualValues(t, 2*seriesQuota, b.ask(Query{Database: "evil", Channel: Other}).Total.Attempts())
		b.save()
	}
	// An hour of many intervals has no more series than one interval.
	for i := range 3 {
		b.at = start.Add(time.Duration(i) * Step)
		for j := range seriesLimit {
			b.ends(1, Done, Series{fmt.Sprint("d", j%100), fmt.Sprint("root.", i, ".", j), "m", "f"})
			if j%1000 == 999 {
				b.count()
			}
		}
		b.save()
	}
	n := 0
	require.NoError(t, b.file.store.scan(coarseBucket, start, start.Add(time.Minute), func(_ time.Time, block []byte) error {
		_, err := decode(block, func(Series, *Sums) { n++ }, func(Failure, uint64) {})
		return err
	}))
	require.LessOrEqual(t, n, seriesLimit+databaseLimit+1)
	require.Equal(t, all+3*seriesLimit, b.ask(Query{From: start.Add(-time.Minute), Step: LongStep}).Total.Attempts())
}

// TestClockSteps: a clock that is set forward and back costs nothing that is there, and the rest is where
// its own time was.
func TestClockSteps(t *testing.T) {
	b := newBook(t, t.TempDir())
	for i := range 48 { // two days
		b.at = start.Add(time.Duration(i) * time.Hour)
		b.ends(1, Done, mail)
		b.save()
	}
	now := b.at
	b.at = now.Add(20 * 365 * 24 * time.Hour) // for a while
	b.ends(1, Done, mail)
	b.save()
	b.at = now.Add(-30 * time.Minute) // the same hour as one that is written
	b.ends(5, Done, mail)
	b.count()
	b.at = now
	b.ends(2, Done, mail)
	b.count() // the interval has changed in between
	b.save()
	r := b.ask(Query{From: start, To: now.Add(time.Hour), Step: LongStep})
	require.GreaterOrEqual(t, r.Total.Attempts(), uint64(48-trimLimit+7))
	require.EqualValues(t, 6, r.Points[46].Attempts())
	require.EqualValues(t, 3, r.Points[47].Attempts())
	b.at = time.Unix(0, 0) // a machine without a battery
	b.ends(1, Done, mail)
	b.save()
	b.at = now
	require.GreaterOrEqual(t, b.ask(Query{From: start, To: now.Add(time.Hour), Step: LongStep}).Total.Attempts(), uint64(48-trimLimit+7))
	require.Zero(t, b.said.Len())
}

// TestOldHistoryGoes: hours go when they are older than is asked for, intervals of five minutes after two
// days, and the oldest hours when the file is full.
func TestOldHistoryGoes(t *testing.T) {
	b := newBook(t, t.TempDir())
	b.options.Keep = 72 * time.Hour
	for i := range 24 * 7 {
		b.at = start.Add(time.Duration(i) * time.Hour)
		b.ends(1, Done, mail)
		b.save()
	}
	blocks := func(bucket []byte) (n int) {
		require.NoError(t, b.file.store.scan(bucket, time.Time{}, b.at.Add(time.Hour), func(time.Time, []byte) error { n++; return nil }))
		return n
	}
	require.Equal(t, 72+1, blocks(coarseBucket))
	require.Equal(t, 48+1, blocks(fineBucket))
	b.file.store.limit = 1
	b.ends(1, Done, mail)
	b.save()
	require.Equal(t, 73-trimMuch, blocks(coarseBucket))
}

// TestFileThatCannotBeUsed: it is put aside, which is told, and the history begins anew.
func TestFileThatCannotBeUsed(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"no such format": func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("no history\n", 9999)), 0o600))
		},
		"empty pages": func(t *testing.T, path string) {
			t.Helper()
			page := int64(os.Getpagesize())
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			require.NoError(t, err)
			st, err := f.Stat()
			require.NoError(t, err)
			_, err = f.WriteAt(make([]byte, st.Size()-2*page), 2*page)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		},
		"torn off": func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.Truncate(path, 2*int64(os.Getpagesize())))
		},
		"other keys": func(t *testing.T, path string) {
			t.Helper()
			change(t, path, func(tx *bolt.Tx) error { return tx.Bucket(fineBucket).Put([]byte("x"), []byte("y")) })
		},
		"newer": func(t *testing.T, path string) {
			t.Helper()
			change(t, path, func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put(formatKey, []byte("2")) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := newBook(t, dir)
			for i := range 200 {
				b.at = start.Add(time.Duration(i) * Step)
				b.ends(1, Done, Series{"prod", "root", "m", fmt.Sprint(i)})
				b.save()
			}
			path := b.path()
			b.shut()
			spoil(t, path)
			b = newBook(t, dir)
			b.at = start.Add(201 * Step)
			b.ends(7, Done, mail)
			r := b.ask(Query{})
			require.EqualValues(t, 7, r.Total.Attempts(), "what is in memory")
			b.save()
			require.Equal(t, 1, b.said.FilterMessageSnippet("put aside").Len())
			kind := "corrupt"
			if name == "newer" {
				kind = "newer"
			}
			aside, err := filepath.Glob(path + "." + kind + "-*")
			require.NoError(t, err)
			require.Equal(t, []string{b.ask(Query{}).Aside}, aside)
			b.shut()
			b = newBook(t, dir)
			b.at = start.Add(202 * Step)
			require.EqualValues(t, 7, b.ask(Query{}).Total.Attempts())
			require.Zero(t, b.said.Len())
		})
	}
}

// change writes something into a file.
func change(t *testing.T, path string, f func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	require.NoError(t, err)
	require.NoError(t, db.Update(f))
	require.NoError(t, db.Close())
}

// TestSpoiltBlock: an interval that cannot be read is lost, and counted; the others are not.
func TestSpoiltBlock(t *testing.T) {
	dir := t.TempDir()
	b := newBook(t, dir)
	for i := range 3 {
		b.at = start.Add(time.Duration(i) * Step)
		b.ends(1, Done, mail)
		b.save()
	}
	b.shut()
	change(t, b.path(), func(tx *bolt.Tx) error { return tx.Bucket(fineBucket).Put(keyOf(start.Add(Step)), []byte{1, 2, 3}) })
	r := b.ask(Query{From: start, Step: Step})
	require.EqualValues(t, 2, r.Total.Attempts())
	require.Equal(t, 1, r.Unreadable)
	b.at = start.Add(Step)
	b.ends(1, Done, mail)
	b.save()
	require.Zero(t, b.ask(Query{From: start, To: b.at.Add(LongStep), Step: Step}).Unreadable, "it is replaced")
}

// TestManyDamagedFiles: those that were put aside do not fill the disk, and a file that is damaged again
// and again does not keep the disk busy.
func TestManyDamagedFiles(t *testing.T) {
	b := newBook(t, t.TempDir())
	for i := range 2 * asideLimit {
		b.at = start.Add(time.Duration(i) * asideInterval)
		b.ends(1, Done, mail)
		b.save()
		b.shut()
		aside, err := filepath.Glob(b.path() + ".corrupt-*")
		require.NoError(t, err)
		require.Len(t, aside, min(i, asideLimit))
		require.NoError(t, os.WriteFile(b.path(), []byte(strings.Repeat("?", 1<<16)), 0o600))
	}
	b.at = b.at.Add(time.Minute)
	b.ends(1, Done, mail)
	b.save()
	require.EqualValues(t, 1, b.ask(Query{From: b.at.Add(-time.Minute)}).Total.Attempts(), "it is in memory")
	require.NotEmpty(t, b.ask(Query{}).Problem)
}

// TestDirectoryThatCannotBeWritten: it is told once, what happens meanwhile is kept for an hour, and
// written when that is possible.
func TestDirectoryThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // no directory, whoever runs the test
	b := newBook(t, dir)
	for i := range pendingLimit + 3 {
		b.at = start.Add(time.Duration(i) * Step)
		b.ends(1, Done, mail)
		b.save()
	}
	require.Equal(t, 1, b.said.Len())
	require.Equal(t, 1, b.said.FilterMessageSnippet("cannot be written").Len())
	r := b.ask(Query{From: start, Step: Step})
	require.EqualValues(t, pendingLimit, r.Total.Attempts())
	require.EqualValues(t, 3, r.Lost)
	require.Contains(t, r.Problem, "not a directory")

	require.NoError(t, os.Remove(dir))
	b.save()
	require.Equal(t, 1, b.said.FilterMessageSnippet("written again").Len())
	b.shut()
	b = newBook(t, dir)
	b.at = start.Add(pendingLimit * Step)
	r = b.ask(Query{From: start, Step: Step})
	require.EqualValues(t, pendingLimit-2, r.Total.Attempts(), "those up to the present")
	require.Empty(t, r.Problem)
}

// TestTwoProcesses: a file that another process has open is left alone.
func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	one := newBook(t, dir)
	one.ends(1, Done, mail)
	one.save()
	other := newBook(t, dir)
	other.ends(2, Done, mail)
	other.save()
	require.Contains(t, other.ask(Query{}).Problem, "another process has it open")
	require.EqualValues(t, 2, other.ask(Query{}).Total.Attempts())
	one.shut()
	other.save()
	require.EqualValues(t, 3, other.ask(Query{}).Total.Attempts())
}

// TestRunningLog: events are counted and answered by a history that runs, one that has ended has written
// them, and the next one goes on.
func TestRunningLog(t *testing.T) {
	dir := t.TempDir()
	end := func(kind runner.EventKind) runner.Event {
		return runner.Event{
			Kind: kind, Runner: "default", Time: time.Now(), Database: "prod", Channel: "root", Model: "m", Method: "f",
			Outcome: "answered", Wait: time.Second, Run: time.Minute,
		}
	}
	Observe(end(runner.EventJobDone)) // no one listens
	for range 2 {
		l := Start("default", Options{Dir: dir, Logger: zap.NewNop()})
		for _, kind := range runner.EventKinds() {
			Observe(end(kind))
		}
		other := end(runner.EventJobDone)
		other.Runner = "other"
		Observe(other)
		l.Stop()
		l.Wait()
		l.Configure(Options{Dir: dir, Logger: zap.NewNop()})
	}
	b := newBook(t, dir)
	b.at = time.Now()
	r := b.ask(Query{From: b.at.Add(-time.Hour)})
	require.Equal(t, [outcomes]uint64{2, 2, 2, 2, 2, 2}, r.Total.Outcomes)
	require.EqualValues(t, 6, r.Total.Run.Count())
	require.EqualValues(t, 10, r.Total.Wait.Count(), "all but those that were not run")
	require.Empty(t, *logs.Load())
}

// TestFold: a history that runs takes notes in, and writes an interval when it is over.
func TestFold(t *testing.T) {
	l := Start("fold", Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	defer func() { l.Stop(); l.Wait() }()
	Observe(runner.Event{Kind: runner.EventJobDone, Runner: "fold", Time: time.Now().Add(-Step), Database: "prod"})
	require.Eventually(t, func() bool {
		r, err := l.Query(t.Context(), Query{})
		return err == nil && r.Total.Attempts() == 1
	}, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		_, err := os.Stat(l.path())
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	l.turn <- struct{}{}
	require.NotNil(t, l.file.store, "it is not opened for each interval")
	<-l.turn
}

// TestIdleLog: a history in which nothing has ended ends without a file, and without a complaint.
func TestIdleLog(t *testing.T) {
	core, said := observer.New(zap.InfoLevel)
	l := Start("idle", Options{Dir: t.TempDir(), Logger: zap.New(core)})
	l.Stop()
	l.Wait()
	require.Zero(t, said.Len())
	require.NoFileExists(t, l.path())
}

// TestNotes: the history is woken by the first note, by those that must not wait, and by what is lost.
func TestNotes(t *testing.T) {
	var n notes
	for i := range notesLimit + 1 {
		woken := i == 0 || i == notesLimit/2-1 || i == notesLimit
		require.Equal(t, woken, n.put(note{}), i)
		require.Equal(t, i >= notesLimit/2-1, n.full(), i)
	}
	list, lost := n.take()
	require.Len(t, list, notesLimit)
	require.EqualValues(t, 1, lost)
	list, lost = n.take()
	require.Empty(t, list)
	require.Zero(t, lost)
}

// TestObserveAllocatesNothing: the loops of the runners call it for each job.
func TestObserveAllocatesNothing(t *testing.T) {
	l := newLog("quiet", Options{Dir: t.TempDir(), Logger: zap.NewNop()}, time.Now)
	register("quiet", nil, l)
	defer register("quiet", l, nil)
	ev := runner.Event{Kind: runner.EventJobDone, Runner: "quiet", Time: time.Now(), Database: "prod", Channel: "root", Wait: 1, Run: 1}
	require.Zero(t, testing.AllocsPerRun(2*notesLimit, func() { Observe(ev) }))
	_, lost := l.notes.take()
	require.EqualValues(t, notesLimit+1, lost, "it neither grows nor waits where no one takes the notes")
}

func BenchmarkObserve(b *testing.B) {
	l := Start("bench", Options{Dir: b.TempDir(), Logger: zap.NewNop()})
	defer func() { l.Stop(); l.Wait() }()
	ev := runner.Event{Kind: runner.EventJobDone, Runner: "bench", Time: time.Now(), Database: "prod", Channel: "root", Wait: 1, Run: 1}
	b.ReportAllocs()
	for b.Loop() {
		Observe(ev)
	}
}
