package mock

import (
	"context"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// upgrade is how the application of a database is being changed.
type upgrade struct {
	// marked are the modules, as a claim can see them.
	marked string
	// under is set while something can be seen that no claim sees: at the begin, before the marks
	// are committed, and at the end, after they are gone.
	under bool
}

// Mark marks modules of a database for an upgrade; none removes the marks.
func (w *World) Mark(db, modules string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.database(db).upgrade.marked = modules
}

// Upgrade says whether the application of a database is being changed in a way that no claim sees.
func (w *World) Upgrade(db string, under bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.database(db).upgrade.under = under
}

// GateUpgrades implements [driver.Upgrader].
func (s *session) GateUpgrades(on bool) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.gated = on
}

// Upgrading implements [driver.Upgrader]. DriverState counts the calls of one upgrade.
func (s *session) Upgrading(ctx context.Context, last driver.Upgrade) (u driver.Upgrade, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	err = s.do(ctx, "Upgrading", s.db.faults.UpgradingErr, false, func() error {
		switch {
		case s.db.upgrade.marked != "":
			u.Active, u.Description = true, "modules are marked: "+s.db.upgrade.marked
		case s.db.upgrade.under:
			u.Active, u.Description = true, "somebody changes modules"
		}
		if u.Active {
			u.DriverState = last.DriverState + "."
		}
		return nil
	})
	return u, err
}
