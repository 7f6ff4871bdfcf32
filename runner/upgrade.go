package runner

import (
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// upgradeLimit is how long an upgrade may take before it counts as forgotten: a module that was marked
// by mistake would keep the jobs of its database waiting for ever.
const upgradeLimit = time.Hour

// upgrading takes in what is seen of an upgrade of a database.
func (d *databases) upgrading(db *database, u driver.Upgrade) {
	if !d.config().UpgradeGate {
		u = driver.Upgrade{} // seen before that changed
	}
	if u.Active && !db.upgrade.Active {
		db.upgradeSince = time.Now()
	}
	db.upgrade = u
	d.derive(db)
}

// gate puts into force whether upgrades keep jobs from being started.
func (d *databases) gate(on bool) {
	if on == d.gating {
		return
	}
	d.gating = on
	for _, db := range d.byName {
		if !on {
			d.upgrading(db, driver.Upgrade{})
		}
		if db.session != nil {
			db.session.CheckUpgrade()
		}
	}
}

// upgrade says why an upgrade keeps the jobs of the database waiting, as a predicate, with the remedy if
// it has taken long.
func (d *DatabaseStatus) upgrade(now time.Time) string {
	text := fmt.Sprintf("starts no jobs, because it has been under an upgrade since %s%s",
		d.UpgradeSince.UTC().Format(time.RFC3339), with(": ", d.Detail))
	if d.upgradeForgotten(now) {
		text += "; finish the upgrade, or cancel it in Apps"
	}
	return text
}

// upgradeForgotten reports whether the database has been under an upgrade for longer than upgrades take.
func (d *DatabaseStatus) upgradeForgotten(now time.Time) bool {
	return d.State == DatabaseUpgrading && now.Sub(d.UpgradeSince) >= upgradeLimit
}

// upgrades counts the databases that are being upgraded, and will be served again without anybody
// having to do something.
func (st *Status) upgrades(now time.Time) (n int) {
	for i := range st.Databases {
		if db := &st.Databases[i]; db.State == DatabaseUpgrading && !db.upgradeForgotten(now) {
			n++
		}
	}
	return n
}
