package odoo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// A server in recovery cannot be had within a test's time; what it answers can.
func TestObstacleOfRecovery(t *testing.T) {
	t.Parallel()
	g := generation{contract: queueJob}
	require.Equal(t, "the server is in recovery: connect to the primary",
		g.obstacle(catalog{Recovering: true}, module{state: "installed"}))
}

// Each thing that the catalogs say, one at a time: whether the database is served, and if not, why.
func TestDetect(t *testing.T) {
	t.Parallel()
	columns := []string{
		"id", "uuid", "state", "date_enqueued", "retry", "max_retries", "exc_name", "exc_info", "channel", "priority",
		"date_created", "eta", "worker_pid", "model_name",
	}
	but := func(name string) []string { return without(columns, []string{name}) }
	for name, c := range map[string]struct {
		change func(c *catalog, m modules)
		health driver.Health
		says   string
	}{
		"healthy":              {func(*catalog, modules) {}, driver.Healthy, "ready"},
		"no Odoo":              {func(c *catalog, _ modules) { c.Modules = false }, driver.Undetected, "not an Odoo database"},
		"no table":             {func(c *catalog, _ modules) { c.Odd = []string{"ir_cron"} }, driver.Unhealthy, "not a table"},
		"hidden":               {func(c *catalog, _ modules) { c.Hidden = []string{"queue_job"} }, driver.Unhealthy, "row-level security"},
		"typed":                {func(c *catalog, _ modules) { c.Typed = []string{"ir_cron"} }, driver.Unhealthy, "a column whose type"},
		"modules not readable": {func(c *catalog, _ modules) { c.ReadModules = false }, driver.Unhealthy, "may not read ir_module_module"},
		"not installed":        {func(_ *catalog, m modules) { m["queue_job"] = module{"uninstalled", ""} }, driver.Undetected, "is not installed"},
		"upgrading":            {func(_ *catalog, m modules) { m["queue_job"] = module{"to upgrade", ""} }, driver.Unhealthy, "is being changed"},
		"removing":             {func(_ *catalog, m modules) { m["queue_job"] = module{"to remove", ""} }, driver.Unhealthy, "is being changed"},
		"no jobs":              {func(c *catalog, _ modules) { c.Jobs = false }, driver.Unhealthy, "there is no table queue_job"},
		"connector without jobs": {func(c *catalog, m modules) {
			c.Jobs = false
			delete(m, "queue_job")
			m["connector"] = module{"installed", ""}
		}, driver.Undetected, "connector has no jobs here"},
		"recovering":          {func(c *catalog, _ modules) { c.Recovering = true }, driver.Unhealthy, "in recovery"},
		"column missing":      {func(c *catalog, _ modules) { c.Columns = but("retry") }, driver.Unhealthy, "lacks retry"},
		"limit missing":       {func(c *catalog, _ modules) { c.Columns = but("max_retries") }, driver.Unhealthy, "lacks max_retries"},
		"optional missing":    {func(c *catalog, _ modules) { c.Columns = but("eta") }, driver.Healthy, "ready"},
		"column typed":        {func(c *catalog, _ modules) { c.TypedColumns = []string{"eta"} }, driver.Unhealthy, "no type of PostgreSQL's own"},
		"detail typed":        {func(c *catalog, _ modules) { c.TypedColumns = []string{"model_name"} }, driver.Unhealthy, "no type of PostgreSQL's own"},
		"other column typed":  {func(c *catalog, _ modules) { c.TypedColumns = []string{"x_color"} }, driver.Healthy, "ready"},
		"column not readable": {func(c *catalog, _ modules) { c.Readable = but("eta") }, driver.Unhealthy, "may not read queue_job (eta)"},
		"detail not readable": {func(c *catalog, _ modules) { c.Readable = but("model_name") }, driver.Healthy, "ready"},
		"state not writable":  {func(c *catalog, _ modules) { c.Writable = but("state") }, driver.Unhealthy, "may not write queue_job (state)"},
		"retry not writable":  {func(c *catalog, _ modules) { c.Writable = but("retry") }, driver.Unhealthy, "may not write queue_job (retry)"},
		"eta not writable":    {func(c *catalog, _ modules) { c.Writable = but("eta") }, driver.Healthy, "ready"},
		"retry not writable, no locks": {func(c *catalog, _ modules) {
			c.Locks, c.Writable = false, but("retry")
		}, driver.Healthy, "ready"},
		"locks not readable":       {func(c *catalog, _ modules) { c.ReadLocks = false }, driver.Unhealthy, "may not check lock rows"},
		"locks not to be locked":   {func(c *catalog, _ modules) { c.LockLocks = false }, driver.Unhealthy, "may not check lock rows"},
		"no locks":                 {func(c *catalog, _ modules) { c.Locks, c.ReadLocks, c.LockLocks = false, false, false }, driver.Healthy, "ready"},
		"no DELETE":                {func(c *catalog, _ modules) { c.Events &^= triggerDelete }, driver.Unhealthy, "does not cover"},
		"INSERT alone":             {func(c *catalog, _ modules) { c.Events = triggerInsert }, driver.Unhealthy, "does not cover"},
		"switched off":             {func(c *catalog, _ modules) { c.Events, c.Disabled = 0, true }, driver.Unhealthy, "is switched off"},
		"switched off, one of two": {func(c *catalog, _ modules) { c.Disabled = true }, driver.Healthy, "ready"},
		"trigger missing":          {func(c *catalog, _ modules) { c.Events = 0 }, driver.Unhealthy, "trigger is missing: install"},
	} {
		for _, others := range []bool{false, true} {
			state := catalog{
				Modules: true, Jobs: true, Locks: true, Columns: columns, Readable: columns, Writable: columns,
				ReadModules: true, ReadLocks: true, LockLocks: true, Events: triggerAll, Path: "a, b",
			}
			if others {
				state.Others = []string{"x"}
			}
			found := modules{"queue_job": {"installed", "18.0.1"}}
			c.change(&state, found)
			g, fp := detect(state, found)
			require.Equal(t, c.health, fp.Health, name)
			require.Contains(t, fp.Description, c.says, name)
			if c.health != driver.Healthy {
				continue
			}
			require.Equal(t, state.Locks, fp.Locks, name)
			require.Equal(t, state.Locks, g.name == "queue_job+lock", name)
			require.False(t, fp.Unguarded, name)
			require.Equal(t, others, g.path != "", name)
			require.False(t, g.trigger.needed, name)
		}
	}
}

// Series that leave the trigger to their runner, as far as the runner may create it.
func TestDetectOfATriggerToBeCreated(t *testing.T) {
	t.Parallel()
	columns := []string{"id", "uuid", "state", "date_enqueued", "retry"}
	for name, c := range map[string]struct {
		change func(*catalog)
		health driver.Health
		says   string
		want   trigger
	}{
		"missing":        {func(*catalog) {}, driver.Healthy, "will be created", trigger{needed: true, schema: "s", owner: "o"}},
		"of another":     {func(c *catalog) { c.Events, c.Function = triggerAll, "notify('connector')" }, driver.Healthy, "will be created", trigger{needed: true, exists: true, schema: "s", owner: "o"}},
		"right":          {func(c *catalog) { c.Events, c.Function = triggerAll, "notify('queue_job')" }, driver.Healthy, "ready", trigger{}},
		"not the owner":  {func(c *catalog) { c.Owning = false }, driver.Unhealthy, "connect as o", trigger{}},
		"may not create": {func(c *catalog) { c.Creating = false }, driver.Unhealthy, "GRANT CREATE ON SCHEMA s", trigger{}},
	} {
		state := catalog{
			Modules: true, Jobs: true, Columns: columns, Readable: columns, Writable: columns, ReadModules: true,
			Schema: "s", Owner: "o", Owning: true, Creating: true,
		}
		c.change(&state)
		g, fp := detect(state, modules{"queue_job": {"installed", ""}})
		require.Equal(t, c.health, fp.Health, name)
		require.Contains(t, fp.Description, c.says, name)
		require.Equal(t, c.want, g.trigger, name)
		require.True(t, fp.Unguarded, name)
		require.Equal(t, stateSession, g.driverState(), name)
	}
	g := generation{contract: queueJob, columns: []string{"exc_name"}}
	require.False(t, g.guarded(), "nothing says which worker runs it")
	g.columns = []string{"worker_pid"}
	require.False(t, g.guarded())
	g.columns = []string{"worker_pid", "exc_name"}
	require.True(t, g.guarded())
	require.Empty(t, g.driverState())
	require.Equal(t, stateConnector, (&generation{contract: connector}).driverState())
}

// The ancestor's jobs are detected too, and a lock table is not its.
func TestDetectOfConnector(t *testing.T) {
	t.Parallel()
	columns := []string{"id", "uuid", "state", "date_enqueued", "retry"}
	state := catalog{
		Modules: true, Jobs: true, Locks: true, Columns: columns, Readable: columns, Writable: columns, ReadModules: true,
		Events: triggerAll, Function: "notify('connector')",
	}
	g, fp := detect(state, modules{"connector": {"installed", "8.0"}})
	require.Equal(t, driver.Healthy, fp.Health, fp.Description)
	require.Equal(t, "ready", fp.Description)
	require.False(t, fp.Locks)
	require.Equal(t, "connector", g.name)
	require.True(t, (&generation{locks: true}).guarded(), "the lock row guards")
}
