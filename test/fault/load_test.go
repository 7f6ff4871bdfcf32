package fault

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

const (
	// beat is the time between two transactions of a database's users, where there
	// are few databases, and perBeat how many jobs each of them commits.
	beat    = 100 * time.Millisecond
	perBeat = 2
	// manyDatabases is the number from which on the users are slower, so that the
	// whole load stays the same.
	manyDatabases = 4
	// userTimeout is how long a user waits for the database.
	userTimeout = 5 * time.Second
)

// load are the users: they commit jobs of mixed length and channel to every
// database, all the time, and remember which.
type load struct {
	tb *testBed

	mu sync.Mutex // guards the following
	// ledger holds the jobs by database: true once the commit was confirmed.
	// Without that the row tells, should it exist.
	ledger map[string]map[string]bool
	// users holds, by database, what sends them home and waits for that.
	users map[string]func()
	n     int
	// channel, if set, names the channel below which a database's jobs are.
	channel func(db string) string
	// slow is how long a job of the channel "slow" takes.
	slow time.Duration
}

func newLoad(tb *testBed) *load {
	return &load{
		tb: tb, ledger: make(map[string]map[string]bool), users: make(map[string]func()),
		slow: 400 * time.Millisecond,
	}
}

// start lets the users of all databases work.
func (l *load) start() {
	for _, db := range l.tb.Databases() {
		l.startOne(db)
	}
}

func (l *load) startOne(db string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users[db] != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	l.users[db] = func() {
		cancel()
		<-gone
	}
	go func() {
		defer close(gone)
		tick := time.NewTicker(beat * time.Duration(max(l.tb.fault.databases, manyDatabases)) / manyDatabases)
		defer tick.Stop()
		for ctx.Err() == nil {
			l.enqueue(db, l.mixed(db, perBeat)...)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
}

// stop sends all users home and waits until they have gone.
func (l *load) stop() {
	l.mu.Lock()
	dbs := slices.Collect(maps.Keys(l.users))
	l.mu.Unlock()
	for _, db := range dbs {
		l.stopOne(db)
	}
}

func (l *load) stopOne(db string) {
	l.mu.Lock()
	leave := l.users[db]
	delete(l.users, db)
	l.mu.Unlock()
	if leave != nil {
		leave()
	}
}

// enqueue commits jobs and reports whether that is certain.
func (l *load) enqueue(db string, jobs ...odoostub.JobSpec) bool {
	pool := l.tb.Pool(db)
	if pool == nil {
		return false
	}
	for i := range jobs {
		jobs[i].UUID = odoostub.NewUUID()
	}
	ctx, cancel := context.WithTimeout(context.Background(), userTimeout)
	defer cancel()
	_, err := odoostub.Enqueue(ctx, pool, jobs)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger[db] == nil {
		l.ledger[db] = make(map[string]bool)
	}
	for _, job := range jobs {
		l.ledger[db][job.UUID] = err == nil
	}
	return err == nil
}

// mixed returns jobs of all kinds, in turn.
func (l *load) mixed(db string, count int) []odoostub.JobSpec {
	l.mu.Lock()
	defer l.mu.Unlock()
	jobs := make([]odoostub.JobSpec, count)
	for i := range jobs {
		l.n++
		jobs[i] = l.kind(l.n)
		if l.channel != nil {
			jobs[i].Channel = new(l.channel(db) + suffix(jobs[i].Channel))
		}
	}
	return jobs
}

// kind is the kind of the n-th job.
func (l *load) kind(n int) odoostub.JobSpec {
	switch {
	case n%20 == 0:
		return odoostub.JobSpec{Channel: new("root.slow"), Behaviour: odoostub.Behaviour{SleepMS: l.slow.Milliseconds()}}
	case n%50 == 7:
		return odoostub.JobSpec{Behaviour: odoostub.Behaviour{RetryTimes: 1, RetrySeconds: 0.2}}
	case n%10 == 3:
		return odoostub.JobSpec{Channel: new("root.one"), Behaviour: odoostub.Behaviour{SleepMS: 20}}
	case n%4 == 1:
		return odoostub.JobSpec{Channel: new("root.mail"), Behaviour: odoostub.Behaviour{SleepMS: 40}}
	}
	return odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 5}}
}

// suffix is what follows root in a channel's name.
func suffix(channel *string) string {
	if channel == nil {
		return ""
	}
	return (*channel)[len("root"):]
}

// books returns a copy of the ledger.
func (l *load) books() map[string]map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := make(map[string]map[string]bool, len(l.ledger))
	for db, jobs := range l.ledger {
		copied[db] = maps.Clone(jobs)
	}
	return copied
}
