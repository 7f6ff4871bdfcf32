package runner

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// An upgrade counts as forgotten after an hour, and is then told of with the remedy.
func TestForgottenUpgrade(t *testing.T) {
	t.Parallel()
	since := time.Unix(1_800_000_000, 0)
	db := DatabaseStatus{Name: "prod", State: DatabaseUpgrading, UpgradeSince: since, Detail: "modules are marked: sale (to upgrade)"}
	text := "starts no jobs, because it has been under an upgrade since 2027-01-15T08:00:00Z: modules are marked: sale (to upgrade)"
	hour := since.Add(time.Hour)
	require.False(t, db.upgradeForgotten(hour.Add(-1)))
	require.True(t, db.upgradeForgotten(hour))
	require.Equal(t, text, db.upgrade(hour.Add(-1)))
	require.Equal(t, text+"; finish the upgrade, or cancel it in Apps", db.upgrade(hour))

	ready := db
	ready.State = DatabaseReady
	require.False(t, ready.upgradeForgotten(hour))
	young := db
	young.UpgradeSince = hour
	st := Status{Databases: []DatabaseStatus{db, ready, young, young}}
	require.Equal(t, 2, st.upgrades(hour))
	require.Equal(t, 3, st.upgrades(hour.Add(-1)))
}

// What is seen of an upgrade counts while the option is on, and its time is that of its beginning.
func TestUpgradeIsTakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, db := served()
		u := driver.Upgrade{Active: true, Description: "first"}
		e.databases.upgrading(db, u)
		require.False(t, db.upgrade.Active, "without the option")
		cfg := e.config()
		cfg.UpgradeGate = true
		e.config, e.databases.config = func() Config { return cfg }, func() Config { return cfg }
		began := time.Now()
		e.databases.upgrading(db, u)
		timing.Sleep(t.Context(), time.Minute)
		u.Description = "second"
		e.databases.upgrading(db, u)
		require.Equal(t, u, db.upgrade)
		require.Equal(t, began, db.upgradeSince)
		e.databases.upgrading(db, driver.Upgrade{})
		e.databases.upgrading(db, u)
		require.Equal(t, time.Now(), db.upgradeSince, "it is another one")

		e.databases.gate(true)
		require.True(t, db.upgrade.Active)
		require.True(t, e.databases.gating)
		e.databases.gate(true)
		require.True(t, db.upgrade.Active)
		cfg.UpgradeGate = false
		e.databases.gate(false)
		require.False(t, db.upgrade.Active)
		require.False(t, e.databases.gating)
	})
}
