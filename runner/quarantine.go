package runner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Quarantine says when a job does too much harm to be run again: it is failed, with a text in its
// row, in place of being put back. docs/policies-quarantine.md says what counts.
type Quarantine struct {
	// Attempts is how many of them within Within quarantine a job, 1 to 100.
	Attempts int
	// Within is for how long an attempt counts, at least a minute.
	Within time.Duration
}

// Limits of [Quarantine].
const (
	QuarantineAttemptsMax = 100
	QuarantineWithinLeast = time.Minute
)

// Validate reports the first mistake.
func (q Quarantine) Validate() error {
	switch {
	case q.Attempts < 1 || q.Attempts > QuarantineAttemptsMax:
		return fmt.Errorf("the number of attempts must be between 1 and %d", QuarantineAttemptsMax)
	case q.Within == 0:
		return errors.New("the time within which attempts count is missing")
	case q.Within > 0 && q.Within < time.Millisecond:
		return fmt.Errorf("the time must be at least %s, it is %s; write it with a unit, such as \"72h\", because a bare number counts nanoseconds in JSON",
			spell(QuarantineWithinLeast), q.Within)
	case q.Within < QuarantineWithinLeast:
		return fmt.Errorf("the time must be at least %s, it is %s", spell(QuarantineWithinLeast), spell(q.Within))
	}
	return nil
}

// String spells it as the Caddyfile does.
func (q Quarantine) String() string { return fmt.Sprintf("%d in %s", q.Attempts, spell(q.Within)) }

// spell writes a duration without the units that are zero.
func spell(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const (
	// sameMoment is how far apart the requests to one server may break of jobs that died with it, and
	// with the other servers.
	sameMoment = 5 * time.Second
	// orderly is for how long a server has refused connections that is being stopped when it kills its
	// last jobs. One that dies refuses them only afterwards.
	orderly = 2 * time.Second
	// apartFirst and apartLimit bound the pause of a job that waits for another suspect to end, and
	// apartRun is how long a suspect runs before it is in nobody's way any more.
	apartFirst = 5 * time.Second
	apartLimit = 15 * time.Second
	apartRun   = 10 * time.Minute
	// notRunApart is the least time between two answers without a run that count, unless other jobs of
	// the database have been run in between.
	notRunApart = 10 * time.Minute
	// companions bounds how many jobs are remembered that died together with one.
	companions = 100
)

// fate is what is known of the end of an attempt whose job was not seen to end.
type fate struct {
	// at is when that was; zero if it was not seen.
	at time.Time
	// excuse says why it is not the job's fault; empty if it may be.
	excuse string
	// with are the jobs whose requests to the same server broke in the same moment, and vanished is set
	// if all servers, of several, were gone in that moment.
	with     []channels.Key
	vanished bool
}

// breakage is a request that broke lately.
type breakage struct {
	at     time.Time
	server string
	key    channels.Key
	task   *task
}

// parted notes how a request ended, in case that its job turns out to be dead.
func (e *engine) parted(key channels.Key, t *task, server string, outcome driver.Outcome) {
	if e.config().Quarantine == nil {
		return
	}
	now := time.Now()
	t.fate = fate{at: now, excuse: e.excuseOf(server), vanished: now.Sub(e.setbacks.vanished) <= sameMoment}
	if outcome != driver.Broken && outcome != driver.Unavailable { // as a proxy says it
		return
	}
	e.pool.RecheckAll(e.ctx) // all of them may be gone
	e.checkUpgrade(e.databases.get(key.DB))
	e.accompany(key, t, server)
}

// excuseOf says why what dies on a server now is not to blame for it.
func (e *engine) excuseOf(server string) string {
	if e.ending() {
		return "the runner was stopping"
	}
	return e.pool.Leaving(server, orderly)
}

// accompany finds the others that were torn away from a server in the same moment as this one.
func (e *engine) accompany(key channels.Key, t *task, server string) {
	s := &e.setbacks
	s.breaks = slices.DeleteFunc(s.breaks, func(b breakage) bool { return t.fate.at.Sub(b.at) > sameMoment })
	for _, b := range s.breaks {
		if b.server == server && b.task != t {
			t.fate.join(b.key)
			b.task.fate.join(key)
		}
	}
	if len(s.breaks) < setbacksLimit {
		s.breaks = append(s.breaks, breakage{at: t.fate.at, server: server, key: key, task: t})
	}
}

func (f *fate) join(key channels.Key) {
	if len(f.with) < companions && !slices.Contains(f.with, key) {
		f.with = append(f.with, key)
	}
}

// checkUpgrade asks whether a database is being upgraded, where that is asked at all: a job has died.
func (e *engine) checkUpgrade(db *database) {
	if cfg := e.config(); cfg.Quarantine != nil && cfg.UpgradeGate && db != nil && db.session != nil {
		db.session.CheckUpgrade()
	}
}

// diedLater takes in that a job died that had been seen alive without its request. That may be because
// PostgreSQL went on with a statement of a worker that was dead, so what was so then still counts.
func (e *engine) diedLater(key channels.Key, t *task, now time.Time) {
	if e.config().Quarantine == nil || t.fate.at.IsZero() {
		return
	}
	f := &t.fate
	f.at, f.vanished = now, f.vanished || now.Sub(e.setbacks.vanished) <= sameMoment
	if f.excuse == "" {
		f.excuse = e.excuseOf(t.trail.upstream)
	}
	e.accompany(key, t, t.trail.upstream)
}

// serverDown takes in that a server is down. If that leaves none of several, those who run the servers
// are at work, or what all of them depend on is gone.
func (e *engine) serverDown() {
	if e.config().Quarantine == nil || !e.pool.Gone() {
		return
	}
	now := time.Now()
	e.setbacks.vanished = now
	for _, t := range e.tasks {
		t.fate.vanished = t.fate.vanished || now.Sub(t.fate.at) <= sameMoment
	}
}

// setbackOf makes a setback of an attempt that is about to be put back or rescued. It returns false for
// one that says nothing about its job.
func (e *engine) setbackOf(key channels.Key, t *task) (Setback, bool) {
	if e.config().Quarantine == nil || t.fate.at.IsZero() || t.fate.excuse != "" || t.result == nil || t.row == nil {
		return Setback{}, false
	}
	if t.limit != nil && t.limit.ended != nil {
		return Setback{}, false // it was stopped because of its time limit
	}
	db := e.databases.get(key.DB)
	if db == nil || db.stage != stageServed || db.entered.After(t.began()) || db.upgradeSince.After(t.began()) {
		return Setback{}, false // what kept us from the database, or an upgrade, may have ended the job
	}
	s := Setback{Database: key.DB, UUID: key.UUID, At: t.fate.at, Upstream: t.trail.upstream, Retry: t.row.Retry}
	s.Ran = max(0, s.At.Sub(t.began()))
	switch {
	case t.row.State == channels.Started:
		s.Shared, s.Excused = len(t.fate.with) > 0 || t.fate.vanished, t.fate.vanished
		s.Retry++
		s.Cause = fmt.Sprintf("its request was answered with status %d, and nothing ran the job any more", t.result.Status)
		if t.result.Outcome == driver.Broken {
			s.Cause = "its request broke, and nothing ran the job any more: its worker died"
		}
	case t.result.Outcome == driver.Answered && !db.hold.struckByOthers(key.UUID) && !e.tooSoon(db, key, s.At):
		s.NotRun = true
		s.Cause = fmt.Sprintf("its request was answered with status %d without having run the job", t.result.Status)
	default:
		return Setback{}, false
	}
	return s, true
}

// tooSoon reports whether it is too soon to count another answer without a run: none of other jobs has
// been run since the last one, so that it may be the application that runs none.
func (e *engine) tooSoon(db *database, key channels.Key, now time.Time) bool {
	last := e.setbacks.lastNotRun(key)
	return !last.IsZero() && now.Sub(last) < notRunApart && !db.hold.ranAt.After(last)
}

// condemn decides whether a job is to be failed in place of being put back, and returns the text for
// its row; empty if not. The job itself must be to blame: it has had more setbacks than each of those
// that died with it.
func (e *engine) condemn(key channels.Key, t *task) (why string) {
	t.condemned = 0
	last, ok := e.setbackOf(key, t)
	if !ok || last.Excused || last.NotRun && e.setbacks.lastNotRun(key).IsZero() {
		return "" // one answer says nothing
	}
	q := e.config().Quarantine
	before := e.setbacks.counted(key, last.At, q.Within)
	if len(before)+1 < q.Attempts {
		return ""
	}
	for _, other := range t.fate.with {
		if len(e.setbacks.counted(other, last.At.Add(-sameMoment), q.Within)) >= len(before) {
			return ""
		}
	}
	t.condemned = len(before) + 1
	return q.sentence(append(before, last))
}

// sentence is the text for the row.
func (q Quarantine) sentence(list []Setback) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of this job came to nothing within %s, so it is not run again until it is requeued.",
		attempts(len(list)), spell(q.Within))
	if more := len(list) - sentenceLimit; more > 0 {
		fmt.Fprintf(&b, "\n(%d earlier ones)", more)
		list = list[more:]
	}
	for _, s := range list {
		fmt.Fprintf(&b, "\n%s on %s, after %s: %s.", s.At.UTC().Format("2006-01-02 15:04:05 UTC"), s.Upstream,
			s.Ran.Round(time.Millisecond), s.Cause)
		if s.Shared {
			b.WriteString(" Other jobs on that server ended in the same moment.")
		}
	}
	return b.String()
}

// sentenceLimit bounds the attempts that a text lists.
const sentenceLimit = 20

// attempts says how many there are.
func attempts(n int) string {
	if n == 1 {
		return "1 attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

// quarantined tells of a job that has been failed, before its attempt is settled.
func (e *engine) quarantined(row *driver.Row, t *task) {
	q := e.config().Quarantine
	if q == nil {
		q = &Quarantine{} // it was switched off while the statement was under way
	}
	t.trail.quarantined = attempts(t.condemned) + " came to nothing"
	if q.Within > 0 {
		t.trail.quarantined += " within " + spell(q.Within)
	}
	e.log().Warn("job quarantined: "+printable(row.UUID), zap.String("database", row.DB), zap.Int("attempts", t.condemned),
		zap.String("upstream", t.trail.upstream), zap.Int32("retry", row.Retry))
}

// setBack notes the death of a job that has been rescued. Its row is still that of before.
func (e *engine) setBack(key channels.Key, t *task) {
	if s, ok := e.setbackOf(key, t); ok {
		e.setbacks.add(key, s, e.config().Quarantine.Within)
	}
}

// rebuff notes an attempt that came to nothing, unless the reason is not the job: then those of the
// others are forgotten, too.
func (e *engine) rebuff(db *database, key channels.Key, s Setback, ok bool) {
	q := e.config().Quarantine
	switch {
	case q == nil:
	case len(db.hold.struck) > 1:
		e.setbacks.forgive(db.Name, db.hold.struck, db.hold.since)
	case ok:
		e.setbacks.add(key, s, q.Within)
	}
}

// apart reports whether a job has to wait because it died together with others, and one of those is
// being tried. Otherwise it could not be told who killed whom.
func (e *engine) apart(key channels.Key, now time.Time) bool {
	q := e.config().Quarantine
	if q == nil || len(e.setbacks.of) == 0 || !e.setbacks.suspect(key, now, q.Within) {
		return false
	}
	for other := range e.setbacks.of {
		t := e.tasks[other]
		if other == key || t == nil || t.phase == phaseParked || !e.setbacks.suspect(other, now, q.Within) {
			continue
		}
		if t.phase == phaseClaiming || now.Sub(t.began()) < apartRun {
			e.delays.add(key, apartFirst, apartLimit)
			e.tree.Refund(key)
			if job, _, ok := e.tree.Lookup(key); ok {
				job.ETA = max(job.ETA, e.delays[key].until)
				e.tree.Set(job, channels.Pending)
			}
			return true
		}
	}
	return false
}
