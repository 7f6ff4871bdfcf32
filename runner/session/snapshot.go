package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	snapshotTimeout = 10 * time.Minute
	runningTimeout  = 10 * time.Second
	channelsTimeout = 10 * time.Second
	// snapshotChunk is the number of rows that travel together from a snapshot to the listener.
	snapshotChunk = 1000
)

// running reads the jobs that occupy slots.
func (s *Session) running(ctx context.Context) error {
	var rows []driver.Row
	err := s.call(ctx, "read the jobs that run", runningTimeout, func(ctx context.Context) (err error) {
		rows, err = s.conn.Running(ctx)
		return err
	})
	if err == nil {
		s.out.Running(rows)
	}
	return err
}

// snapshot reads every job. It is the only way a lost notification is repaired, so it follows every
// LISTEN and comes back every few minutes.
func (s *Session) snapshot(ctx context.Context) error {
	if err := s.readChannels(ctx); err != nil {
		return err
	}
	return s.readAll(ctx)
}

// readAll is the part of a snapshot that concerns the jobs.
func (s *Session) readAll(ctx context.Context) error {
	began := time.Now()
	keys := s.readKeys()
	overflow := s.overflow
	s.overflow = false
	s.out.SnapshotBegin()
	var chunk, before []driver.Row
	err := timing.Within(ctx, snapshotTimeout, func(ctx context.Context) error {
		return s.conn.Snapshot(ctx, func(row driver.Row) {
			if chunk == nil {
				chunk = make([]driver.Row, 0, snapshotChunk)
			}
			if chunk = append(chunk, row); len(chunk) < snapshotChunk {
				return
			}
			if !s.out.SnapshotRows(ctx, chunk) {
				before = nil
			}
			chunk, before = before[:0], chunk
			collectGarbage()
		})
	})
	if err != nil {
		s.overflow = s.overflow || overflow
		return fmt.Errorf("snapshot: %w", err)
	}
	s.out.SnapshotRows(ctx, chunk)
	if err := s.collect(); err != nil {
		return err
	}
	var named map[string]struct{}
	if !overflow && !s.overflow && !s.polls.on {
		named = s.dirty.copy()
		maps.Copy(named, s.foreseen.waiting.set)
	}
	s.out.SnapshotEnd(named, keys)
	now := time.Now()
	s.heard, s.probed, s.resyncAt = now, now, now.Add(timing.Jitter(resyncInterval))
	s.lockedUntil = time.Time{}
	s.polls.last, s.polls.took = now, now.Sub(began)
	s.pulse.beat(now)
	s.pulse.synced.Store(now.UnixMicro())
	return nil
}

// readKeys has the connection read what jobs are told apart by, as the configuration wants it now, and
// returns that. What was read before is put right by the snapshot that follows a change.
func (s *Session) readKeys() driver.Keys {
	keys := s.config().Keys
	if sharer, ok := s.conn.(driver.Sharer); ok {
		sharer.ReadKeys(keys)
	}
	return keys
}

// readChannels reads the channels that are configured in the database, where these count.
func (s *Session) readChannels(ctx context.Context) error {
	s.reload = false
	return s.channelsIf(ctx, func([]channels.Config) bool { return true })
}

// checkChannels reads them and reports a change that no notification has announced.
func (s *Session) checkChannels(ctx context.Context) error {
	return s.channelsIf(ctx, func(found []channels.Config) bool { return !slices.Equal(found, s.channels) })
}

// channelsIf reads them and reports them if that is wanted of what was found.
func (s *Session) channelsIf(ctx context.Context, wanted func([]channels.Config) bool) error {
	if !s.config().DatabaseChannels {
		return nil
	}
	reader, ok := s.conn.(driver.ChannelReader)
	if !ok {
		s.out.Channels(nil, errNoChannels)
		return nil
	}
	var cfgs []channels.Config
	err := s.call(ctx, "read the channels", channelsTimeout, func(ctx context.Context) (err error) {
		cfgs, err = reader.Channels(ctx)
		return err
	})
	if err != nil && !errors.Is(err, driver.ErrChannels) {
		return err
	}
	if err != nil || wanted(cfgs) {
		s.out.Channels(cfgs, err)
	}
	s.channels = cfgs
	return nil
}

// errNoChannels is what a driver without such channels has to say.
var errNoChannels = fmt.Errorf("%w: the driver knows of none", driver.ErrChannels)
