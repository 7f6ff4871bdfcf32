package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// upgradeInterval is how old the last check for an upgrade may be when jobs are claimed, and the
	// time between two checks while there is an upgrade. The claim itself sees most of one, but not
	// that it goes on between two of its transactions.
	upgradeInterval = time.Second
	upgradeTimeout  = 5 * time.Second
	// lockedTellInterval is the time between two log entries that tell of locks.
	lockedTellInterval = time.Minute
)

// CheckUpgrade orders to check whether the database is being upgraded, after the option has changed.
func (s *Session) CheckUpgrade() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.upgrade = true
	s.wake()
}

// checkUpgrade finds out whether the database is being upgraded, if nothing is to be started then.
func (s *Session) checkUpgrade(ctx context.Context) error {
	upgrader, ok := s.conn.(driver.Upgrader)
	on := ok && s.config().UpgradeGate
	if !on && !s.gating {
		return nil
	}
	upgrader.GateUpgrades(on)
	first := !s.gating || s.upgradeAt.IsZero()
	s.gating = on
	var found driver.Upgrade
	if on {
		err := s.call(ctx, "check for an upgrade", upgradeTimeout, func(ctx context.Context) (err error) {
			found, err = upgrader.Upgrading(ctx, s.upgrade)
			return err
		})
		if err != nil {
			return err
		}
		s.upgradeAt = time.Now()
	}
	changed := first || found.Active != s.upgrade.Active || found.Description != s.upgrade.Description
	s.upgrade = found
	if changed {
		s.out.Upgrading(found)
	}
	return nil
}

// upgradeDue is when it is to be checked next whether an upgrade has ended; zero if there is none.
func (s *Session) upgradeDue() time.Time {
	if !s.gating || !s.upgrade.Active {
		return time.Time{}
	}
	return s.upgradeAt.Add(upgradeInterval)
}

// admit returns those of the claims that may be made: none while the database is being upgraded, and for
// a moment after one that met a lock; then one, until it is known that the lock has ended. The listener
// learns how the rows of the others look, as of those that a claim did not get.
func (s *Session) admit(ctx context.Context, claims []string) ([]string, error) {
	if len(claims) == 0 {
		return nil, nil
	}
	if time.Now().Before(s.claimAfter) {
		s.out.Claimed(Claims{Locked: claims})
		return nil, nil
	}
	if open, err := s.open(ctx); err != nil {
		return nil, err
	} else if open {
		if s.refused {
			s.out.Claimed(Claims{Locked: claims[1:]})
			claims = claims[:1]
		}
		return claims, nil
	}
	for len(claims) > 0 {
		n := min(len(claims), readBatch)
		if err := s.missed(ctx, claims[:n]); err != nil {
			return nil, err
		}
		claims = claims[n:]
	}
	return nil, nil
}

// open reports whether the database is not being upgraded, as far as that is watched.
func (s *Session) open(ctx context.Context) (bool, error) {
	if s.gating && time.Since(s.upgradeAt) >= upgradeInterval {
		if err := s.checkUpgrade(ctx); err != nil {
			return false, err
		}
	}
	return !s.gating || !s.upgrade.Active, nil
}

// missed reads the rows of jobs that were not claimed, so that the listener learns why.
func (s *Session) missed(ctx context.Context, uuids []string) error {
	rows, err := s.readRows(ctx, uuids)
	switch {
	case err == nil:
	case s.unlessLocked(err) == nil:
		s.out.Claimed(Claims{Locked: uuids})
		return nil
	default:
		return fmt.Errorf("after a claim: %w", err)
	}
	s.out.Claimed(Claims{Missed: rows, Gone: gone(uuids, rows)})
	return nil
}

// resync examines the database once more and reads a snapshot.
func (s *Session) resync(ctx context.Context) error {
	if err := s.recheck(ctx); err != nil {
		return err
	}
	return s.snapshot(ctx)
}

// postponed takes the error of a part of a snapshot. If only a lock was in the way, such as that of an
// upgrade, the snapshot is tried again later, and what is known of the database holds until then. To
// connect anew would meet the same lock, and all jobs would have to be read before any could start.
func (s *Session) postponed(ctx context.Context, err error) error {
	if err == nil || s.unlessLocked(err) != nil {
		return err
	}
	s.resyncAt, s.lockedUntil = time.Time{}, s.heard.Add(lockedInterval)
	return s.checkUpgrade(ctx)
}

// unlessLocked returns an error, unless it only says that a lock was in the way. That was the server's
// answer, so the connection lives.
func (s *Session) unlessLocked(err error) error {
	if !errors.Is(err, driver.ErrUpgrading) {
		return err
	}
	s.heard = time.Now()
	s.pulse.beat(s.heard)
	if s.heard.Sub(s.lockedTold) >= lockedTellInterval {
		s.lockedTold = s.heard
		s.config().Logger.Warn("a table of the database is locked, as by an upgrade, or while an index is built; what could not be done is tried again",
			zap.String("database", s.database), zap.Error(err))
	}
	return nil
}
