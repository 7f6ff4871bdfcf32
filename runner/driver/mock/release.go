package mock

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// releasable reports whether a job waits although all of its parents that exist are done, and there is
// one, with the mutex held. More is asked of each parent.
func (db *database) releasable(j *Job, more func(parent *Job) bool) bool {
	parents := 0
	for _, uuid := range j.DependsOn {
		parent := db.jobs[uuid]
		if parent == nil {
			continue
		}
		if parents++; parent.State != channels.Done || !more(parent) {
			return false
		}
	}
	return j.State == channels.WaitDependencies && parents > 0
}

// releaseDependents is what a worker does after its job is done.
func (w *World) releaseDependents(done channels.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	db := w.databases[done.DB]
	if db == nil || !db.graphs || db.jobs[done.UUID] == nil || db.jobs[done.UUID].State != channels.Done {
		return
	}
	for _, j := range db.sorted(func(j *Job) bool { return slices.Contains(j.DependsOn, done.UUID) }) {
		if db.releasable(&j, func(*Job) bool { return true }) {
			w.update(j.Key, 0, func(j *Job) { j.State = channels.Pending })
			w.record.releases = append(w.record.releases, Release{Key: j.Key, At: time.Now(), Worker: true})
		}
	}
}

// Release is a job that was made pending because those that it waited for are done.
type Release struct {
	channels.Key
	At time.Time
	// Worker is set if a worker did it, and not the engine.
	Worker bool
}

// Releases returns all so far, in order.
func (w *World) Releases() []Release {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.record.releases)
}

// Dependents implements [driver.Releaser].
func (s *session) Dependents(ctx context.Context, done []string) (ids []int64, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Dependents", nil, false, func() error {
		for _, j := range s.db.stored(func(j *Job) bool { return j.State == channels.WaitDependencies }) {
			waitsFor := func(uuid string) bool {
				parent := s.db.jobs[uuid]
				return parent != nil && parent.State == channels.Done && slices.Contains(j.DependsOn, uuid)
			}
			if done == nil || slices.ContainsFunc(done, waitsFor) {
				ids = append(ids, j.ID)
			}
		}
		return nil
	})
	return ids, err
}

// Release implements [driver.Releaser].
func (s *session) Release(ctx context.Context, ids []int64, quiet time.Duration, busy []string) (rows []driver.Row, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Release", nil, false, func() error {
		for _, j := range s.db.stored(func(j *Job) bool { return slices.Contains(ids, j.ID) && !s.db.faults.locks(j) }) {
			rests := func(parent *Job) bool {
				return !slices.Contains(busy, parent.UUID) && time.Since(parent.Done) >= quiet
			}
			if !s.db.releasable(&j, rests) {
				continue
			}
			s.w.update(j.Key, s.pid, func(j *Job) { j.State = channels.Pending })
			s.w.record.releases = append(s.w.record.releases, Release{Key: j.Key, At: time.Now()})
			rows = append(rows, s.told(s.db.jobs[j.UUID]))
		}
		return nil
	})
	return rows, err
}
