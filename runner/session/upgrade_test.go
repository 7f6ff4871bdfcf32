package session

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

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

// A claim that meets the lock of an upgrade is answered as one that got nothing, with what was to be read
// along with it. So it is only where upgrades are looked for.
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
		err := s.claimAll(t.Context(), []string{"a"}, []string{"b"})
		if !gate {
			require.ErrorIs(t, err, driver.ErrUpgrading)
			require.ErrorIs(t, s.attend(t.Context()), driver.ErrUpgrading)
			continue
		}
		require.NoError(t, err)
		require.True(t, s.upgrade.Active)
		require.Equal(t, [][]string{{"b"}, {"a"}}, d.read)
		require.Contains(t, out.told, "1 rows, 0 gone")
		s.heard = time.Time{}
		require.NoError(t, s.attend(t.Context()), "nor does a probe end it")
		s.heard, d.errs = time.Time{}, map[string]error{"Probe": driver.ErrLost}
		require.ErrorIs(t, s.attend(t.Context()), driver.ErrLost, "unless it fails for another reason")
		require.Equal(t, 1, d.claims)
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
