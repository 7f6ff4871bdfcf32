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

func (d *locked) Probe(context.Context) error { return fmt.Errorf("probe: %w", driver.ErrUpgrading) }

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
		require.Equal(t, 1, d.claims)
	}
}
