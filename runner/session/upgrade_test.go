package session

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// gated is a session of a database that is being upgraded.
type gated struct {
	faulty

	listens func()
}

func (d *gated) OpenSession(context.Context, *pgx.ConnConfig, string) (driver.Session, error) {
	return d, nil
}
func (d *gated) GateUpgrades(bool) {}
func (d *gated) Listen(context.Context) error {
	d.listens()
	return nil
}

func (d *gated) Upgrading(context.Context, driver.Upgrade) (driver.Upgrade, error) {
	return driver.Upgrade{Active: true, Description: "modules are marked"}, nil
}

// gatekeeper counts what it is told of upgrades.
type gatekeeper struct {
	ear
	told atomic.Int32
}

func (k *gatekeeper) Upgrading(driver.Upgrade) { k.told.Add(1) }

// Whenever the option has changed, the listener is told of an upgrade: also if it was switched off and
// on again before that was seen, and if it changed while the connection was being made.
func TestUpgradeIsToldAfterEachChange(t *testing.T) {
	for name, during := range map[string]bool{"while it serves": false, "while it connects": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var on atomic.Bool
				on.Store(!during)
				out := &gatekeeper{}
				d := &gated{faulty: faulty{found: driver.Fingerprint{Health: driver.Healthy}}}
				s := New("prod", func() Config {
					return Config{Driver: d, DiscoverInterval: time.Hour, Logger: zap.NewNop(), UpgradeGate: on.Load()}
				}, out)
				d.listens = func() {
					if during {
						on.Store(true)
						s.CheckUpgrade()
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				go s.Run(ctx)
				synctest.Wait()
				require.EqualValues(t, 1, out.told.Load())
				s.CheckUpgrade()
				synctest.Wait()
				require.EqualValues(t, 2, out.told.Load())
				cancel()
				synctest.Wait()
			})
		})
	}
}

// locked is a session that an upgrade keeps from claiming and from being probed.
type locked struct {
	gated

	claims int
}

func (d *locked) Claim(context.Context, []string, []string) ([]driver.Task, []driver.Row, error) {
	d.claims++
	return nil, nil, fmt.Errorf("claim jobs: %w", driver.ErrUpgrading)
}

func (d *locked) Probe(context.Context) error {
	if err := d.errs["Probe"]; err != nil {
		return err
	}
	return fmt.Errorf("probe: %w", driver.ErrUpgrading)
}

func (d *locked) Upgrading(context.Context, driver.Upgrade) (driver.Upgrade, error) {
	return driver.Upgrade{Active: d.claims > 0}, nil
}

// doorman is a clerk who is told of upgrades.
type doorman struct{ clerk }

func (*doorman) Upgrading(driver.Upgrade) {}

// A claim that meets a lock is answered as one that got nothing, with what was to be read along with it,
// gate or not; nor does a probe that meets one end the connection.
func TestClaimMeetsAnUpgrade(t *testing.T) {
	for _, gate := range []bool{true, false} {
		out := &doorman{}
		d := &locked{gated: gated{faulty: faulty{found: driver.Fingerprint{Health: driver.Healthy}}}}
		s := New("prod", func() Config {
			return Config{Driver: d, DiscoverInterval: time.Hour, Logger: zap.NewNop(), UpgradeGate: gate}
		}, out)
		s.conn, s.resyncAt = d, time.Now().Add(time.Hour)
		s.pulse.synced.Store(time.Now().UnixMicro())
		require.NoError(t, s.checkUpgrade(t.Context()))
		require.NoError(t, s.claimAll(t.Context(), []string{"a"}, []string{"b"}))
		require.Equal(t, gate, s.upgrade.Active)
		require.Equal(t, [][]string{{"b"}, {"a"}}, d.read)
		require.Contains(t, out.told, "1 rows, 0 gone")
		require.Contains(t, out.told, "0 claimed, 1 missed, 0 gone")
		s.heard = time.Time{}
		require.NoError(t, s.attend(t.Context()), "nor does a probe end it")
		s.heard, d.errs = time.Time{}, map[string]error{"Probe": driver.ErrLost}
		require.ErrorIs(t, s.attend(t.Context()), driver.ErrLost, "unless it fails for another reason")
		require.Equal(t, 1, d.claims)
	}
}

// Where the rows of jobs cannot be read, either, a claim gives the slots back all the same.
func TestClaimMeetsALockedTable(t *testing.T) {
	locked := fmt.Errorf("locked: %w", driver.ErrUpgrading)
	for name, errs := range map[string]map[string]error{
		"claimed": {"Claim": locked, "Read": locked}, "missed": {"Read": locked},
	} {
		out := &witness{}
		_, s := faultyOf(out, errs)
		require.NoError(t, s.claimAll(t.Context(), []string{"locked"}, []string{"b"}), name)
		require.Equal(t, []string{"locked"}, out.claims.Locked, name)
		require.Empty(t, out.claims.Missed, name)
		require.Equal(t, name == "claimed", s.dirty.len() == 1, "what was to be read is read later: %s", name)
	}
	failed := errors.New("failed")
	for _, errs := range []map[string]error{{"Claim": locked, "Read": failed}, {"Read": failed}} {
		_, s := faultyOf(&witness{}, errs)
		require.ErrorIs(t, s.claimAll(t.Context(), []string{"locked"}, []string{"b"}), failed)
		_, s = faultyOf(&witness{}, errs)
		require.ErrorIs(t, s.claimAll(t.Context(), []string{"locked"}, nil), failed)
	}
}

// After a claim that met a lock, none is made for a moment, whatever the listener orders: locks need not
// take long to tell.
func TestClaimsPauseAfterALock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &witness{}
		d, s := faultyOf(out, map[string]error{"Claim": fmt.Errorf("locked: %w", driver.ErrUpgrading)})
		require.NoError(t, s.claimAll(t.Context(), []string{"a"}, nil))
		require.Len(t, d.claims, 1)
		timing.Sleep(t.Context(), lockedPause-1)
		require.NoError(t, s.claimAll(t.Context(), []string{"b", "c"}, []string{"d"}))
		require.Len(t, d.claims, 1)
		require.Equal(t, Claims{Locked: []string{"b", "c"}}, out.claims)
		require.Equal(t, [][]string{{"a"}, {"d"}}, d.read, "what changed is read meanwhile")
		require.Equal(t, 1, out.refused)
		timing.Sleep(t.Context(), 1)
		require.NoError(t, s.claimAll(t.Context(), []string{"b", "c"}, nil))
		require.Equal(t, [][]string{{"a"}, {"b"}}, d.claims, "one is enough")
		require.Equal(t, 2, out.refused)
		delete(d.errs, "Claim")
		timing.Sleep(t.Context(), lockedPause)
		require.NoError(t, s.claimAll(t.Context(), []string{"b"}, nil))
		require.Len(t, out.claims.Got, 1)
		require.NoError(t, s.claimAll(t.Context(), []string{"c", "d"}, nil))
		require.Equal(t, [][]string{{"a"}, {"b"}, {"b"}, {"c", "d"}}, d.claims)
		require.Equal(t, 2, out.refused)
	})
}

// witness is a clerk who keeps the last result of a claim.
type witness struct {
	clerk

	claims  Claims
	refused int
}

func (w *witness) Claimed(c Claims) {
	if c.Refused {
		w.refused++
		return
	}
	w.claims = c
}

// What cannot be read because of a lock is read after a pause, and no job is forgotten.
func TestReadMeetsALock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &clerk{}
		d, s := faultyOf(out, map[string]error{"Read": fmt.Errorf("locked: %w", driver.ErrUpgrading)})
		s.heard, s.probed, s.resyncAt = time.Now(), time.Now(), time.Now().Add(time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.loop(ctx) }()
		s.Read("a")
		synctest.Wait()
		require.Equal(t, [][]string{{"a"}}, d.asked())
		timing.Sleep(t.Context(), lockedPause-1)
		s.Read("b")
		synctest.Wait()
		require.Len(t, d.asked(), 1, "not yet")
		require.NotContains(t, out.heard(), "2 rows, 0 gone")
		require.Contains(t, out.heard(), "locked")
		d.mend("Read")
		timing.Sleep(t.Context(), 1)
		synctest.Wait()
		require.Equal(t, [][]string{{"a"}, {"a", "b"}}, d.asked())
		require.Contains(t, out.heard(), "2 rows, 0 gone")
		require.Zero(t, s.dirty.len())
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// No order ends the connection if it meets a lock. Inspections and rescues are given again; the rows tell
// what became of jobs that could not be put back.
func TestOrdersMeetALock(t *testing.T) {
	locked := fmt.Errorf("locked: %w", driver.ErrUpgrading)
	dead := condemned[driver.Liveness]{tasks: []driver.Liveness{{}}, why: []string{""}}
	undelivered := condemned[driver.Task]{tasks: []driver.Task{{}}, why: []string{""}}
	for method, c := range map[string]struct {
		o    orders
		told []string
	}{
		"Inspect":       {orders{inspects: []string{"a"}}, []string{"locked"}},
		"Rescue":        {orders{rescues: dead.tasks}, nil},
		"FailDead":      {orders{failRescues: dead}, nil},
		"Unclaim":       {orders{unclaims: undelivered.tasks}, []string{"unclaimed"}},
		"FailUnclaimed": {orders{failUnclaims: undelivered}, []string{"unclaimed"}},
	} {
		out := &clerk{}
		_, s := faultyOf(out, map[string]error{method: locked})
		require.NoError(t, s.execute(t.Context(), &c.o), method)
		require.Equal(t, c.told, out.told, method)
	}
}

// A lock that the examination before a snapshot meets, the snapshot, or what is read of the channels,
// costs no connection, gate or not: the snapshot is tried again later, until it is read.
func TestSnapshotMeetsALock(t *testing.T) {
	for _, method := range []string{"Fingerprint", "Snapshot", "Channels"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				core, logs := observer.New(zap.WarnLevel)
				out := &clerk{}
				d, s := faultyOf(out, map[string]error{method: fmt.Errorf("locked: %w", driver.ErrUpgrading)})
				config := s.config()
				config.Logger = zap.New(core)
				s.config = func() Config { return config }
				s.overflow = true
				s.heard, s.probed = time.Now().Add(-probeInterval), time.Now()
				require.NoError(t, s.attend(t.Context()))
				require.True(t, s.overflow, "nothing was read of what was too much to be kept")
				require.Equal(t, time.Now(), s.heard, "the server has answered")
				require.Equal(t, time.Now().UnixMicro(), s.pulse.heard.Load())
				require.Equal(t, time.Now().Add(lockedInterval), s.snapshotAt())
				require.Equal(t, s.snapshotAt(), s.deadline())
				require.Zero(t, out.ends)
				require.Equal(t, 1, logs.Len())

				timing.Sleep(t.Context(), lockedInterval-1)
				require.NoError(t, s.attend(t.Context()))
				require.Zero(t, s.pulse.synced.Load())
				timing.Sleep(t.Context(), 1)
				require.NoError(t, s.attend(t.Context()))
				require.Equal(t, 1, logs.Len(), "it is told once in a while")
				require.Zero(t, d.probes)
				require.Equal(t, time.Now().Add(lockedInterval), s.snapshotAt())
				timing.Sleep(t.Context(), lockedTellInterval)
				require.NoError(t, s.attend(t.Context()))
				require.Equal(t, 2, logs.Len())
				require.Equal(t, 1, d.probes, "that the session has its lock, and listens, is found out all the same")

				delete(d.errs, method)
				timing.Sleep(t.Context(), lockedInterval)
				require.NoError(t, s.attend(t.Context()))
				require.NotZero(t, s.pulse.synced.Load())
				require.Greater(t, time.Until(s.snapshotAt()), resyncInterval/2)
				require.False(t, s.overflow)
			})
		})
	}
}

// Channels that have changed, and cannot be read, are told with the snapshot that follows, also if they
// are what they were: the listener may have asked because it has forgotten them.
func TestChannelsMeetALock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &clerk{}
		d, s := faultyOf(out, map[string]error{"Channels": fmt.Errorf("locked: %w", driver.ErrUpgrading)})
		s.heard, s.probed, s.resyncAt = time.Now(), time.Now(), time.Now().Add(time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.loop(ctx) }()
		s.ReloadChannels()
		synctest.Wait()
		require.NotContains(t, out.heard(), "channels")
		d.mend("Channels")
		timing.Sleep(t.Context(), lockedInterval)
		synctest.Wait()
		require.Contains(t, out.heard(), "channels")
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// Nor does a lock that is met by the look at the channels after a probe. Other errors end the connection.
func TestProbeMeetsALockedChannel(t *testing.T) {
	for _, err := range []error{driver.ErrUpgrading, errors.New("failed")} {
		_, s := faultyOf(&clerk{}, map[string]error{"Channels": err})
		s.resyncAt = time.Now().Add(time.Hour)
		if got := s.attend(t.Context()); errors.Is(err, driver.ErrUpgrading) {
			require.NoError(t, got)
			require.Greater(t, time.Until(s.snapshotAt()), lockedInterval, "the next probe reads them")
		} else {
			require.ErrorIs(t, got, err)
		}
	}
}

// watched is a session that counts how often it is asked for upgrades, of which it tells what is seen.
type watched struct {
	gated

	asked int
	seen  driver.Upgrade
}

func (d *watched) Upgrading(context.Context, driver.Upgrade) (driver.Upgrade, error) {
	d.asked++
	return d.seen, d.errs["Upgrading"]
}

func watchedOf(gate bool) (*watched, *gatekeeper, *Session) {
	d := &watched{gated: gated{faulty: faulty{found: driver.Fingerprint{Health: driver.Healthy}}}}
	out := &gatekeeper{}
	s := New("prod", func() Config {
		return Config{Driver: d, DiscoverInterval: time.Hour, Logger: zap.NewNop(), UpgradeGate: gate}
	}, out)
	s.conn, s.heard, s.probed, s.resyncAt = d, time.Now(), time.Now(), time.Now().Add(time.Hour)
	s.pulse.synced.Store(time.Now().UnixMicro())
	return d, out, s
}

// An upgrade is looked for as often as there is reason to: once a second while there is one, and before a
// claim if the last look is as old as that.
func TestHowOftenUpgradesAreLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, s := watchedOf(true)
		require.NoError(t, s.checkUpgrade(t.Context()))
		require.True(t, s.upgradeDue().IsZero())
		for range 3 {
			require.NoError(t, s.attend(t.Context()))
			_, err := s.admit(t.Context(), nil)
			require.NoError(t, err)
		}
		timing.Sleep(t.Context(), upgradeInterval-1)
		claims, err := s.admit(t.Context(), []string{"a"})
		require.NoError(t, err)
		require.Equal(t, []string{"a"}, claims)
		require.Equal(t, 1, d.asked)
		timing.Sleep(t.Context(), 1)
		_, err = s.admit(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, 1, d.asked, "nothing is claimed")
		d.seen.Active = true
		claims, err = s.admit(t.Context(), []string{"a"})
		require.NoError(t, err)
		require.Empty(t, claims)
		require.Equal(t, 2, d.asked)
		require.Equal(t, time.Now().Add(upgradeInterval), s.upgradeDue())
		require.Equal(t, s.upgradeDue(), s.deadline())
		timing.Sleep(t.Context(), upgradeInterval-1)
		require.NoError(t, s.attend(t.Context()))
		require.Equal(t, 2, d.asked)
		timing.Sleep(t.Context(), 1)
		require.NoError(t, s.attend(t.Context()))
		require.Equal(t, 3, d.asked)

		d, _, s = watchedOf(false)
		s.upgrade.Active = true // as it was when the option was switched off
		require.True(t, s.upgradeDue().IsZero())
		_, err = s.admit(t.Context(), []string{"a"})
		require.NoError(t, err)
		require.Zero(t, d.asked)
	})
}

// Of an upgrade, the listener is told when it begins, ends, or is seen as another one, and of nothing else.
func TestChangesOfAnUpgradeAreTold(t *testing.T) {
	d, out, s := watchedOf(true)
	for _, c := range []struct {
		seen driver.Upgrade
		told int32
	}{
		{driver.Upgrade{}, 1},
		{driver.Upgrade{}, 1},
		{driver.Upgrade{Active: true}, 2},
		{driver.Upgrade{Active: true}, 2},
		{driver.Upgrade{Active: true, Description: "sale is installed"}, 3},
		{driver.Upgrade{Active: true, Description: "stock is installed"}, 4},
		{driver.Upgrade{Description: "stock is installed"}, 5},
	} {
		d.seen = c.seen
		require.NoError(t, s.checkUpgrade(t.Context()))
		require.Equal(t, c.told, out.told.Load(), "%+v", c.seen)
	}
	d.errs = map[string]error{"Upgrading": driver.ErrLost}
	require.ErrorIs(t, s.checkUpgrade(t.Context()), driver.ErrLost)
	require.EqualValues(t, 5, out.told.Load())
}

// Claims are not made during an upgrade, and each is answered with its row.
func TestClaimsDuringAnUpgradeAreAnswered(t *testing.T) {
	d, _, s := watchedOf(true)
	d.seen.Active = true
	require.NoError(t, s.checkUpgrade(t.Context()))
	out := &clerk{}
	s.out = out
	claims := make([]string, readBatch+1)
	for i := range claims {
		claims[i] = strconv.Itoa(i)
	}
	left, err := s.admit(t.Context(), claims)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Equal(t, []string{fmt.Sprintf("0 claimed, %d missed, 0 gone", readBatch), "0 claimed, 1 missed, 0 gone"}, out.told)
	d.errs = map[string]error{"Read": driver.ErrLost}
	_, err = s.admit(t.Context(), claims)
	require.ErrorIs(t, err, driver.ErrLost)
}

// That a table is locked is logged once a minute.
func TestLocksAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, s := watchedOf(false)
		core, logs := observer.New(zap.WarnLevel)
		s.config = func() Config { return Config{Logger: zap.New(core)} }
		for _, c := range []struct {
			after  time.Duration
			logged int
		}{{0, 1}, {lockedTellInterval - 1, 1}, {1, 2}, {1, 2}} {
			timing.Sleep(t.Context(), c.after)
			require.NoError(t, s.unlessLocked(driver.ErrUpgrading))
			require.Equal(t, c.logged, logs.Len())
		}
	})
}

// Wherever an upgrade is looked for, a look that fails ends the connection.
func TestLooksForAnUpgradeThatFail(t *testing.T) {
	for name, do := range map[string]func(context.Context, *watched, *Session) error{
		"while there is one": func(ctx context.Context, _ *watched, s *Session) error {
			s.upgrade.Active = true
			return s.attend(ctx)
		},
		"with a probe": func(ctx context.Context, _ *watched, s *Session) error {
			s.heard = s.heard.Add(-probeInterval)
			return s.attend(ctx)
		},
		"before a claim": func(ctx context.Context, _ *watched, s *Session) error {
			claims, err := s.admit(ctx, []string{"a"})
			require.Empty(t, claims)
			return err
		},
		"after a claim that got nothing": func(ctx context.Context, _ *watched, s *Session) error {
			return s.claim(ctx, []string{"locked"}, nil)
		},
		"after a claim that met a lock": func(ctx context.Context, d *watched, s *Session) error {
			d.errs["Claim"] = driver.ErrUpgrading
			return s.claim(ctx, []string{"a"}, nil)
		},
	} {
		d, _, s := watchedOf(true)
		require.NoError(t, s.checkUpgrade(t.Context()))
		s.upgradeAt = s.upgradeAt.Add(-upgradeInterval)
		d.errs = map[string]error{"Upgrading": driver.ErrLost}
		require.ErrorIs(t, do(t.Context(), d, s), driver.ErrLost, name)
	}
}

// A claim that an upgrade may have kept from being made has it looked for, others have not.
func TestClaimsThatGotNothingLookForUpgrades(t *testing.T) {
	d, _, s := watchedOf(true)
	require.NoError(t, s.checkUpgrade(t.Context()))
	require.NoError(t, s.claim(t.Context(), []string{"a", "locked"}, nil))
	require.Equal(t, 1, d.asked)
	require.NoError(t, s.claim(t.Context(), []string{"locked"}, nil))
	require.Equal(t, 2, d.asked)

	// Nor is anything read that was not asked for.
	d.read, d.errs = nil, map[string]error{"Claim": driver.ErrUpgrading}
	require.NoError(t, s.claim(t.Context(), []string{"a"}, nil))
	require.Equal(t, [][]string{{"a"}}, d.read)
}
