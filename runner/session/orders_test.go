package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// faulty is a script whose methods fail as told, and which claims nothing then.
type faulty struct {
	script

	errs map[string]error
	// claims and reads are what was asked for together.
	claims, reads [][]string
	found         driver.Fingerprint
	// slow is how long the first fingerprint takes to arrive, held how often another program has the lock,
	// and then what is found afterwards.
	slow     time.Duration
	held     int
	then     *driver.Fingerprint
	listened int
	followed driver.Driver
	// failed are the texts of the tasks that were failed.
	failed []string
}

// noted guards what tests and fakes share while a session runs: errs, read and told.
var noted sync.Mutex

func (d *faulty) err(method string) error {
	noted.Lock()
	defer noted.Unlock()
	return d.errs[method]
}

func (d *faulty) asked() [][]string {
	noted.Lock()
	defer noted.Unlock()
	return slices.Clone(d.read)
}

func (d *faulty) mend(method string) {
	noted.Lock()
	defer noted.Unlock()
	delete(d.errs, method)
}

func (d *faulty) Follow(f driver.Driver) { d.followed = f }

func (d *faulty) OpenSession(context.Context, *pgx.ConnConfig, string) (driver.Session, error) {
	if d.opened != nil {
		d.opened()
	}
	return d, d.err("OpenSession")
}

func (d *faulty) Fingerprint(context.Context) (driver.Fingerprint, error) {
	found := d.found
	<-time.After(d.slow)
	d.slow = 0
	return found, d.err("Fingerprint")
}
func (d *faulty) Running(context.Context) ([]driver.Row, error) { return nil, d.err("Running") }

func (d *faulty) Listen(context.Context) error {
	d.listened++
	return d.err("Listen")
}

func (d *faulty) Channels(context.Context) ([]channels.Config, error) {
	return nil, d.err("Channels")
}

func (d *faulty) Lock(context.Context) (driver.Lock, error) {
	if d.held--; d.held >= 0 {
		return driver.Lock{Holder: "pid 7"}, nil
	}
	if d.then != nil {
		d.found = *d.then
		if d.found.Health == driver.Unhealthy {
			d.errs = map[string]error{"Fingerprint": errors.New("failed")}
		}
	}
	return driver.Lock{Held: true}, d.err("Lock")
}

func (d *faulty) Snapshot(context.Context, func(driver.Row)) error { return d.err("Snapshot") }

func (d *faulty) Claim(_ context.Context, uuids, reads []string) (got []driver.Task, rows []driver.Row, err error) {
	d.claims, d.reads = append(d.claims, uuids), append(d.reads, reads)
	for _, uuid := range uuids {
		switch uuid {
		case "locked":
		case "renamed":
			got = append(got, driver.Task{Key: channels.Key{UUID: "another"}})
		default:
			got = append(got, driver.Task{Key: channels.Key{UUID: uuid}})
		}
	}
	return got, rowsOf(channels.Pending, reads...), d.err("Claim")
}

func (d *faulty) Read(_ context.Context, uuids []string) ([]driver.Row, error) {
	noted.Lock()
	d.read = append(d.read, uuids)
	noted.Unlock()
	return rowsOf(channels.Pending, uuids...), d.err("Read")
}

func (d *faulty) Unclaim(context.Context, []driver.Task) ([]driver.Row, error) {
	return nil, d.err("Unclaim")
}

func (d *faulty) Inspect(context.Context, []string) ([]driver.Liveness, error) {
	return nil, d.err("Inspect")
}

func (d *faulty) Rescue(context.Context, []driver.Liveness) ([]driver.Row, error) {
	return nil, d.err("Rescue")
}

func (d *faulty) FailUnclaimed(_ context.Context, _ []driver.Task, why []string) ([]driver.Row, error) {
	d.failed = append(d.failed, why...)
	return nil, d.err("FailUnclaimed")
}

func (d *faulty) FailDead(_ context.Context, _ []driver.Liveness, why []string) ([]driver.Row, error) {
	d.failed = append(d.failed, why...)
	return nil, d.err("FailDead")
}

func rowsOf(state channels.State, uuids ...string) (rows []driver.Row) {
	for _, uuid := range uuids {
		rows = append(rows, driver.Row{Job: channels.Job{Key: channels.Key{UUID: uuid}}, State: state})
	}
	return rows
}

// clerk is a listener that notes what it is told, in words.
type clerk struct {
	ear
	told     []string
	notified int
}

// heard is what it has been told, while the session runs.
func (c *clerk) heard() []string {
	noted.Lock()
	defer noted.Unlock()
	return slices.Clone(c.told)
}

func (c *clerk) tell(what string) {
	noted.Lock()
	defer noted.Unlock()
	c.told = append(c.told, what)
}
func (c *clerk) Fingerprinted(fp driver.Fingerprint)                  { c.tell("found " + fp.Health.String()) }
func (c *clerk) Channels([]channels.Config, error)                    { c.tell("channels") }
func (c *clerk) Running([]driver.Row)                                 { c.tell("running") }
func (c *clerk) Scheduled(context.Context)                            { c.tell("scheduled") }
func (c *clerk) Unclaimed([]driver.Task, []driver.Row)                { c.tell("unclaimed") }
func (c *clerk) Inspected([]driver.Liveness)                          { c.tell("inspected") }
func (c *clerk) Rescued([]driver.Row)                                 { c.tell("rescued") }
func (c *clerk) Released(rows []driver.Row)                           { c.tell(fmt.Sprintf("%d released", len(rows))) }
func (c *clerk) Stopped([]driver.Task, []driver.Stopped, bool, error) { c.tell("stopped") }
func (c *clerk) Accounted([]driver.Cause, []driver.Row, error)        { c.tell("accounted") }
func (c *clerk) SnapshotBegin()                                       { c.tell("snapshot") }
func (c *clerk) SnapshotEnd(named map[string]struct{}, _ driver.Keys) {
	c.tell(fmt.Sprintf("%d named", len(named)))
}
func (c *clerk) SnapshotRows(_ context.Context, _ []driver.Row) bool { return true }

func (c *clerk) Rows(r Reading) {
	if r.Locked {
		c.tell("locked")
		return
	}
	c.notified = r.Notified
	c.tell(fmt.Sprintf("%d rows, %d gone", len(r.Rows), len(r.Gone)))
}

func (c *clerk) Claimed(r Claims) {
	c.tell(fmt.Sprintf("%d claimed, %d missed, %d gone", len(r.Got), len(r.Missed), len(r.Gone)))
}

func (c *clerk) Vacant(v Vacant) {
	c.tell(fmt.Sprintf("vacant: %d rows, %d claimed", len(v.Reading.Rows), len(v.Got)))
}

func faultyOf(out Listener, errs map[string]error) (*faulty, *Session) {
	d := &faulty{errs: errs, found: driver.Fingerprint{Health: driver.Healthy}}
	s := New("prod", func() Config {
		return Config{Driver: d, DatabaseChannels: true, DiscoverInterval: time.Hour, Logger: zap.NewNop()}
	}, out)
	s.conn = d
	return d, s
}

// Every order ends the wait for notifications, whether it is given before or during it.
func TestOrdersEndTheWait(t *testing.T) {
	for name, order := range map[string]func(*Session){
		"claim": func(s *Session) { s.Claim("a") }, "read": func(s *Session) { s.Read("a") },
		"unclaim": func(s *Session) { s.Unclaim(driver.Task{}) }, "inspect": func(s *Session) { s.Inspect([]string{"a"}) },
		"rescue": func(s *Session) { s.Rescue(driver.Liveness{}) }, "resync": func(s *Session) { s.Resync() },
		"cancel": func(s *Session) { s.Stop(driver.Task{}, false) }, "terminate": func(s *Session) { s.Stop(driver.Task{}, true) },
		"sleep":          func(s *Session) { s.Sleep(nil) },
		"account":        func(s *Session) { s.Account(driver.Cause{}) },
		"channels":       func(s *Session) { s.ReloadChannels() },
		"fail dead":      func(s *Session) { s.FailDead(driver.Liveness{}, "why") },
		"fail unclaimed": func(s *Session) { s.FailUnclaimed(driver.Task{}, "why") },
		"fail stopped":   func(s *Session) { s.FailStopped(driver.Liveness{}, "why") },
		"release":        func(s *Session) { s.Release(nil, 0, nil) },
		"upgrade":        func(s *Session) { s.CheckUpgrade() },
		"jobs are to be looked at": func(s *Session) {
			s.dependents = make([]dependents, 1)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wake()
		},
		"the channels have changed": func(s *Session) {
			s.reload = true
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wake()
		},
		"a row is to be read": func(s *Session) {
			s.dirty.add("a")
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wake()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, s := faultyOf(&clerk{}, nil)
				s.heard, s.resyncAt = time.Now(), time.Now().Add(time.Hour)
				waited := make(chan error)
				go func() { waited <- s.wait(t.Context()) }()
				synctest.Wait()
				order(s)
				began := time.Now()
				require.NoError(t, <-waited)
				require.NoError(t, s.wait(t.Context()))
				require.Equal(t, began, time.Now())
				require.Nil(t, s.interrupt)
			})
		})
	}
}

// An order that is taken back is not carried out.
func TestOrdersTakenBack(t *testing.T) {
	_, s := faultyOf(&clerk{}, nil)
	s.Claim("a", "b")
	require.Equal(t, []string{"a", "b"}, s.DropClaims())
	require.Empty(t, s.DropClaims())
	s.Read("a")
	s.Read("b", "c", "d")
	s.Unread("a")
	s.Unread("c")
	s.Unread("never ordered")
	o := s.take()
	require.Empty(t, o.claims)
	require.Equal(t, []string{"b", "d"}, o.reads)
	require.EqualValues(t, 2, o.read)
}

// Whatever fails ends the connection, and nothing is said of what it should have done.
func TestFailuresEndTheConnection(t *testing.T) {
	failed := errors.New("failed")
	for method, order := range map[string]orders{
		"Claim":    {claims: []string{"a"}},
		"Read":     {reads: []string{"a"}},
		"Unclaim":  {unclaims: []driver.Task{{}}},
		"Inspect":  {inspects: []string{"a"}},
		"Rescue":   {rescues: []driver.Liveness{{}}},
		"Channels": {channels: true},
		"Snapshot": {resync: true},

		"FailUnclaimed": {failUnclaims: condemned[driver.Task]{make([]driver.Task, 1), []string{"why"}}},
		"FailDead":      {failRescues: condemned[driver.Liveness]{make([]driver.Liveness, 1), []string{"why"}}},
	} {
		t.Run(method, func(t *testing.T) {
			for _, behind := range []int{0, 1} {
				out := &clerk{}
				_, s := faultyOf(out, map[string]error{method: failed})
				s.heard, s.probed, s.resyncAt, s.batch = time.Now(), time.Now(), time.Now().Add(time.Hour), behind
				s.todo = order
				require.ErrorIs(t, s.loop(t.Context()), failed)
				if method == "Snapshot" {
					require.Equal(t, []string{"found healthy", "channels", "snapshot"}, out.told)
					continue
				}
				require.Empty(t, out.told)
			}
		})
	}
}

// Tasks fail each with its text, and a driver that cannot fail any, although it says so, is no reason
// to forget what was to be done.
func TestTasksThatFail(t *testing.T) {
	out := &clerk{}
	d, s := faultyOf(out, nil)
	s.FailUnclaimed(driver.Task{}, "one")
	s.FailUnclaimed(driver.Task{}, "two")
	s.FailDead(driver.Liveness{}, "three")
	o := s.take()
	require.NoError(t, s.execute(t.Context(), &o))
	require.Equal(t, []string{"one", "two", "three"}, d.failed)
	require.Equal(t, []string{"unclaimed", "rescued"}, out.told)

	s.conn = struct{ driver.Session }{d}
	require.ErrorIs(t, s.execute(t.Context(), &o), errNoQuarantine)
	require.NoError(t, s.execute(t.Context(), &orders{}))
}

// What was claimed is told even if the rows of the others cannot be read; these are not gone.
func TestMissedClaims(t *testing.T) {
	failed := errors.New("failed")
	out := &clerk{}
	d, s := faultyOf(out, nil)
	require.NoError(t, s.claim(t.Context(), []string{"a", "locked"}, []string{"r"}))
	require.Equal(t, []string{"1 rows, 0 gone", "1 claimed, 0 missed, 0 gone", "scheduled", "0 claimed, 1 missed, 0 gone"}, out.told)
	require.Equal(t, [][]string{{"locked"}}, d.read)

	// One that has another name now is none that was got, however many were.
	for _, uuids := range [][]string{{"renamed"}, {"a", "renamed"}} {
		out.told, d.read = nil, nil
		require.NoError(t, s.claim(t.Context(), uuids, nil))
		require.Equal(t, []string{fmt.Sprintf("%d claimed, 0 missed, 0 gone", len(uuids)), "0 claimed, 1 missed, 0 gone"}, out.told)
		require.Equal(t, [][]string{{"renamed"}}, d.read)
	}
	out.told, d.read = nil, nil
	require.NoError(t, s.claim(t.Context(), []string{"a", "b"}, nil))
	require.Equal(t, []string{"2 claimed, 0 missed, 0 gone"}, out.told)
	require.Empty(t, d.read)

	out.told, d.errs = nil, map[string]error{"Read": failed}
	require.ErrorIs(t, s.claim(t.Context(), []string{"a", "locked"}, nil), failed)
	require.Equal(t, []string{"1 claimed, 0 missed, 0 gone"}, out.told)
}

// While there is more to read than one read takes, claims go first and alone, once.
func TestClaimsGoFirstWhileMuchIsRead(t *testing.T) {
	out := &clerk{}
	d, s := faultyOf(out, nil)
	for i := range 2000 {
		s.dirty.add(fmt.Sprint(i))
	}
	var sizes []int
	for range 4 {
		require.NoError(t, s.execute(t.Context(), &orders{claims: []string{"a"}}))
		if n := len(d.reads) - 1; d.reads[n] != nil {
			sizes = append(sizes, len(d.reads[n]))
		} else {
			sizes = append(sizes, len(d.read[len(d.read)-1]))
		}
	}
	require.Len(t, d.claims, 4)
	require.Equal(t, []int{readBatchFirst, readBatchFirst * readBatchGrowth, readBatch, 500}, sizes)
	require.Len(t, d.reads[0], readBatchFirst, "the first read goes with the claim")
	for _, reads := range d.reads[1:] {
		require.Nil(t, reads)
	}
	require.Zero(t, s.batch)
	s.dirty.add("x")
	require.NoError(t, s.execute(t.Context(), &orders{claims: []string{"a"}}))
	require.Len(t, d.claims, 5)
	require.Equal(t, []string{"x"}, d.reads[4], "they go together again")
}

// What is beyond the limit of jobs that wait to be read is left to a snapshot.
func TestMoreChangesThanMayWait(t *testing.T) {
	d, s := faultyOf(&clerk{}, nil)
	for i := range backlogLimit - 1 {
		s.dirty.add(strconv.Itoa(i))
	}
	changed := []string{"x"}
	d.wait = func(context.Context) (driver.Notifications, error) {
		return driver.Notifications{Changed: changed}, nil
	}
	require.NoError(t, s.collect())
	require.False(t, s.overflow)
	require.Equal(t, backlogLimit, s.dirty.len())
	changed = []string{"y", "z"}
	require.NoError(t, s.collect())
	require.True(t, s.overflow)
	require.Equal(t, backlogLimit, s.dirty.len())
}

// What overflows, is heard or is to be reloaded stays so until it has been dealt with.
func TestNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var next driver.Notifications
		out := &clerk{}
		d, s := faultyOf(out, nil)
		d.wait = func(context.Context) (driver.Notifications, error) { return next, nil }
		for name, n := range map[string]driver.Notifications{
			"a change": {Changed: []string{"a"}}, "an echo": {Echoes: []string{"a"}}, "a reload": {Reload: true},
		} {
			timing.Sleep(t.Context(), time.Second)
			next = n
			require.NoError(t, s.collect())
			require.Equal(t, time.Now(), s.heard, name)
			require.True(t, s.Pulse().Heard.Equal(time.Now()), name)
		}
		require.EqualValues(t, 1, s.Pulse().Notifications)
		next = driver.Notifications{Changed: []string{"b"}, Overflow: true}
		require.NoError(t, s.collect())
		next = driver.Notifications{Changed: []string{"c"}}
		require.NoError(t, s.collect())
		require.True(t, s.overflow)
		require.True(t, s.reload)
		s.deliver([]string{"a"}, rowsOf(channels.Pending, "a"))
		require.Equal(t, 3, out.notified)
		s.deliver([]string{"b"}, nil)
		require.Zero(t, out.notified, "each is told once")

		// What is beyond the limit is not kept, and makes a snapshot necessary.
		s.overflow, s.dirty = false, backlog{}
		for i := range backlogLimit {
			next.Changed = append(next.Changed, fmt.Sprint(i))
		}
		next.Changed = next.Changed[1:]
		require.NoError(t, s.collect())
		require.False(t, s.overflow)
		next.Changed = []string{"x", "y"}
		require.NoError(t, s.collect())
		require.Equal(t, backlogLimit, s.dirty.len())
		require.True(t, s.overflow)
	})
}

// A job that has ended, or is read anyway, is not waited for.
func TestForeseenRowsThatAreReadAnyway(t *testing.T) {
	now := time.Now()
	_, s := faultyOf(&clerk{}, nil)
	s.heard = now
	for _, uuid := range []string{"ended", "runs", "read"} {
		s.foreseen.claimed(uuid)
	}
	s.deliver([]string{"ended", "runs"}, append(rowsOf(channels.Done, "ended"), rowsOf(channels.Started, "runs")...))
	require.Equal(t, stageEnded, s.foreseen.stages["ended"])
	require.Equal(t, stageClaimed, s.foreseen.stages["runs"])
	require.True(t, s.foreseen.wait("read", now))
	s.dirty.add("read")
	require.Equal(t, []string{"read"}, s.nextRead(nil))
	require.Zero(t, s.foreseen.waiting.len())
	require.True(t, s.foreseen.due().IsZero())
}

// What fails before the database is served is told as such, and what fails later as a loss; what the
// end of the session itself breaks is not told at all.
func TestWhatFailsIsTold(t *testing.T) {
	failed := errors.New("failed")
	for method, want := range map[string]State{
		"OpenSession": Unreachable, "Fingerprint": Unreachable, "Lock": Unreachable, "Listen": Unreachable,
		"Running": Lost, "Channels": Lost, "Snapshot": Lost,
	} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := &clerk{}
				_, s := faultyOf(out, map[string]error{method: failed})
				_, err := s.serve(t.Context(), &timing.Backoff{First: 1, Limit: 1})
				require.ErrorIs(t, err, failed)
				require.Equal(t, []State{want}, out.states)
				require.Equal(t, want == Lost && method != "Running", slices.Contains(out.told, "running"))
				require.Contains(t, out.detail, "failed")
				require.True(t, s.Pulse().Connected.IsZero())

				if want == Unreachable && method != "OpenSession" {
					out.states = nil
					ctx, cancel := context.WithCancel(t.Context())
					cancel()
					_, err = s.serve(ctx, &timing.Backoff{First: 1, Limit: 1})
					require.ErrorIs(t, err, failed)
					require.Empty(t, out.states)
				}
			})
		})
	}
}

// A database with nothing to serve is examined at the interval, and one that cannot be served sooner.
// A panic ends one connection.
func TestWhenItConnectsAgain(t *testing.T) {
	for name, c := range map[string]struct {
		health      driver.Health
		panics      bool
		least, most time.Duration
		states      []State
	}{
		"undetected":  {driver.Undetected, false, 40 * time.Minute, 80 * time.Minute, []State{Connecting, Connecting}},
		"neutralized": {driver.Neutralized, false, 40 * time.Minute, 80 * time.Minute, []State{Connecting, Connecting}},
		"unhealthy":   {driver.Unhealthy, false, reconnectFirst / 2, 2 * reconnectFirst, []State{Connecting, Connecting}},
		"panic":       {driver.Undetected, true, reconnectLimit, reconnectLimit, []State{Connecting, Lost, Connecting}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := &clerk{}
				d, s := faultyOf(out, nil)
				d.found.Health = c.health
				type open struct {
					at     time.Time
					states []State
				}
				opened := make(chan open)
				d.opened = func() {
					states, _ := out.seen()
					opened <- open{time.Now(), states}
					if c.panics {
						panic("on purpose")
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				over := make(chan struct{})
				go func() { defer close(over); s.Run(ctx) }()
				first, again := <-opened, <-opened
				second := again.at.Sub(first.at)
				require.Equal(t, c.states, again.states)
				require.GreaterOrEqual(t, second, c.least)
				require.LessOrEqual(t, second, c.most)
				if !c.panics {
					// The pause does not grow where there is nothing wrong.
					third := (<-opened).at.Sub(again.at)
					require.LessOrEqual(t, third, 2*c.most)
				}
				cancel()
				<-over
			})
		})
	}
}

// What was found before a wait for the lock is found out again after it.
func TestExaminedAgainAfterAWait(t *testing.T) {
	for name, c := range map[string]struct {
		slow   time.Duration
		held   int
		then   driver.Fingerprint
		err    string
		told   []string
		listen int
	}{
		"no wait": {foundFresh - 1, 0, driver.Fingerprint{Health: driver.Neutralized}, "", []string{"found healthy"}, 1},
		"as before": {
			0, 2, driver.Fingerprint{Health: driver.Healthy, Generation: "17.0"}, "",
			[]string{"found healthy", "found healthy"}, 1,
		},
		"another generation": {
			0, 1, driver.Fingerprint{Health: driver.Healthy, Generation: "18.0"}, "it was 17.0, and is 18.0",
			[]string{"found healthy", "found healthy"}, 0,
		},
		"neutralized": {
			0, 1, driver.Fingerprint{Health: driver.Neutralized, Generation: "18.0"}, "",
			[]string{"found healthy", "found neutralized"}, 0,
		},
		"neutralized meanwhile": {
			foundFresh, 0, driver.Fingerprint{Health: driver.Neutralized}, "",
			[]string{"found healthy", "found neutralized"}, 0,
		},
		"cannot be found out": {0, 1, driver.Fingerprint{Health: driver.Unhealthy}, "fingerprint: failed", []string{"found healthy"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				out := &clerk{}
				d, s := faultyOf(out, nil)
				d.found.Generation, d.slow, d.held, d.then = "17.0", c.slow, c.held, &c.then
				began := time.Now()
				_, err := s.prepare(t.Context())
				if c.err != "" {
					require.ErrorContains(t, err, c.err)
				} else {
					require.NoError(t, err)
				}
				require.Equal(t, c.told, out.told)
				require.Equal(t, c.listen, d.listened)
				require.Len(t, out.states, c.held)
				require.InDelta(t, time.Duration(c.held)*lockInterval, time.Since(began), float64(lockInterval))
				require.Same(t, d, d.followed, "the options in force")
			})
		})
	}
}

// A neutralized database tells what still runs there, and is not locked.
func TestNeutralizedDatabaseTellsWhatRuns(t *testing.T) {
	out := &clerk{}
	d, s := faultyOf(out, map[string]error{"Lock": errors.New("not to be asked for")})
	d.found.Health = driver.Neutralized
	_, err := s.prepare(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"found neutralized", "running"}, out.told)

	out.told, d.found.Health = nil, driver.Undetected
	_, err = s.prepare(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"found undetected"}, out.told)
}

// A database that is not what it was ends the connection before the next snapshot, in words of its own.
func TestChangedBeforeASnapshot(t *testing.T) {
	out := &clerk{}
	d, s := faultyOf(out, nil)
	d.found.Health = driver.Undetected
	err := s.attend(t.Context())
	require.ErrorIs(t, err, driver.ErrChanged)
	s.lost(err)
	require.Equal(t, []State{Changed}, out.states)
	require.Equal(t, []string{"found undetected"}, out.told)

	out.told, d.errs = nil, map[string]error{"Fingerprint": errors.New("failed")}
	err = s.attend(t.Context())
	require.ErrorContains(t, err, "fingerprint: failed")
	s.lost(err)
	require.Equal(t, []State{Changed, Lost}, out.states)
	require.Empty(t, out.told)
}

// A snapshot that did not hear to its end what was named meanwhile has not ended.
func TestSnapshotThatCannotHear(t *testing.T) {
	failed := errors.New("failed")
	out := &clerk{}
	d, s := faultyOf(out, nil)
	d.wait = func(context.Context) (driver.Notifications, error) { return driver.Notifications{}, failed }
	require.ErrorIs(t, s.snapshot(t.Context()), failed)
	require.Equal(t, []string{"channels", "snapshot"}, out.told)
	require.True(t, s.Pulse().Synced.IsZero())
	d.wait = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now().Truncate(time.Microsecond)
	require.NoError(t, s.snapshot(ctx))
	require.False(t, s.Pulse().Heard.Before(began))
	require.False(t, s.Pulse().Synced.Before(began))
}

// However many claims there are, each is made, and what a read lets start is ordered before the next wait.
func TestManyClaims(t *testing.T) {
	out := &clerk{}
	d, s := faultyOf(out, nil)
	claims := make([]string, claimBatch+1)
	for i := range claims {
		claims[i] = fmt.Sprint(i)
	}
	began := time.Now().Truncate(time.Microsecond)
	require.NoError(t, s.claimAll(t.Context(), claims, []string{"r"}))
	require.False(t, s.Pulse().Heard.Before(began))
	require.Len(t, d.claims, 2)
	require.Equal(t, claims, append(d.claims[0], d.claims[1]...))
	require.Equal(t, [][]string{{"r"}, nil}, d.reads, "once")
	out.told = nil
	require.NoError(t, s.claimAll(t.Context(), nil, []string{"r"}))
	require.Equal(t, []string{"1 rows, 0 gone", "scheduled"}, out.told)
}

// A backlog holds each job once, and keeps no memory when it is empty.
func TestBacklogGivesMemoryBack(t *testing.T) {
	for _, empty := range []func(*backlog){
		func(b *backlog) { b.take(nil, 9) }, func(b *backlog) { b.take([]string{"a"}, 9) }, func(b *backlog) { b.drop("a") },
	} {
		var b backlog
		b.add("a")
		b.add("a")
		require.Equal(t, backlog{list: []string{"a"}, set: map[string]struct{}{"a": {}}}, b)
		empty(&b)
		require.Equal(t, backlog{}, b)
	}
}

// An answer and the row say both that a job has ended, and one that is claimed again is another one.
func TestForeseenEndsOnce(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var f foreseen
	f.claimed("a")
	f.end("a", now)
	f.end("a", now.Add(foreseenDelay/2))
	require.Len(t, f.ended, 1)
	f.claimed("a")
	f.end("other", now.Add(2*foreseenDelay))
	require.Equal(t, map[string]stage{"a": stageClaimed}, f.stages)
	require.Empty(t, f.ended)
}

// Channels are told when they have changed, and whenever there is a mistake in them.
func TestChannelsAreTold(t *testing.T) {
	out := &clerk{}
	d, s := faultyOf(out, map[string]error{})
	require.NoError(t, s.readChannels(t.Context()))
	require.Equal(t, []string{"channels"}, out.told)
	require.NoError(t, s.checkChannels(t.Context()))
	require.Len(t, out.told, 1, "they are as they were")
	s.channels = []channels.Config{{Name: "root"}}
	require.NoError(t, s.checkChannels(t.Context()))
	require.Len(t, out.told, 2)
	for n := range 2 {
		d.errs["Channels"] = fmt.Errorf("a mistake: %w", driver.ErrChannels)
		require.NoError(t, s.checkChannels(t.Context()))
		require.Len(t, out.told, 3+n)
	}
	d.errs["Channels"] = driver.ErrLost
	require.ErrorIs(t, s.checkChannels(t.Context()), driver.ErrLost)
	require.Len(t, out.told, 4)
}
