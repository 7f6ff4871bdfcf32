package runner_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// historySteps is everything that can happen, with its weight. What breaks stays broken until a step,
// or the end, repairs it.
var historySteps map[string]struct {
	weight int
	do     func(*moment)
}

// whatHappens names the steps, each as often as it is likely.
var whatHappens []string

func init() {
	steps := map[string]struct {
		weight int
		do     func(*moment)
	}{
		"jobs": {24, func(m *moment) {
			for range 1 + m.dice.IntN(4) {
				m.insert()
			}
		}},
		"nothing": {4, func(m *moment) { m.wait(10 * time.Second) }},
		"repair":  {6, func(m *moment) { m.wellAgain(m.db) }},

		// Each connection by itself.
		"session lost":         {5, func(m *moment) { m.LoseSession(m.db) }},
		"outage":               {5, func(m *moment) { m.fault(func(f *mock.Faults) { f.OpenErr = errFault }); m.LoseSession(m.db) }},
		"short outage":         {4, (*moment).shortOutage},
		"deaf":                 {1, func(m *moment) { m.fault(func(f *mock.Faults) { f.Deaf = true }) }},
		"frozen":               {2, func(m *moment) { m.unclear(); m.fault(func(f *mock.Faults) { f.Frozen = true }) }},
		"answer of claim lost": {5, func(m *moment) { m.fault(func(f *mock.Faults) { f.LoseAfterClaim = true }) }},
		"claims hang":          {1, func(m *moment) { m.fault(func(f *mock.Faults) { f.HangClaim = true }) }},
		"claims take long":     {3, func(m *moment) { m.fault(func(f *mock.Faults) { f.SlowClaim = 1 + m.pause(200*time.Millisecond) }) }},
		"claims fail":          {1, func(m *moment) { m.fault(func(f *mock.Faults) { f.ClaimErr = errFault }) }},
		"reads fail":           {2, func(m *moment) { m.fault(func(f *mock.Faults) { f.ReadErr = errFault }) }},
		"snapshots fail": {2, func(m *moment) {
			m.fault(func(f *mock.Faults) { f.SnapshotErr, f.SnapshotErrAfter = errFault, m.dice.IntN(4) })
		}},
		"inspections fail":       {1, func(m *moment) { m.fault(func(f *mock.Faults) { f.InspectErr, f.RescueErr = errFault, errFault }) }},
		"signals fail":           {1, func(m *moment) { m.fault(func(f *mock.Faults) { f.StopErr, f.AccountErr = errFault, errFault }) }},
		"signals are refused":    {1, func(m *moment) { m.fault(func(f *mock.Faults) { f.StopDenied = true }) }},
		"answer of stop lost":    {2, func(m *moment) { m.fault(func(f *mock.Faults) { f.LoseAfterStop = true }) }},
		"results take long":      {4, func(m *moment) { m.fault(func(f *mock.Faults) { f.Slow = 1 + m.long(300*time.Millisecond) }) }},
		"notifications are late": {4, func(m *moment) { m.fault(func(f *mock.Faults) { f.Late = 1 + m.long(500*time.Millisecond) }) }},
		"rows are locked":        {4, (*moment).rowsLocked},
		"table is locked":        {3, (*moment).tableLocked},
		"locking fails":          {1, func(m *moment) { m.fault(func(f *mock.Faults) { f.LockErr = errFault }) }},
		"channels fail":          {1, (*moment).channelsFail},
		"maintenance lost":       {4, func(m *moment) { m.unclear(); m.LoseClusters() }},
		"maintenance refused":    {3, func(m *moment) { m.unclear(); m.node.refused.Store(true); m.LoseClusters() }},
		"maintenance accepted":   {3, func(m *moment) { m.node.refused.Store(false) }},
		"PostgreSQL restarts":    {4, func(m *moment) { m.unclear(); m.Down(); m.wait(3 * time.Second); m.Up() }},
		"one comes back late":    {4, (*moment).comesBackLate},

		// What a database is.
		"lock elsewhere": {3, (*moment).standby},
		"neutralized":    {3, func(m *moment) { m.retire(m.Neutralized) }},
		"undetected":     {2, func(m *moment) { m.retire(m.Undetected) }},
		"unhealthy":      {2, func(m *moment) { m.Unhealthy(m.db, "the trigger is missing"); m.LoseSession(m.db) }},
		"generation":     {1, (*moment).otherGeneration},
		"busy":           {2, func(m *moment) { m.SetBusy(m.db); m.wait(4 * time.Second); m.SetBusy() }},
		"dropped":        {1, (*moment).drop},

		// Odoo.
		"server down":    {3, func(m *moment) { m.server(func(f *mock.UpstreamFaults) { f.FailBeforeSend, f.CheckErr = -1, errDown }) }},
		"server refuses": {2, func(m *moment) { m.server(func(f *mock.UpstreamFaults) { f.RefuseN = 1 + m.dice.IntN(3) }) }},
		"server hangs":   {2, func(m *moment) { m.server(func(f *mock.UpstreamFaults) { f.Hang, f.CheckErr = true, errDown }) }},
		"server cuts":    {3, func(m *moment) { m.server(func(f *mock.UpstreamFaults) { f.CutN = 1 + m.dice.IntN(3) }) }},
		"server up":      {3, func(m *moment) { m.server(func(f *mock.UpstreamFaults) { *f = mock.UpstreamFaults{} }) }},

		// The nodes.
		"restart":                      {3, func(m *moment) { m.node.stop(); m.wait(time.Second); m.node.start() }},
		"replaced":                     {4, func(m *moment) { m.node.stop(); m.node.start() }},
		"replaced, put back meanwhile": {3, (*moment).replacedAndPutBack},
		"reload":                       {2, (*moment).reload},
		"engine panic":                 {1, func(m *moment) { m.node.panics.Store(true); m.insert() }},

		// Rows that others change.
		"operator requeues":  {4, func(m *moment) { m.change(channels.Pending) }},
		"operator cancels":   {1, func(m *moment) { m.change(channels.Cancelled) }},
		"operator sets done": {1, func(m *moment) { m.change(channels.Done) }},
		"others claim":       {2, func(m *moment) { m.claimedByOthers() }},
		"others run":         {3, (*moment).runByOthers},
		"unknown state":      {1, (*moment).unknownState},
		"deleted":            {2, (*moment).delete},
	}
	historySteps = steps
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		for range steps[name].weight {
			whatHappens = append(whatHappens, name)
		}
	}
}

// insert adds a job of which anything can become.
func (m *moment) insert() {
	k := key(m.db, fmt.Sprintf("job%d", m.inserted))
	m.inserted++
	m.jobs = append(m.jobs, k)
	for range m.dice.IntN(3) {
		m.PlanFor(k, m.plan())
	}
	m.PlanFor(k, mock.Plan{RunFor: m.pause(2 * time.Second)})
	j := mock.NewJob(k.DB, k.UUID)
	j.Priority, j.MaxRetries = int32(m.dice.IntN(3)), 0
	if m.one(2) {
		j.Channel = "sub"
	}
	if m.one(6) {
		j.ETA = time.Now().Add(m.pause(5 * time.Second)).UnixMicro()
	}
	m.Insert(j)
}

// plan is one request that may go wrong.
func (m *moment) plan() mock.Plan {
	p := mock.Plan{StartAfter: m.pause(time.Second), RunFor: m.pause(5 * time.Second), HoldAnswer: m.pause(500 * time.Millisecond)}
	if m.one(6) {
		p.RunFor *= 6
	}
	if m.one(4) {
		p.LockAfter = min(m.pause(time.Second), 2500*time.Millisecond)
	}
	p.HidesLock = m.one(12)
	switch m.dice.IntN(15) {
	case 12:
		p.StartAfter, p.DropConnAfter = 0, 5*time.Second+m.pause(20*time.Second)
		p.RunFor, p.IgnoresCancel = time.Minute+m.pause(time.Minute), m.one(2)
	case 13:
		p.RunFor, p.IgnoresCancel = time.Minute+m.pause(2*time.Minute), m.one(2)
		p.IgnoresTerminate = m.one(2)
	case 14:
		p.StartAfter, p.AnswerAfter = 0, 1+m.pause(time.Second) // no answer comes before the job has begun
	case 0:
		p.FailBeforeSend = true
	case 1:
		p.Refuse = []int{http.StatusServiceUnavailable, http.StatusSeeOther}[m.dice.IntN(2)]
	case 2:
		p.StayEnqueued = true
	case 3, 4:
		p.StartAfter, p.DropConnAfter = 0, 1+m.pause(time.Second)
	case 5:
		p.DropConnAfter = 1 + m.pause(time.Second)
	case 6:
		p.Crash = true
	case 7:
		// Answered at once: while one node waits for the answer, another that leads meanwhile sees
		// nothing but a pending job.
		p.Ends, p.Then, p.HoldAnswer = channels.Pending, func(j *mock.Job) { j.Retry++ }, 0
	case 8:
		p.Ends, p.Status = channels.Failed, http.StatusInternalServerError
	case 9:
		p.Then = func(j *mock.Job) { j.RawState = "on_hold" }
	}
	return p
}

// long is mostly short, and sometimes so long that something gives up.
func (m *moment) long(mean time.Duration) time.Duration {
	if m.one(5) {
		mean *= 10
	}
	return m.pause(mean)
}

// rowsLocked lets others lock every third row, or all of jobs that run, for a while or for longer.
func (m *moment) rowsLocked() {
	rest := m.dice.Int64N(4)
	m.fault(func(f *mock.Faults) {
		f.Locked = func(j *mock.Job) bool { return j.ID%3 == rest || rest == 3 && j.State.Running() }
	})
	if m.one(2) {
		m.wait(3 * time.Second)
		m.fault(func(f *mock.Faults) { f.Locked = nil })
	}
}

// tableLocked lets others lock the table, so that statements give up, or only those that change rows.
func (m *moment) tableLocked() {
	kind := lockTable
	if m.one(3) {
		kind = lockWrites
	}
	lock := func(err error) { m.fault(func(f *mock.Faults) { kind(f, err) }) }
	lock(errLocked)
	m.hide(m.db, endsWithin)
	if m.one(2) {
		m.wait(5 * time.Second)
		lock(nil)
		m.hide(m.db, readWithin)
	}
}

// lockTable has statements meet a lock, or none.
func lockTable(f *mock.Faults, err error) {
	f.ClaimErr, f.UnclaimErr, f.ReadErr, f.SnapshotErr = err, err, err, err
	f.InspectErr, f.RescueErr, f.AccountErr = err, err, err
}

// lockWrites has those that change rows meet one.
func lockWrites(f *mock.Faults, err error) { f.ClaimErr, f.UnclaimErr, f.RescueErr = err, err, err }

// readWithin is how long it takes until the rows have been read that could not be.
const readWithin = 10 * time.Second

// hide notes for how long rows of a database may not have been read.
func (p *play) hide(db string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hidden[db] = time.Now().Add(d)
}

// fault adds something that is wrong with the database.
func (m *moment) fault(change func(*mock.Faults)) { m.Fault(m.db, change) }

func (m *moment) server(change func(*mock.UpstreamFaults)) {
	m.UpstreamFault(fmt.Sprintf("odoo%d", m.dice.IntN(2)), change)
}

// unclear notes that from now on nobody can know who claimed what.
func (p *play) unclear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disturbed = true
}

// wellAgain repairs a database; only its generation stays.
func (p *play) wellAgain(db string) {
	deaf := false
	p.Fault(db, func(f *mock.Faults) { deaf, *f = f.Deaf, mock.Faults{} })
	p.mu.Lock()
	swapped := p.swapped[db]
	delete(p.swapped, db)
	p.mu.Unlock()
	if swapped {
		p.excuseAll(db) // it was begun in the generation before
	}
	if deaf || swapped {
		p.LoseSession(db) // what was not heard is not heard later
	}
	switch p.base[db] {
	case withLocks:
	case withoutLocks:
		p.WithoutLocks(db)
	case unguarded:
		p.Unguarded(db)
	}
	p.LockHeldBy(db, "")
	p.mu.Lock()
	defer p.mu.Unlock()
	if soon := time.Now().Add(readWithin); p.hidden[db].After(soon) {
		p.hidden[db] = soon
	}
	if _, ok := p.retired[db]; ok {
		delete(p.retired, db)
		p.was[db] = time.Now()
	}
}

func (m *moment) shortOutage() {
	m.fault(func(f *mock.Faults) { f.OpenErr = errFault })
	m.LoseSession(m.db)
	m.wait(10 * time.Second)
	m.fault(func(f *mock.Faults) { f.OpenErr = nil })
}

// channelsFail lets the channels in the database be unreadable for a while, or wrong.
func (m *moment) channelsFail() {
	err := errFault
	if m.one(2) {
		err = fmt.Errorf("%w: %w", driver.ErrChannels, errFault)
	}
	m.fault(func(f *mock.Faults) { f.ChannelsErr = err })
	m.Notify(m.db, mock.ReloadPayload)
}

// comesBackLate takes the lead from a node while a database cannot be reached.
func (m *moment) comesBackLate() {
	m.unclear()
	m.fault(func(f *mock.Faults) { f.OpenErr = errFault })
	m.LoseSession(m.db)
	m.wait(2 * time.Second)
	if m.one(2) {
		m.LoseClusters()
	} else {
		m.node.stop()
		m.node.start()
	}
	m.wait(4 * time.Second)
	m.fault(func(f *mock.Faults) { f.OpenErr = nil })
}

// standby lets another runner have the lock for a while. What was found before may not hold afterwards.
func (m *moment) standby() {
	m.unclear()
	m.LockHeldBy(m.db, "another runner")
	m.LoseSession(m.db)
	m.wait(4 * time.Second)
	switch m.dice.IntN(6) {
	case 0:
		m.retireNow(m.Neutralized)
	case 1:
		m.otherGeneration()
	case 2:
		return // for longer
	}
	m.LockHeldBy(m.db, "")
}

// retire makes the database one that may not be served. A session notices that when it connects.
func (m *moment) retire(how func(string)) {
	m.retireNow(how)
	if !m.one(4) {
		m.LoseSession(m.db)
	}
}

func (m *moment) retireNow(how func(string)) {
	how(m.db)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.retired[m.db]; !ok {
		m.retired[m.db] = time.Now()
	}
}

// otherGeneration upgrades the add-on, or downgrades it, which ends the session. Jobs that run meanwhile
// leave no trace that the new one understands.
func (m *moment) otherGeneration() {
	m.excuseAll(m.db)
	m.endAllForeign([]string{m.db})
	m.base[m.db] = map[generation]generation{withLocks: withoutLocks, withoutLocks: withLocks, unguarded: unguarded}[m.base[m.db]]
	m.mu.Lock()
	_, retired := m.retired[m.db]
	m.swapped[m.db] = retired
	m.mu.Unlock()
	if retired {
		return // it becomes that when it is repaired
	}
	m.fault(func(f *mock.Faults) { f.Fingerprint = nil })
	switch m.base[m.db] {
	case withLocks:
	case withoutLocks:
		m.WithoutLocks(m.db)
	case unguarded:
		m.Unguarded(m.db)
	}
	m.LoseSession(m.db)
}

// excuseAll excuses whatever runs in a database.
func (p *play) excuseAll(db string) {
	for _, r := range p.Live() {
		if r.Task.DB == db {
			p.Excuse(r.Task.Key)
		}
	}
}

// drop drops a database, and makes another one of the same name.
func (m *moment) drop() {
	for _, k := range m.jobs {
		if k.DB == m.db {
			m.touch(k)
		}
	}
	m.jobs = slices.DeleteFunc(m.jobs, func(k channels.Key) bool { return k.DB == m.db })
	m.DropDatabase(m.db)
	m.wait(10 * time.Second)
	m.addDatabase(m.db, m.base[m.db])
}

func (m *moment) reload() {
	m.node.channels(m.one(2))
	m.node.limited(m.one(2))
	m.mu.Lock()
	if m.node.cfg.DatabaseChannels != nil {
		m.h.Trees = true
	}
	m.mu.Unlock()
	if err := m.node.runner.Reconfigure(m.node.cfg); err != nil {
		m.fail("reconfigure: %w", err)
	}
}

// replacedAndPutBack puts a job back by hand while one engine of a process takes the place of another.
func (m *moment) replacedAndPutBack() {
	m.node.stop()
	for _, r := range m.Live() {
		if r.Open() && m.one(2) && m.exists(r.Task.Key) {
			m.touch(r.Task.Key)
			m.SetState(r.Task.Key, channels.Pending)
		}
	}
	m.node.start()
}

func (m *moment) exists(k channels.Key) bool { _, ok := m.Row(k); return ok }

// touch notes that something other than the engines changes a job.
func (p *play) touch(k channels.Key) {
	p.touched[k] = true
	p.Excuse(k)
	p.mu.Lock()
	ran := p.foreign[k]
	delete(p.foreign, k)
	p.mu.Unlock()
	if ran {
		p.FreeLock(k) // whoever changes the row has ended the worker
	}
	p.log.add("others change %s", k)
}

// pick chooses a job in one of some states.
func (m *moment) pick(in ...channels.State) (k channels.Key, ok bool) {
	var list []channels.Key
	for _, row := range m.Rows(m.db) {
		if slices.Contains(in, row.State) {
			list = append(list, row.Key)
		}
	}
	if len(list) == 0 {
		return k, false
	}
	return list[m.dice.IntN(len(list))], true
}

// change lets an operator change the state of a job that has not ended.
func (m *moment) change(to channels.State) {
	if k, ok := m.pick(channels.Pending, channels.Enqueued, channels.Started, channels.Unknown); ok {
		m.touch(k)
		m.SetState(k, to)
	}
}

func (m *moment) unknownState() {
	if k, ok := m.pick(channels.Pending, channels.Enqueued, channels.Started); ok {
		m.touch(k)
		m.Update(k, func(j *mock.Job) { j.RawState = "on_hold" })
	}
}

func (m *moment) delete() {
	if k, ok := m.pick(channels.Pending, channels.Enqueued, channels.Started, channels.Failed); ok {
		m.touch(k)
		m.jobs = slices.DeleteFunc(m.jobs, func(o channels.Key) bool { return o == k })
		m.Delete(k)
	}
}

// claimedByOthers lets another program claim a job, and say when or not.
func (m *moment) claimedByOthers() (k channels.Key, ok bool) {
	if k, ok = m.pick(channels.Pending); !ok {
		return k, false
	}
	m.touch(k)
	at := []time.Duration{0, 5 * time.Second, time.Minute, 0}[m.dice.IntN(4)]
	dated := m.one(4)
	m.Update(k, func(j *mock.Job) {
		if j.State, j.Enqueued = channels.Enqueued, time.Now().Add(-at).Truncate(time.Second).UnixMicro(); dated {
			j.Enqueued = 0
		}
	})
	return k, true
}

// runByOthers lets another program claim a job, and a worker run it for it, unless it has been put back and
// claimed again meanwhile: that request is turned away then, which the check of what is sent does not know.
// The lock row follows the start a little later.
func (m *moment) runByOthers() {
	k, ok := m.claimedByOthers()
	if !ok {
		return
	}
	claimed, _ := m.Row(k)
	m.wait(6 * time.Second)
	row, ok := m.Row(k)
	ours := func(r mock.Run) bool { return r.Task.Key == k }
	if !ok || row.State != channels.Enqueued || row.Enqueued != claimed.Enqueued || slices.ContainsFunc(m.Live(), ours) {
		return
	}
	m.mu.Lock()
	m.foreign[k] = true
	m.mu.Unlock()
	m.SetState(k, channels.Started)
	if m.base[m.db] == withLocks {
		m.settle(time.Duration(m.dice.IntN(2500)) * time.Millisecond)
		m.HoldLock(k, 7)
	}
	if m.one(2) {
		m.wait(8 * time.Second)
		m.endForeign(k)
	}
}

// endForeign ends the job that a worker of others runs.
func (p *play) endForeign(k channels.Key) {
	p.mu.Lock()
	runs := p.foreign[k]
	delete(p.foreign, k)
	p.mu.Unlock()
	if row, ok := p.Row(k); runs && ok {
		p.FreeLock(k)
		if row.State == channels.Started {
			p.SetState(k, channels.Done)
		}
	}
}

// endAllForeign does so for all.
func (p *play) endAllForeign(dbs []string) {
	p.mu.Lock()
	keys := slices.Collect(maps.Keys(p.foreign))
	p.mu.Unlock()
	for _, k := range keys {
		if slices.Contains(dbs, k.DB) {
			p.endForeign(k)
		}
	}
}
