package docs

import (
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	jobrunner "github.com/caddy-jobrunner/caddy-jobrunner"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/command"
)

var (
	invocation = regexp.MustCompile("(?m)(?:^[ \t]*(?:sudo (?:-u \\w+ )?)?|`)caddy ([a-z-]+)((?: [^`\n#|;]*)?)")
	argument   = regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
)

// A call is a command of caddy that a document shows.
type call struct {
	name string
	args []string
}

// calls returns the commands of caddy in the code of a document.
func calls(text string) []call {
	var list []call
	for _, part := range code.FindAllString(text, -1) {
		part = strings.ReplaceAll(part, "\\\n", " ")
		for _, m := range invocation.FindAllStringSubmatch(part, -1) {
			c := call{name: m[1]}
			for _, arg := range argument.FindAllString(m[2], -1) {
				if arg == "..." || strings.HasPrefix(arg, "<") {
					continue // stands for what may follow
				}
				c.args = append(c.args, strings.Trim(arg, `"'`))
			}
			list = append(list, c)
		}
	}
	return list
}

// jobrunnerCommand is the command of caddy with the sub-commands.
func jobrunnerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "jobrunner"}
	command.New().CobraFunc(cmd)
	cmd.SetErr(io.Discard)
	return cmd
}

// accepts says whether the sub-command that the arguments name takes the others.
func accepts(args []string) error {
	cmd, rest, err := jobrunnerCommand().Find(args)
	if err != nil || !cmd.HasParent() {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	positional := cmd.Flags().Args()
	if len(positional) == 0 {
		return nil // prose speaks of a command without what it is given
	}
	return cmd.Args(cmd, positional)
}

// TestCommands: the commands of caddy that documents show exist, with their flags and as many arguments.
func TestCommands(t *testing.T) {
	known := caddycmd.Commands()
	checked := 0
	for _, f := range files(t, ".md") {
		for _, c := range calls(f.text) {
			checked++
			if c.name != "jobrunner" {
				_, ok := known[c.name]
				assert.True(t, ok || slices.Contains([]string{"completion"}, c.name), "%s: there is no caddy %s", f.path, c.name)
				continue
			}
			require.NoError(t, accepts(c.args), "%s: caddy jobrunner %s", f.path, strings.Join(c.args, " "))
		}
	}
	require.Greater(t, checked, 40)
}

func TestCommandsAreFound(t *testing.T) {
	text := "`caddy jobrunner why` caddy no\n```\ncaddy jobrunner pause --note \"a b\"  # comment\nsudo -u caddy caddy validate --config x\ncaddy a \\\n  b\n```\n"
	require.Equal(t, []call{
		{name: "jobrunner", args: []string{"why"}},
		{name: "jobrunner", args: []string{"pause", "--note", "a b"}},
		{name: "validate", args: []string{"--config", "x"}},
		{name: "a", args: []string{"b"}},
	}, calls(text))
	require.NoError(t, accepts([]string{"pause", "--channel", "mail", "--for", "2h"}))
	require.Error(t, accepts([]string{"pause", "--chanel", "mail"}))
	require.Error(t, accepts([]string{"pauses"}))
	require.Error(t, accepts([]string{"why", "a", "b", "c"}))
}

// TestConfigPaths: the paths of Caddy's configuration that documents change through the admin API lead to
// options.
func TestConfigPaths(t *testing.T) {
	found := 0
	for _, f := range files(t, ".md", "stay.go") {
		for _, m := range regexp.MustCompile(`/config/apps/jobrunner/([\w./-]+\w)`).FindAllStringSubmatch(f.text, -1) {
			found++
			typ := reflect.TypeFor[jobrunner.App]()
			for part := range strings.SplitSeq(m[1], "/") {
				typ = below(typ, part)
				if !assert.NotNil(t, typ, "%s: %s: there is no %s", f.path, m[0], part) {
					break
				}
			}
		}
	}
	require.GreaterOrEqual(t, found, 3)
}

// below is the type of what a name leads to in the JSON of a type; nil if to nothing.
func below(typ reflect.Type, name string) reflect.Type {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch typ.Kind() {
	case reflect.Map:
		return typ.Elem()
	case reflect.Struct:
		for field := range typ.Fields() {
			if tag, _, _ := strings.Cut(field.Tag.Get("json"), ","); tag == name {
				return field.Type
			}
		}
	default:
	}
	return nil
}
