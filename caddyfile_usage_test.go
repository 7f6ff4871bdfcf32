package jobrunner

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"
)

// blocksOfOptions are the blocks that a Caddyfile has: their options, and what is around a line of one.
var blocksOfOptions = map[string]struct {
	options []string
	around  string
}{
	"runner":            {names(runnerOptions), "%s"},
	"channels database": {names(databaseChannelsOptions), "channels database {\n%s\n}"},
	"channel":           {names(channelOptions), "channel mail 1 {\n%s\ncapacity_default 1\n}"},
	"server":            {names(serverOptions), "server {\n%s\nworkers 8\n}"},
	"policy":            {names(policyOptions), "policy root {\n%s\ntimeout 15m\n}"},
	"timeout":           {names(timeoutOptions), "policy root {\ntimeout 15m {\n%s\ncancel\n}\n}"},
	"hibernate":         {names(hibernateOptions), "hibernate 10m {\n%s\n}"},
	"pooler":            {names(poolerOptions), "pooler postgres://a {\n%s\n}"},
	"driver":            {names(odooOptions), "driver odoo {\n%s\n}"},
}

func names[T any](options map[string]T) []string { return slices.Sorted(maps.Keys(options)) }

// flags are the options without arguments.
var flags = []string{"sequential", "paused", "sequential_default", "cancel", "retry", "run_neutralized", "release_dependents", "upgrade_gate", "payloads"}

// endless are the options that take any number of arguments.
var endless = []string{"databases", "upstream", "channels", "db_max_capacity", "policy", "pool"}

// parseLine reads a Caddyfile with a line in a block. Its error names the line of the file.
func parseLine(around, line string) error {
	text := "jobrunner {\n" + fmt.Sprintf(around, line) + "\n}"
	return new(App).UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
}

// TestUsage: an option with no argument, and one with an argument too many, is refused with what it
// takes, an example, and the line; and the example is right.
func TestUsage(t *testing.T) {
	for block, b := range blocksOfOptions {
		for _, option := range b.options {
			t.Run(block+" "+option, func(t *testing.T) {
				b := b
				// Where the block needs another line for the option to be right, that line may be the option.
				b.around = regexp.MustCompile("(%s)\n"+option+" ?.*").ReplaceAllString(b.around, "$1")
				before, _, _ := strings.Cut(b.around, "%s")
				at := fmt.Sprintf(", at Testfile:%d", 2+strings.Count(before, "\n"))
				key := option
				if _, ok := usages[option+" of a "+block]; ok {
					key += " of a " + block
				}
				u, ok := usages[key]
				if slices.Contains(flags, option) {
					require.False(t, ok, "it has no argument")
					require.NoError(t, parseLine(b.around, option))
					require.EqualError(t, parseLine(b.around, option+" on"), option+` takes no argument, but here is "on"; without the line, it is off`+at)
					return
				}
				require.True(t, ok, "usages has nothing of it")
				want := option + " takes " + u.takes + ", as in: " + u.example + at
				example := u.example
				for name, body := range map[string]string{"policy": "fair company", "server": "workers 8"} {
					if option == name {
						example = strings.Replace(u.example, "{ ... }", "{\n"+body+"\n}", 1)
					}
				}
				require.NoError(t, parseLine(b.around, example))
				if option == "server" {
					require.EqualError(t, parseLine(b.around, "server 8"), want)
					return
				}
				require.EqualError(t, parseLine(b.around, option), want)
				if !slices.Contains(endless, key) {
					require.EqualError(t, parseLine(b.around, strings.Replace(example, "\n", " ", 1)+" more words {"), want)
				}
			})
		}
	}
}
