package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
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

// script is a database that is served as told, and notes what it is asked for.
type script struct {
	driver.Driver
	driver.Session

	opened  func()
	rows    int // in a snapshot
	wait    func(ctx context.Context) (driver.Notifications, error)
	claimed [][]string
	read    [][]string
	probes  int
	// patience is how long the end of the connection might have taken.
	patience time.Duration
}

func (d *script) OpenSession(context.Context, *pgx.ConnConfig, string) (driver.Session, error) {
	if d.opened != nil {
		d.opened()
	}
	return d, nil
}

func (d *script) Fingerprint(context.Context) (driver.Fingerprint, error) {
	return driver.Fingerprint{Health: driver.Healthy}, nil
}
func (d *script) Lock(context.Context) (driver.Lock, error) { return driver.Lock{Held: true}, nil }
func (d *script) Listen(context.Context) error              { return nil }
func (d *script) Close(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok {
		d.patience = time.Until(deadline)
	}
	return nil
}

func (d *script) Running(context.Context) ([]driver.Row, error) { return nil, nil }

func (d *script) Snapshot(_ context.Context, yield func(driver.Row)) error {
	for i := range d.rows {
		yield(driver.Row{Job: channels.Job{Key: channels.Key{UUID: fmt.Sprint(i)}}})
	}
	return nil
}

func (d *script) Read(_ context.Context, uuids []string) (rows []driver.Row, err error) {
	d.read = append(d.read, uuids)
	return nil, nil
}

func (d *script) Claim(_ context.Context, uuids, _ []string) (got []driver.Task, rows []driver.Row, err error) {
	d.claimed = append(d.claimed, uuids)
	for _, uuid := range uuids {
		got = append(got, driver.Task{Key: channels.Key{UUID: uuid}})
	}
	return got, nil, nil
}

func (d *script) Probe(context.Context) error {
	d.probes++
	return nil
}

func (d *script) Wait(ctx context.Context) (driver.Notifications, error) {
	if d.wait != nil {
		return d.wait(ctx)
	}
	<-ctx.Done()
	return driver.Notifications{}, nil
}

// ear is a listener that notes the chunks of a snapshot.
type ear struct {
	mu sync.Mutex // guards states and detail, which are read while the session runs
	deaf

	early  bool // what SnapshotRows answers
	chunks [][]driver.Row
	named  map[string]struct{}
	ends   int
	states []State
	detail string
}

func (e *ear) State(s State, detail string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.states, e.detail = append(e.states, s), detail
}

// seen returns the states that were reported, and the last detail.
func (e *ear) seen() ([]State, string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.states), e.detail
}

func (*ear) Fingerprinted(driver.Fingerprint)                   {}
func (*ear) Channels([]channels.Config, error)                  {}
func (*ear) SnapshotBegin()                                     {}
func (*ear) Running([]driver.Row)                               {}
func (e *ear) SnapshotEnd(m map[string]struct{}, _ driver.Keys) { e.named, e.ends = m, e.ends+1 }

func (e *ear) SnapshotRows(_ context.Context, rows []driver.Row) bool {
	e.chunks = append(e.chunks, rows)
	return e.early
}

func scripted(d *script, out Listener) *Session {
	s := New("prod", func() Config { return Config{Driver: d, Logger: zap.NewNop()} }, out)
	s.conn = d
	return s
}

// A claim whose notification does not come back ends the connection after echoTimeout, not
// before, and the session wakes up for it by itself.
func TestMissingEchoEndsTheConnection(t *testing.T) {
	for _, echo := range []bool{false, true} {
		t.Run(fmt.Sprintf("echo=%t", echo), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &script{}
				s := scripted(d, &ear{})
				s.resyncAt, s.heard, s.probed = time.Now().Add(time.Hour), time.Now(), time.Now()
				s.pulse.synced.Store(time.Now().UnixMicro())
				require.NoError(t, s.claim(t.Context(), []string{"a"}, nil))
				began := s.echoSince
				require.False(t, began.IsZero())
				timing.Sleep(t.Context(), time.Second)
				require.NoError(t, s.claim(t.Context(), []string{"b"}, nil))
				require.Equal(t, began, s.echoSince, "the oldest claim counts")
				require.Equal(t, began.Add(echoTimeout), s.deadline())
				timing.Sleep(t.Context(), time.Until(began.Add(echoTimeout-1)))
				require.NoError(t, s.attend(t.Context()))
				if echo {
					d.wait = func(context.Context) (driver.Notifications, error) {
						return driver.Notifications{Echoes: []string{"a"}}, nil
					}
					require.NoError(t, s.collect())
				}
				timing.Sleep(t.Context(), 1)
				err := s.attend(t.Context())
				if echo {
					require.NoError(t, err)
					require.True(t, s.echoSince.IsZero())
					return
				}
				require.ErrorIs(t, err, driver.ErrLost)
				require.ErrorContains(t, err, "no notification of our own claim within 10s")
			})
		})
	}
}

// PostgreSQL is told that a connection ends, and given two seconds for it, even if all is to end.
func TestHowAConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &script{}
		s := scripted(d, &ear{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.close(ctx)
		require.Nil(t, s.conn)
		require.Equal(t, 2*time.Second, d.patience)
	})
}

// A claim that gets nothing has no echo to wait for.
func TestNothingClaimedHasNoEcho(t *testing.T) {
	s := scripted(&script{}, &ear{})
	require.NoError(t, s.claim(t.Context(), nil, []string{"a"}))
	require.True(t, s.echoSince.IsZero())
}

// What another says is no echo of ours.
func TestChangesOfOthersAreNoEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &script{wait: func(context.Context) (driver.Notifications, error) {
			return driver.Notifications{Changed: []string{"b"}}, nil
		}}
		s := scripted(d, &ear{})
		require.NoError(t, s.claim(t.Context(), []string{"a"}, nil))
		timing.Sleep(t.Context(), time.Second)
		require.NoError(t, s.collect())
		require.False(t, s.echoSince.IsZero())
		require.Equal(t, time.Now(), s.heard, "but PostgreSQL was heard")
	})
}

// A trigger of others can change jobs in a statement of ours, which names them as our own doing. They
// are read; what was claimed is not.
func TestOtherJobsOfAnEchoAreRead(t *testing.T) {
	s := scripted(&script{}, &ear{})
	hear := func(n driver.Notifications) {
		s.conn = &script{wait: func(context.Context) (driver.Notifications, error) { return n, nil }}
		require.NoError(t, s.collect())
	}
	require.NoError(t, s.claim(t.Context(), []string{"a"}, nil))
	hear(driver.Notifications{Echoes: []string{"a", "b"}, Changed: []string{"a"}})
	require.Equal(t, []string{"b"}, s.dirty.take(nil, 9))
	for i := range backlogLimit {
		s.dirty.add(strconv.Itoa(i))
	}
	hear(driver.Notifications{Echoes: []string{"c"}})
	require.Equal(t, backlogLimit, s.dirty.len())
	require.True(t, s.overflow, "all are read instead")
}

// A silent session is probed after probeInterval, and one that is never silent after probeLimit;
// nobody is heard by waiting in vain.
func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &script{}
		s := scripted(d, &ear{})
		now := time.Now()
		s.resyncAt, s.heard, s.probed = now.Add(time.Hour), now, now
		require.Equal(t, now.Add(probeInterval), s.deadline())
		timing.Sleep(t.Context(), probeInterval-1)
		require.NoError(t, s.collect())
		require.Equal(t, now, s.heard)
		require.NoError(t, s.attend(t.Context()))
		require.Zero(t, d.probes)
		timing.Sleep(t.Context(), 1)
		require.NoError(t, s.attend(t.Context()))
		require.Equal(t, 1, d.probes)
		require.Equal(t, time.Now(), s.heard)
		timing.Sleep(t.Context(), probeLimit-1)
		s.heard = time.Now()
		require.NoError(t, s.attend(t.Context()))
		require.Equal(t, 1, d.probes)
		timing.Sleep(t.Context(), 1)
		require.NoError(t, s.attend(t.Context()))
		require.Equal(t, 2, d.probes)
	})
}

// The memory of a chunk is used again only when the listener has taken its rows.
func TestSnapshotMemory(t *testing.T) {
	const chunks = 5
	for _, early := range []bool{false, true} {
		out := &ear{early: early}
		s := scripted(&script{rows: chunks * snapshotChunk}, out)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, s.snapshot(ctx))
		require.Len(t, out.chunks, chunks+1)
		require.Empty(t, out.chunks[chunks])
		memory := map[*driver.Row]int{}
		for i, c := range out.chunks[:chunks] {
			require.Len(t, c, snapshotChunk)
			memory[&c[0]]++
			if !early {
				require.Equal(t, fmt.Sprint(i*snapshotChunk), c[0].UUID, "overwritten before it was taken")
			}
			if i > 0 {
				require.NotSame(t, &out.chunks[i-1][0], &c[0], "the rows before may not have been taken yet")
			}
		}
		if early {
			require.Len(t, memory, 2)
		}
	}
}

// A snapshot says which jobs were named meanwhile, unless more were than are kept.
func TestSnapshotSaysWhatWasNamed(t *testing.T) {
	for name, c := range map[string]struct {
		before, during bool
		want           map[string]struct{}
	}{
		"kept":               {want: map[string]struct{}{"a": {}, "b": {}, "c": {}}},
		"too many before it": {before: true},
		"too many during it": {during: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := &script{wait: func(context.Context) (driver.Notifications, error) {
				return driver.Notifications{Changed: []string{"b"}, Overflow: c.during}, nil
			}}
			out := &ear{}
			s := scripted(d, out)
			s.overflow = c.before
			s.dirty.add("a")
			s.foreseen.claimed("c")
			require.True(t, s.foreseen.wait("c", time.Now()))
			require.NoError(t, s.snapshot(t.Context()))
			require.Equal(t, c.want, out.named)
			require.Equal(t, c.during, s.overflow, "what is missed during a snapshot needs another one")
		})
	}
}

// Orders that were given before a connection are not carried out by it, nor does it believe what
// an earlier one has left.
func TestOrdersOfAnEarlierConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &script{}
		s := scripted(d, &ear{})
		ctx, cancel := context.WithCancel(t.Context())
		d.opened = func() {
			s.Claim("old")
			s.Grant(noneOpen)
			s.Read("old")
			s.Rescue(driver.Liveness{})
			s.dirty.add("old")
			s.foreseen.claimed("old")
			s.batch = 1
			s.echoSince = time.Now().Add(-time.Hour)
		}
		over := make(chan struct{})
		go func() { defer close(over); s.Run(ctx) }()
		synctest.Wait()
		require.False(t, s.Pulse().Connected.IsZero())
		require.Empty(t, s.foreseen.stages)
		require.Zero(t, s.batch)
		require.False(t, s.useGrant("a"))
		s.Claim("new")
		synctest.Wait()
		require.Equal(t, [][]string{{"new"}}, d.claimed)
		require.Empty(t, d.read)
		cancel()
		<-over
		require.True(t, s.Pulse().Connected.IsZero())
	})
}

// A connection that has served for stableAfter is followed by the next one at once, and one that
// breaks early by a pause that grows.
func TestPauseAfterALostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards opened
		var opened []time.Time
		last := func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			n := len(opened)
			return opened[n-1].Sub(opened[n-2])
		}
		var serves atomic.Int64
		d := &script{}
		d.opened = func() {
			mu.Lock()
			defer mu.Unlock()
			opened = append(opened, time.Now())
		}
		d.wait = func(ctx context.Context) (driver.Notifications, error) {
			select {
			case <-ctx.Done(): // a snapshot takes what has arrived
				return driver.Notifications{}, nil
			default:
			}
			timing.Sleep(t.Context(), time.Duration(serves.Load()))
			return driver.Notifications{}, errors.New("broken")
		}
		out := &ear{}
		s := scripted(d, out)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { defer close(over); s.Run(ctx) }()
		timing.Sleep(t.Context(), time.Minute)
		synctest.Wait()
		require.Greater(t, last(), reconnectLimit*7/10)
		states, _ := out.seen()
		require.Contains(t, states, Lost)
		serves.Store(int64(stableAfter))
		timing.Sleep(t.Context(), time.Minute)
		synctest.Wait()
		require.Less(t, last(), stableAfter+2*reconnectFirst)
		cancel()
		<-over
		states, detail := out.seen()
		require.Equal(t, Lost, states[len(states)-1])
		require.Contains(t, []string{"stopped", "wait for notifications: broken"}, detail)
	})
}

// A read takes no more than it may, also of the jobs that go first.
func TestBacklogIsBounded(t *testing.T) {
	var b backlog
	for _, uuid := range []string{"a", "b", "c", "d"} {
		b.add(uuid)
	}
	require.Equal(t, []string{"d", "c"}, b.take([]string{"d", "c", "b"}, 2))
	require.Equal(t, []string{"a"}, b.take([]string{"d"}, 1))
	require.Equal(t, []string{"b"}, b.take(nil, 9))
	require.Zero(t, b.len())
}
