package odoo

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// condition is one on job j.
type condition struct {
	// column is the one that an index may serve; empty if none can.
	column string
	// parts are alternatives, of which an index serves each alone.
	parts []part
	// begins is set if one of them asks for the beginning of a text.
	begins bool
}

// part is SQL in which each $ stands for the next of the arguments.
type part struct {
	sql  string
	args []any
}

// conditions are those of a filter: all of them have to be met.
type conditions []condition

// bind adds the arguments of a part and returns its SQL with their numbers.
func bind(p part, args *[]any) string {
	var b strings.Builder
	n := 0
	for text := range strings.SplitSeq(p.sql, "$") {
		if n > 0 {
			*args = append(*args, p.args[n-1])
			fmt.Fprintf(&b, "$%d", len(*args))
		}
		b.WriteString(text)
		n++
	}
	return b.String()
}

// sql is the condition as a whole.
func (c *condition) sql(args *[]any) string {
	list := make([]string, len(c.parts))
	for i, p := range c.parts {
		list[i] = bind(p, args)
	}
	return "(" + strings.Join(list, " OR ") + ")"
}

// all is the conjunction, as SQL that any index may serve.
func (list conditions) all(args *[]any) string {
	return list.join(args, "")
}

// unindexed is the conjunction as SQL that no index serves, so that the plan is that of the rest of
// the statement.
func (list conditions) unindexed(args *[]any) string {
	return list.join(args, " IS TRUE")
}

func (list conditions) join(args *[]any, suffix string) string {
	if len(list) == 0 {
		return "true"
	}
	texts := make([]string, len(list))
	for i := range list {
		texts[i] = list[i].sql(args) + suffix
	}
	return strings.Join(texts, " AND ")
}

// where turns a filter into a condition on job j, with its arguments.
func (g *generation) where(f driver.Filter) (string, []any) {
	var args []any
	return g.conditions(f).all(&args), args
}

// conditions are those of a filter, the ones first that few rows meet.
func (g *generation) conditions(f driver.Filter) (list conditions) {
	one := func(column, sql string, args ...any) {
		list = append(list, condition{column: column, parts: []part{{sql, args}}})
	}
	if len(f.UUIDs) > 0 {
		one("uuid", "j.uuid = ANY($::text[])", f.UUIDs)
	}
	if f.Prefix != "" {
		// Odoo makes its databases with the collation C, in which the index serves this. A range would
		// use it in every collation, but miss jobs where two letters sort as one ("aa" in Danish).
		one("uuid", "j.uuid LIKE $::text", likePrefix(f.Prefix))
		list[len(list)-1].begins = true
	}
	if f.Identity != "" {
		list = append(list, g.identityCondition(f))
	}
	if len(f.States) > 0 {
		names := make([]string, len(f.States))
		for i, s := range f.States {
			names[i] = s.String()
		}
		one("state", "j.state = ANY($::text[])", names)
	}
	if name := channels.Normalize(f.Channel); name != "root" {
		list = append(list, g.channelCondition(name))
	}
	if f.Exception != "" {
		list = append(list, g.optionalCondition("exc_name", "j.exc_name = $::text", f.Exception))
	}
	if f.Function != "" {
		list = append(list, g.functionCondition(f.Function))
	}
	if f.Name != "" {
		list = append(list, g.optionalCondition("name", "strpos(lower(left(j.name, 256)), lower($::text)) > 0", f.Name))
	}
	if f.OlderThan > 0 {
		one("", "j.date_created < now() AT TIME ZONE 'UTC' - $::interval", f.OlderThan)
	}
	if f.NewerThan > 0 {
		one("", "j.date_created >= now() AT TIME ZONE 'UTC' - $::interval", f.NewerThan)
	}
	return list
}

// optionalCondition is one on a column that not all series have: without it, no job meets it.
func (g *generation) optionalCondition(column, sql string, args ...any) condition {
	if !slices.Contains(g.plain(), column) {
		return condition{parts: []part{{sql: "false"}}}
	}
	return condition{parts: []part{{sql, args}}}
}

// identityCondition: the add-on's index on the key has only jobs that are pending or enqueued, and in
// some series those that wait for others.
func (g *generation) identityCondition(f driver.Filter) condition {
	c := g.optionalCondition(identityColumn.name, "j.identity_key = $::text", f.Identity)
	unfinished := len(f.States) > 0 && !slices.ContainsFunc(f.States, func(s channels.State) bool {
		return s != channels.Pending && s != channels.Enqueued
	})
	if unfinished && len(c.parts[0].args) > 0 {
		c.column = identityColumn.name
		c.parts[0].sql = "j.state IN ('pending', 'enqueued') AND " + c.parts[0].sql
	}
	return c
}

// channelCondition selects a channel and those below it. Rows name channels with and without root;
// all are below root.
func (g *generation) channelCondition(name string) condition {
	if !slices.Contains(g.plain(), "channel") {
		return condition{parts: []part{{sql: "false"}}}
	}
	short := strings.TrimPrefix(name, "root.")
	return condition{column: "channel", begins: true, parts: []part{
		{"j.channel = ANY($::text[])", []any{[]string{name, short}}},
		{"j.channel LIKE $::text", []any{likePrefix(name + ".")}},
		{"j.channel LIKE $::text", []any{likePrefix(short + ".")}},
	}}
}

// functionCondition selects by model and method, or by one of them.
func (g *generation) functionCondition(name string) condition {
	var c condition
	for _, column := range []string{"model_name", "method_name"} {
		if slices.Contains(g.plain(), column) {
			c.parts = append(c.parts, part{"j." + column + " = $::text", []any{name}})
		}
	}
	if dot := strings.LastIndexByte(name, '.'); len(c.parts) == 2 && dot > 0 {
		c.parts = append(c.parts, part{"j.model_name = $::text AND j.method_name = $::text", []any{name[:dot], name[dot+1:]}})
	}
	if len(c.parts) == 0 {
		c.parts = []part{{sql: "false"}}
	}
	return c
}

// likePrefix is a pattern for what begins with s.
func likePrefix(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s) + "%"
}
