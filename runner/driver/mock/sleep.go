package mock

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var (
	_ driver.Sleeper = (*session)(nil)
	_ driver.Watcher = (*cluster)(nil)
)

// statistics are what the server counts of one database.
type statistics struct {
	rows  int64
	reset time.Time
	// late are writes that are counted at those times.
	late []time.Time
}

// DelayStatistics has what is written from now on counted so much later.
func (w *World) DelayStatistics(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = d
}

// CountNothing has the server count nothing that is written.
func (w *World) CountNothing() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uncounted = true
}

// ResetStatistics has the server begin to count anew.
func (w *World) ResetStatistics(db string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.database(db).statistics = statistics{reset: time.Now()}
}

// Write writes so many rows of other tables.
func (w *World) Write(db string, rows int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range rows {
		w.wrote(w.database(db))
	}
}

// wrote counts a row, with the mutex held.
func (w *World) wrote(db *database) {
	switch {
	case w.uncounted:
		return
	case w.late > 0:
		db.statistics.late = append(db.statistics.late, time.Now().Add(w.late))
		return
	}
	db.statistics.rows++
}

// writes is what the server has counted, with the mutex held.
func (db *database) writes() driver.Writes {
	s := &db.statistics
	for len(s.late) > 0 && !time.Now().Before(s.late[0]) {
		s.late = s.late[1:]
		s.rows++
	}
	w := driver.Writes{Rows: s.rows}
	if !s.reset.IsZero() {
		w.Reset = s.reset.UnixMicro()
	}
	return w
}

// Sleep implements [driver.Sleeper].
func (s *session) Sleep(ctx context.Context, soon time.Duration, barred []string) (r driver.Rest, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err := s.do(ctx, "Sleep", nil, false, func() error {
		r.Writes = s.db.writes()
		return nil
	}); err != nil {
		return r, err
	}
	if between := s.w.betweenLooks; between != nil {
		s.w.mu.Unlock()
		between(s.db.name)
		s.w.mu.Lock()
	}
	err = s.do(ctx, "Sleep", nil, false, func() error {
		for _, j := range s.db.jobs {
			switch j.State {
			case channels.Failed, channels.Done, channels.Cancelled, channels.WaitDependencies:
			case channels.Pending:
				if slices.Contains(barred, j.UUID) {
					continue
				}
				r.Busy = r.Busy || j.ETA <= time.Now().Add(soon).UnixMicro()
				if j.ETA != 0 && (r.Next.IsZero() || j.ETA < r.Next.UnixMicro()) {
					r.Next = time.UnixMicro(j.ETA)
				}
			default:
				r.Busy = true
			}
		}
		return nil
	})
	return r, err
}

// BetweenLooks has f called between the two looks of a session that is about to sleep.
func (w *World) BetweenLooks(f func(db string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.betweenLooks = f
}

// Writes implements [driver.Watcher].
func (c *cluster) Writes(ctx context.Context) (map[uint32]driver.Writes, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if err := c.reach(ctx, "Writes"); err != nil {
		return nil, err
	}
	all := make(map[uint32]driver.Writes, len(c.w.databases))
	for _, db := range c.w.databases {
		all[db.oid] = db.writes()
	}
	return all, nil
}
