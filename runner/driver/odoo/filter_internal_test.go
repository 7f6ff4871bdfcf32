package odoo

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// What a filter asks for is in its conditions, with the column by which an index may find it, and nothing
// else; what the table does not have, no job meets.
func TestConditions(t *testing.T) {
	t.Parallel()
	const identity, unfinished = "j.identity_key = $::text", "j.state IN ('pending', 'enqueued') AND j.identity_key = $::text"
	pending, enqueued, failed := channels.Pending, channels.Enqueued, channels.Failed
	none := condition{parts: []part{{sql: "false"}}}
	function := func(parts ...part) conditions { return conditions{{parts: parts}} }
	model, method := part{"j.model_name = $::text", nil}, part{"j.method_name = $::text", nil}
	both := func(a, b string) part { return part{"j.model_name = $::text AND j.method_name = $::text", []any{a, b}} }
	of := func(p part, name string) part { p.args = []any{name}; return p }
	all := []string{"identity_key", "channel", "exc_name", "name", "model_name", "method_name"}
	one := func(column, sql string, args ...any) condition {
		return condition{column: column, parts: []part{{sql, args}}}
	}
	for name, c := range map[string]struct {
		filter   driver.Filter
		readable []string
		want     conditions
	}{
		"nothing":       {driver.Filter{}, all, nil},
		"root":          {driver.Filter{Channel: "root"}, all, nil},
		"prefix":        {driver.Filter{Prefix: "a_b"}, nil, conditions{{column: "uuid", begins: true, parts: []part{{"j.uuid LIKE $::text", []any{`a\_b%`}}}}}},
		"uuids":         {driver.Filter{UUIDs: []string{"a"}}, nil, conditions{one("uuid", "j.uuid = ANY($::text[])", []string{"a"})}},
		"older":         {driver.Filter{OlderThan: time.Hour}, nil, conditions{one("", "j.date_created < now() AT TIME ZONE 'UTC' - $::interval", time.Hour)}},
		"newer":         {driver.Filter{NewerThan: time.Hour}, nil, conditions{one("", "j.date_created >= now() AT TIME ZONE 'UTC' - $::interval", time.Hour)}},
		"identity":      {driver.Filter{Identity: "k"}, all, conditions{one("", identity, "k")}},
		"no identities": {driver.Filter{Identity: "k", States: []channels.State{pending}}, nil, conditions{none, one("state", "j.state = ANY($::text[])", []string{"pending"})}},
		"no exceptions": {driver.Filter{Exception: "x"}, nil, conditions{none}},
		"no channels":   {driver.Filter{Channel: "a"}, nil, conditions{none}},
		"no functions":  {driver.Filter{Function: "a.b"}, nil, conditions{none}},
		"function":      {driver.Filter{Function: "a.b.c"}, all, function(of(model, "a.b.c"), of(method, "a.b.c"), both("a.b", "c"))},
		"no dot":        {driver.Filter{Function: "abc"}, all, function(of(model, "abc"), of(method, "abc"))},
		"no model":      {driver.Filter{Function: ".c"}, all, function(of(model, ".c"), of(method, ".c"))},
		"one letter":    {driver.Filter{Function: "a.c"}, all, function(of(model, "a.c"), of(method, "a.c"), both("a", "c"))},
		"model alone":   {driver.Filter{Function: "a.c"}, []string{"model_name"}, function(of(model, "a.c"))},
	} {
		g := generation{readable: c.readable}
		require.Equal(t, c.want, g.conditions(c.filter), name)
	}
	for name, c := range map[string]struct {
		states []channels.State
		column string
	}{
		"pending": {[]channels.State{pending}, "identity_key"}, "enqueued": {[]channels.State{enqueued}, "identity_key"},
		"both": {[]channels.State{pending, enqueued}, "identity_key"}, "failed": {[]channels.State{failed}, ""},
		"pending or failed": {[]channels.State{pending, failed}, ""}, "any": {nil, ""},
	} {
		g := generation{readable: all}
		found := g.conditions(driver.Filter{Identity: "k", States: c.states})[0]
		require.Equal(t, c.column, found.column, name)
		want := identity
		if c.column != "" {
			want = unfinished
		}
		require.Equal(t, []part{{want, []any{"k"}}}, found.parts, name)
	}
}

// The arguments of several conditions are numbered in their order, after those that are there already.
func TestConditionsInSQL(t *testing.T) {
	t.Parallel()
	list := conditions{
		{parts: []part{{"a = $ OR b = $", []any{1, 2}}, {"c", nil}}}, {parts: []part{{"d = $", []any{3}}}},
	}
	args := []any{0}
	require.Equal(t, "(a = $2 OR b = $3 OR c) AND (d = $4)", list.all(&args))
	require.Equal(t, []any{0, 1, 2, 3}, args)
	args = nil
	require.Equal(t, "(a = $1 OR b = $2 OR c) IS TRUE AND (d = $3) IS TRUE", list.unindexed(&args))
	require.Equal(t, "true", conditions{}.all(&args))
}
