package odoo

import (
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Each place where the way to a backend can end has its own words, the first one counts, and only the
// whole way leads to a signal.
func TestVerdicts(t *testing.T) {
	yes, no := pgtype.Bool{Bool: true, Valid: true}, pgtype.Bool{Valid: true}
	whole := trail{
		rows: 1, locked: true, lockRows: 1, several: no, found: yes, pid: 42, holds: true, may: yes, signalled: yes,
		role: pgtype.Text{String: "odoo", Valid: true}, we: "jobrunner",
	}
	for name, c := range map[string]struct {
		change func(r *trail)
		result driver.StopResult
		words  string
	}{
		"signalled":              {func(*trail) {}, driver.Signalled, ""},
		"nobody knows the role":  {func(r *trail) { r.may = pgtype.Bool{} }, driver.Signalled, ""},
		"another attempt":        {func(r *trail) { r.rows = 0 }, driver.NotRunning, "is not this attempt"},
		"two rows":               {func(r *trail) { r.rows = 2 }, driver.Unstoppable, "2 jobs have this uuid"},
		"it commits":             {func(r *trail) { r.commits = true }, driver.Unstoppable, "allow_commit"},
		"the row is locked":      {func(r *trail) { r.locked = false }, driver.NotRunning, "may be ending"},
		"no lock row":            {func(r *trail) { r.lockRows = 0 }, driver.NotRunning, "has no lock row"},
		"two lock rows":          {func(r *trail) { r.lockRows = 2 }, driver.Unstoppable, "2 lock rows"},
		"several transactions":   {func(r *trail) { r.several = yes }, driver.Unstoppable, "several transactions"},
		"a prepared transaction": {func(r *trail) { r.pid = 0 }, driver.Unstoppable, "a prepared transaction"},
		"no backend":             {func(r *trail) { r.pid, r.found = 0, no }, driver.NotRunning, "no backend"},
		"nothing of it":          {func(r *trail) { r.pid, r.found = 0, pgtype.Bool{} }, driver.NotRunning, "no backend"},
		"of another table":       {func(r *trail) { r.holds = false }, driver.NotRunning, "no backend"},
		"denied":                 {func(r *trail) { r.may = no }, driver.Denied, `the backend belongs to odoo: GRANT pg_signal_backend TO "jobrunner", or connect as odoo`},
		"a superuser's": {func(r *trail) { r.may, r.mighty = no, yes }, driver.Denied,
			"the backend belongs to odoo, whom only superusers may signal, and jobrunner is none"},
		"it has ended":  {func(r *trail) { r.signalled = no }, driver.NotRunning, "the backend has ended"},
		"not signalled": {func(r *trail) { r.signalled = pgtype.Bool{} }, driver.NotRunning, "the backend has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			r := whole
			c.change(&r)
			result, words := r.verdict()
			require.Equal(t, c.result, result)
			require.Contains(t, words, c.words)
			require.Equal(t, c.words == "", words == "")
		})
	}
	require.Empty(t, signalRefused("odoo", "jobrunner", true, true))
}

// What is seen of an upgrade in a row of checks, with the transactions of the backends.
func TestTrailOfAnUpgrade(t *testing.T) {
	u := func(state string, rows ...[3]string) driver.Upgrade {
		u := upgrade{backends: parseTrail(state), open: map[string]string{}}
		for _, r := range rows {
			u.add(r[0], r[1], r[2])
		}
		return u.result()
	}
	require.Equal(t, driver.Upgrade{}, u(""))
	marked := u("7=3/1", [3]string{"marked", "sale (to upgrade)", ""}, [3]string{"marked", "base (to install)", ""})
	require.Equal(t, driver.Upgrade{Active: true, Description: "modules are marked: sale (to upgrade), base (to install)", DriverState: "7=changing"}, marked)
	writes := u("", [3]string{"writes", "7", "3/1"}, [3]string{"writes", "8", "4/1"})
	require.Equal(t, driver.Upgrade{Active: true, Description: "process 7 changes ir_module_module in a transaction that is open", DriverState: "7=changing 8=changing"}, writes)

	last := func(state, transaction string) driver.Upgrade {
		return driver.Upgrade{Active: true, Description: "process 7, which has changed modules, has not ended its last transaction", DriverState: "7=" + state + transaction}
	}
	for _, c := range []struct {
		state, open string
		want        driver.Upgrade
	}{
		{"7=changing", "3/2", last("3/2", "")},
		{"7=pausing", "3/2", last("3/2", "")},
		{"7=3/2", "3/2", last("3/2", "")},
		{"7=3/2", "3/3", driver.Upgrade{}},
		{"7=3/2", "", driver.Upgrade{}},
		{"7=changing", "", last("pausing", "")},
		{"7=pausing", "", driver.Upgrade{}},
	} {
		var rows [][3]string
		if c.open != "" {
			rows = append(rows, [3]string{"open", "7", c.open})
		}
		require.Equal(t, c.want, u(c.state, rows...), "%s, in %q", c.state, c.open)
	}
	require.Equal(t, map[string]string{"7": "3/2", "8": "changing", "9": ""}, parseTrail(" 7=3/2  8=changing 9"))
	require.Equal(t, "sale", printable("sale"))
	require.Equal(t, `"sa\nle"`, printable("sa\nle"))
}
