// Package mock is a driver without an application: databases, jobs, workers and upstreams in
// memory, with a knob for every fault that the real ones have. It is modelled on Nomad's mock
// driver.
//
// Everything is built on channels, mutexes and package time, so it works in a testing/synctest
// bubble; a World must then be made inside the bubble. Two drivers of one World are two nodes that
// share the databases:
//
//	w := mock.NewWorld()
//	w.AddDatabase("prod")
//	w.Insert(mock.NewJob("prod", "a"))
//	w.PlanFor(channels.Key{DB: "prod", UUID: "a"}, mock.Plan{RunFor: time.Minute})
//	engine(w.Driver())
//
// Rows change as they do in PostgreSQL with the add-on's trigger: every change notifies those
// sessions that listen, and a session learns which of the changes were its own.
package mock

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Grace is how long a job stays enqueued before that counts as evidence that it is dead
// (docs/contract.md 3.4).
const Grace = 10 * time.Second

// World is everything outside of the engine. Its methods are safe for concurrent use.
type World struct {
	mu        sync.Mutex
	databases map[string]*database
	clusters  map[*cluster]struct{}
	busy      map[string]struct{}
	leaders   map[int64]*cluster
	foreign   map[int64]string
	upstreams map[string]*UpstreamFaults
	plans     map[channels.Key][]Plan
	plan      Plan
	down      error
	serial    uint32
	warnings  []string
	// connections is how many PostgreSQL allows, 0 without a limit; others hold some of them, and so
	// many attempts were refused.
	connections, others, refusals int
	// late is how much later writes are counted; uncounted is set where they are not.
	late         time.Duration
	uncounted    bool
	betweenLooks func(db string)

	record  record
	sent    func(Sent)
	stop    chan struct{}
	closed  bool
	workers sync.WaitGroup
}

// NewWorld returns a world without databases.
func NewWorld() *World {
	return &World{
		databases: map[string]*database{},
		clusters:  map[*cluster]struct{}{},
		busy:      map[string]struct{}{},
		leaders:   map[int64]*cluster{},
		foreign:   map[int64]string{},
		upstreams: map[string]*UpstreamFaults{},
		plans:     map[channels.Key][]Plan{},
		serial:    1000,
		record:    record{under: map[channels.Key][]*Run{}},
		stop:      make(chan struct{}),
	}
}

// Close kills the workers that still run a job, without a trace in the rows, and waits until their
// goroutines have ended.
func (w *World) Close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.stop)
	}
	w.mu.Unlock()
	w.workers.Wait()
}

// Job is a row with what the engine does not get to see.
type Job struct {
	driver.Row
	// MaxRetries as in the database; 0 never fails as dead.
	MaxRetries int32
	// DependsOn are the uuids of the jobs that must be done first. Those that do not exist do not
	// count.
	DependsOn []string
	// Done is when it ended.
	Done time.Time
	// LockRow is set when the job has a lock row.
	LockRow bool
	// LockPID is the backend that holds the lock row, 0 if none does. LockHidden is set if that does not
	// show, because it was locked in a savepoint that has ended: who wants the lock finds out.
	LockPID    uint32
	LockHidden bool
	// Causes are what [driver.Stopper.Account] has appended.
	Causes []string
	// Info is what is known of its failures. Only a quarantine, or a time limit, writes it and Exception.
	Info string
	// claimed is the number of its last claim, in the order of what happens to runs.
	claimed int
}

// NewJob returns a pending job of the root channel with Odoo's defaults: priority 10, five retries.
// Change it as you like before inserting it.
func NewJob(db, uuid string) Job {
	return Job{
		Row: driver.Row{
			Job:      channels.Job{Key: channels.Key{DB: db, UUID: uuid}, Priority: 10},
			State:    channels.Pending,
			RawState: channels.Pending.String(),
		},
		MaxRetries: 5,
	}
}

type database struct {
	name     string
	oid      uint32
	jobs     map[string]*Job
	sessions map[*session]struct{}
	holder   *session
	// locked is when holder took the lock.
	locked   time.Time
	foreign  string
	faults   Faults
	calls    map[string]int
	channels []channels.Config
	upgrade  upgrade

	statistics statistics
	// graphs is set once a job has depended on others; until then a job that is done costs no search.
	graphs bool
}

// next returns a number never used before.
func (w *World) next() uint32 {
	w.serial++
	return w.serial
}

// AddDatabase creates empty databases that speak the contract with lock rows. A name that exists is
// left alone.
func (w *World) AddDatabase(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if w.databases[name] == nil {
			w.databases[name] = &database{
				name: name, oid: w.next(), jobs: map[string]*Job{},
				sessions: map[*session]struct{}{}, calls: map[string]int{},
			}
		}
	}
}

// DropDatabase drops a database as Odoo does: its sessions are terminated first.
func (w *World) DropDatabase(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loseSessions(w.database(name))
	delete(w.databases, name)
}

// SetWarnings sets what connections to the cluster warn of.
func (w *World) SetWarnings(warnings ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warnings = warnings
}

// SetBusy says which databases are being dropped, renamed or copied.
func (w *World) SetBusy(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.busy)
	for _, name := range names {
		w.busy[name] = struct{}{}
	}
}

// database returns a database that the test is expected to have added.
func (w *World) database(name string) *database {
	db := w.databases[name]
	if db == nil {
		panic("mock: no database " + name)
	}
	return db
}

// Insert commits new rows in one transaction and notifies. A job without an ID gets the next one, a
// job without a creation date gets now. A row of the same uuid is replaced.
func (w *World) Insert(jobs ...Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.insert(jobs, func(db, uuid string) { w.notify(db, uuid, 0) })
}

// InsertLate is Insert with notifications that arrive so much later.
func (w *World) InsertLate(d time.Duration, jobs ...Job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.insert(jobs, func(db, uuid string) {
		time.AfterFunc(d, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.notify(db, uuid, 0)
		})
	})
}

// insert adds rows, with the mutex held.
func (w *World) insert(jobs []Job, notify func(db, uuid string)) {
	for _, j := range jobs {
		if j.ID == 0 {
			j.ID = int64(w.next())
		}
		if j.Created == 0 {
			j.Created = time.Now().UnixMicro()
		}
		if j.RawState == "" {
			j.RawState = j.State.String()
		}
		db := w.database(j.DB)
		db.jobs[j.UUID] = &j
		w.wrote(db)
		db.graphs = db.graphs || len(j.DependsOn) > 0
		notify(j.DB, j.UUID)
	}
}

// Update changes a row from outside and notifies, also when nothing changed. State and RawState
// follow each other. It reports whether the row exists.
func (w *World) Update(key channels.Key, change func(*Job)) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.update(key, 0, change)
}

// update is Update by a backend, with the mutex held.
func (w *World) update(key channels.Key, pid uint32, change func(*Job)) bool {
	db := w.databases[key.DB]
	if db == nil || db.jobs[key.UUID] == nil {
		return false
	}
	j := db.jobs[key.UUID]
	before := j.State
	raw := j.RawState
	change(j)
	w.wrote(db)
	db.graphs = db.graphs || len(j.DependsOn) > 0
	switch {
	case j.RawState != raw:
		j.State = channels.ParseState(j.RawState)
	case j.State != before:
		j.RawState = j.State.String()
	}
	w.notify(key.DB, key.UUID, pid)
	return true
}

// SetState is Update of nothing but the state.
func (w *World) SetState(key channels.Key, state channels.State) bool {
	return w.Update(key, func(j *Job) { j.State = state })
}

// Delete deletes a row. Like the trigger it says nothing about a job that was done
// (docs/contract.md 1.1).
func (w *World) Delete(key channels.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	db := w.database(key.DB)
	j := db.jobs[key.UUID]
	if j == nil {
		return
	}
	delete(db.jobs, key.UUID)
	if j.State != channels.Done {
		w.notify(key.DB, key.UUID, 0)
	}
}

// Row returns the row of a job.
func (w *World) Row(key channels.Key) (Job, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if db := w.databases[key.DB]; db != nil && db.jobs[key.UUID] != nil {
		return *db.jobs[key.UUID], true
	}
	return Job{}, false
}

// Rows returns all jobs of a database, by id.
func (w *World) Rows(db string) []Job {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.database(db).sorted(func(*Job) bool { return true })
}

// Count returns how many jobs of a database are in a state.
func (w *World) Count(db string, state channels.State) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.database(db).sorted(func(j *Job) bool { return j.State == state }))
}

func (db *database) sorted(keep func(*Job) bool) []Job {
	var jobs []Job
	for j := range maps.Values(db.jobs) {
		if keep(j) {
			jobs = append(jobs, *j)
		}
	}
	slices.SortFunc(jobs, func(a, b Job) int { return int(a.ID - b.ID) })
	return jobs
}

// stored is sorted in the order of the table, which has nothing to do with that of the numbers: no
// statement promises one.
func (db *database) stored(keep func(*Job) bool) []Job {
	jobs := db.sorted(keep)
	slices.SortFunc(jobs, func(a, b Job) int { return byPlace(&a, &b) })
	return jobs
}

// byPlace orders rows as they lie in the table.
func byPlace(a, b *Job) int {
	return cmp.Or(cmp.Compare(place(a.UUID), place(b.UUID)), strings.Compare(a.UUID, b.UUID))
}

func place(uuid string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(uuid)) // never fails
	return h.Sum32()
}

// arrange puts rows that a statement has changed into that order.
func arrange(rows []driver.Row) {
	slices.SortFunc(rows, func(a, b driver.Row) int { return byPlace(&Job{Row: a}, &Job{Row: b}) })
}

// HoldLock makes a foreign worker hold the job's lock row, without a notification, as the real one
// is silent too.
func (w *World) HoldLock(key channels.Key, pid uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if j := w.database(key.DB).jobs[key.UUID]; j != nil {
		j.LockRow, j.LockPID, j.LockHidden = true, pid, false
	}
}

// FreeLock ends the hold; the lock row stays.
func (w *World) FreeLock(key channels.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if j := w.database(key.DB).jobs[key.UUID]; j != nil {
		j.LockPID = 0
	}
}

// SetChannels replaces the channels that are configured in a database, and announces it. A new
// database has none.
func (w *World) SetChannels(db string, cfgs ...channels.Config) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.database(db).channels = slices.Clone(cfgs)
	w.notify(db, ReloadPayload, 0)
}

// Notify sends a notification with any payload to the sessions of a database. [ReloadPayload]
// announces a changed configuration.
func (w *World) Notify(db, payload string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notify(db, payload, 0)
}

// Overflow makes the sessions of a database say that more jobs were named than they keep, without
// naming any.
func (w *World) Overflow(db string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.databases[db].sessions {
		s.inbox.Overflow = true
		s.signal()
	}
}

// notify delivers to every session that listens, with the mutex held.
func (w *World) notify(name, payload string, pid uint32) {
	db := w.databases[name]
	if db == nil {
		return
	}
	for s := range db.sessions {
		if !s.listening || db.faults.Deaf {
			continue
		}
		n := notification{payload, pid == s.pid}
		if db.faults.Late == 0 && len(s.underway) == 0 {
			s.put(n)
			continue
		}
		s.underway = append(s.underway, n)
		time.AfterFunc(db.faults.Late, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			n, s.underway = s.underway[0], s.underway[1:]
			s.put(n)
		})
	}
}

// notification is one on its way to a session.
type notification struct {
	payload string
	own     bool
}

// put delivers a notification, with the world's mutex held.
func (s *session) put(n notification) {
	if n.own {
		s.inbox.Echoes = appendNew(s.inbox.Echoes, n.payload)
	} else {
		s.inbox.Changed = appendNew(s.inbox.Changed, n.payload)
		s.inbox.Reload = s.inbox.Reload || n.payload == ReloadPayload
	}
	s.signal()
}

// ReloadPayload is the payload with which the application announces a changed configuration. As
// with the real driver it is in Changed too.
const ReloadPayload = "reload"

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
