package driver

import "context"

// Upgrader is implemented by sessions of applications that can be changed while their tasks wait:
// parts of them are installed, upgraded or removed, and a task that runs meanwhile may find neither
// the old state nor the new one. It is optional, and declared by [Capabilities.Upgrades].
type Upgrader interface {
	// GateUpgrades has [Session.Claim] claim nothing in a database that is marked for an upgrade.
	// The mark is read by the statement that claims. Default: off.
	GateUpgrades(on bool)

	// Upgrading tells whether the application is being changed, which can be seen before Claim sees a
	// mark, and lasts longer. last is the result of the call before, also of one on an earlier
	// connection; the zero value if there was none.
	Upgrading(ctx context.Context, last Upgrade) (Upgrade, error)
}

// Upgrade is a change of the application in one database.
type Upgrade struct {
	// Active is true while the change is under way, or ordered.
	Active bool
	// Description says what is seen of it, in words for an operator that follow the name of the
	// database: "modules are marked: sale (to upgrade)".
	Description string
	// DriverState is for the next call of [Upgrader.Upgrading]. Others only carry it.
	DriverState string
}
