package docs

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	jobrunner "github.com/caddy-jobrunner/caddy-jobrunner"
	"github.com/caddy-jobrunner/caddy-jobrunner/dashboard"
	"github.com/caddy-jobrunner/caddy-jobrunner/runjobguard"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

var update = flag.Bool("update", false, "write the generated part of docs/reference.md")

// A module is a type of the configuration, which has a section in docs/reference.md.
type module struct {
	title string
	file  string
	typ   reflect.Type
	// syntax is the type whose UnmarshalCaddyfile shows the options, in syntaxFile, and block the
	// block of it that these options are in, if it is not the first; "a/b" is the block b in a.
	syntaxFile, syntax, block string
	// where the JSON is, in the configuration.
	json string
}

// modules are all types of the configuration, in the order of the reference.
var modules = []module{
	{"The app", "module.go", reflect.TypeFor[jobrunner.App](), "caddyfile.go", "App", "", "`apps.jobrunner`"},
	{"A runner", "module.go", reflect.TypeFor[jobrunner.Runner](), "caddyfile.go", "App", "", "`apps.jobrunner.runners.<name>`"},
	{"A channel", "module.go", reflect.TypeFor[jobrunner.Channel](), "caddyfile.go", "App", "channel", "`channels.<name>` of a runner"},
	{
		"The limits of channels in the databases", "module.go", reflect.TypeFor[jobrunner.DatabaseChannels](), "caddyfile.go", "App", "channels",
		"`database_channels` of a runner",
	},
	{"The limits of an Odoo server", "servers.go", reflect.TypeFor[jobrunner.Server](), "caddyfile.go", "App", "server", "`server` of a runner"},
	{"A pool of servers", "pools.go", reflect.TypeFor[jobrunner.Pool](), "caddyfile.go", "App", "pool", "`pools.<name>` of a runner"},
	{"A policy", "policies.go", reflect.TypeFor[jobrunner.Policy](), "caddyfile.go", "App", "policy", "`policies` of a runner, a list"},
	{"A time limit", "policies.go", reflect.TypeFor[jobrunner.Timeout](), "caddyfile.go", "App", "policy/timeout", "`timeout` of a policy"},
	{"A limit per database or company", "policies_shares.go", reflect.TypeFor[jobrunner.Limit](), "", "", "", "`limit` of a policy"},
	{"The pool of a policy", "pools.go", reflect.TypeFor[jobrunner.PolicyPool](), "", "", "", "`pool` of a policy"},
	{"How long jobs may wait", "servers.go", reflect.TypeFor[jobrunner.Objective](), "", "", "", "`objective` of a policy"},
	{"A capacity for certain times", "policies_rates.go", reflect.TypeFor[jobrunner.CapacityWindow](), "", "", "", "`capacity` of a policy, a list"},
	{"A rate of starts", "policies_rates.go", reflect.TypeFor[jobrunner.Rate](), "", "", "", "`rate` of a policy"},
	{"Quarantine", "module.go", reflect.TypeFor[jobrunner.Quarantine](), "", "", "", "`quarantine` of a runner"},
	{"The driver odoo", "driver.go", reflect.TypeFor[jobrunner.OdooDriver](), "driver.go", "OdooDriver", "", "`driver` of a runner, with `\"driver\": \"odoo\"`"},
	{"Basic authentication", "driver.go", reflect.TypeFor[jobrunner.BasicAuth](), "", "", "", "`basic_auth` of the driver"},
	{
		"The directive jobrunner_guard", "runjobguard/guard.go", reflect.TypeFor[runjobguard.Handler](), "runjobguard/guard.go", "Handler", "",
		"a handler of a route, `\"handler\": \"jobrunner_guard\"`",
	},
	{
		"The directive jobrunner_dashboard", "dashboard/dashboard.go", reflect.TypeFor[dashboard.Handler](), "dashboard/dashboard.go", "Handler", "",
		"a handler of a route, `\"handler\": \"jobrunner_dashboard\"`",
	},
}

// caddyfileNames are the names that options have in a Caddyfile, where those of JSON differ; empty for
// an option that a Caddyfile writes in another way.
var caddyfileNames = map[string]string{
	"App.runners":              "jobrunner",
	"Runner.upstreams":         "upstream",
	"Runner.database_channels": "channels",
	"Runner.policies":          "policy",
	"Runner.pools":             "pool",
	"Policy.channels":          "",
	"Timeout.after":            "",
	"Channel.capacity":         "",
	"Channel.percent":          "",
	"Channel.auto":             "",
	"Channel.oca_capacity":     "",
	"Pool.upstreams":           "",
	"PolicyPool.name":          "",
	"PolicyPool.fallback":      "",
	"Objective.wait":           "",
	"Objective.percent":        "",
	"Limit.jobs":               "",
	"Limit.per":                "",
	"Limit.burst":              "",
	"CapacityWindow.slots":     "",
	"CapacityWindow.days":      "",
	"CapacityWindow.hours":     "",
	"CapacityWindow.zone":      "",
	"Rate.starts":              "",
	"Rate.period":              "",
	"Rate.burst":               "",
	"Rate.per":                 "",
	"Quarantine.attempts":      "",
	"Quarantine.within":        "",
	"BasicAuth.user":           "",
	"BasicAuth.password":       "",
	"Handler.path":             "",

	"Channel.oca_capacity_default": "",
	"Channel.oca_ignored":          "",
}

// comments returns the doc comments of a type of the tree, by field, and its own under "".
func comments(t *testing.T, file, typ string) map[string]string {
	t.Helper()
	found := map[string]string{}
	tree, err := parser.ParseFile(token.NewFileSet(), file, read(t, file).text, parser.ParseComments|parser.SkipObjectResolution)
	require.NoError(t, err)
	ast.Inspect(tree, func(n ast.Node) bool {
		decl, ok := n.(*ast.GenDecl)
		if !ok {
			return true
		}
		for _, spec := range decl.Specs {
			spec, ok := spec.(*ast.TypeSpec)
			if !ok || spec.Name.Name != typ {
				continue
			}
			found[""] = decl.Doc.Text()
			for _, field := range spec.Type.(*ast.StructType).Fields.List {
				for _, name := range field.Names {
					found[name.Name] = field.Doc.Text()
				}
			}
		}
		return false
	})
	require.NotEmpty(t, found[""], "%s: %s has no doc comment", file, typ)
	return found
}

// syntax returns the block that the doc comment of a type's UnmarshalCaddyfile shows.
func syntax(t *testing.T, file, typ string) []string {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), file, read(t, file).text, parser.ParseComments|parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, decl := range tree.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != "UnmarshalCaddyfile" || receiver(f.Recv.List[0].Type) != typ {
			continue
		}
		var lines []string
		for line := range strings.SplitSeq(f.Doc.Text(), "\n") {
			if text, ok := strings.CutPrefix(line, "\t"); ok {
				lines = append(lines, text)
			}
		}
		require.NotEmpty(t, lines)
		return lines
	}
	require.Fail(t, "no syntax", "%s: %s", file, typ)
	return nil
}

// inner returns what is in the block of a syntax that opens with a word, and in braces; with the word
// empty, in the outermost. "a/b" is the block b in the block a.
func inner(lines []string, word string) []string {
	if outer, block, nested := strings.Cut(word, "/"); nested {
		var in []string
		for _, line := range inner(lines, outer) {
			in = append(in, "\t"+line)
		}
		return inner(in, block)
	}
	depth := 0
	if word != "" {
		depth = 1
	}
	indent := strings.Repeat("\t", depth)
	for i, line := range lines {
		if !strings.HasPrefix(line, indent+word) || !strings.HasSuffix(line, "{") ||
			word != "" && !strings.HasPrefix(line, indent+word+" ") {
			continue
		}
		var in []string
		for _, line := range lines[i+1:] {
			if line == indent+"}" {
				return in
			}
			in = append(in, strings.TrimPrefix(line, indent+"\t"))
		}
	}
	return nil
}

// written are the forms of an option in a Caddyfile, without the content of its block.
func written(in []string, name string) []string {
	var forms []string
	for _, line := range in {
		if word, _, _ := strings.Cut(line, " "); word != name {
			continue
		}
		line = regexp.MustCompile(`\s+`).ReplaceAllString(line, " ")
		if strings.HasSuffix(line, "{") {
			line += " ... }"
		}
		forms = append(forms, "`"+line+"`")
	}
	return forms
}

// An option is a field of the configuration.
type option struct {
	name string // in JSON
	kind string // of value, in JSON
	text string // the doc comment
	// forms are those in a Caddyfile; none if it has no word for it.
	forms []string
}

// options are those of a module, and comment is the text about it.
func (m module) options(t *testing.T) (comment string, list []option) {
	t.Helper()
	texts := comments(t, m.file, m.typ.Name())
	var in []string
	if m.syntax != "" {
		in = inner(syntax(t, m.syntaxFile, m.syntax), m.block)
		if m.block == "" && m.typ.Name() == "App" {
			in = syntax(t, m.syntaxFile, m.syntax)
		}
	}
	for field := range m.typ.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		o := option{name: name, kind: kindOf(field.Type), text: texts[field.Name]}
		require.NotEmpty(t, o.text, "%s.%s has no doc comment", m.typ.Name(), field.Name)
		word, other := caddyfileNames[m.typ.Name()+"."+name]
		if !other {
			word = name
		}
		if word != "" {
			o.forms = written(in, word)
			require.NotEmpty(t, o.forms, "the syntax of %s does not show %s", m.syntax, word)
		}
		if field.Name == "DatabaseChannels" {
			o.forms = o.forms[1:]
		}
		if field.Name == "Channels" && m.typ.Name() == "Runner" {
			o.forms = append(o.forms[:1], written(in, "channel")...)
		}
		list = append(list, o)
	}
	// The name that begins the comment, as Go wants it, says nothing to a reader of the reference.
	comment = strings.TrimPrefix(texts[""], m.typ.Name()+" ")
	return strings.ToUpper(comment[:1]) + comment[1:], list
}

// kindOf says what a value is in JSON.
func kindOf(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Name() == "Duration":
		return "a duration such as `\"30s\"`"
	case t.Name() == "RawMessage", t.Kind() == reflect.Struct:
		return "an object"
	}
	switch t.Kind() {
	case reflect.Map:
		return "an object of objects, by name"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Struct {
			return "a list of objects"
		}
		return "a list of strings"
	case reflect.Bool:
		return "`true` or `false`"
	case reflect.Int:
		return "a number"
	default:
		return "a string"
	}
}

// wrap breaks a text of paragraphs into lines of at most lineWidth.
func wrap(text string) string {
	var b strings.Builder
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString("\n")
		}
		if strings.HasPrefix(paragraph, "\t") {
			b.WriteString("```json\n" + strings.ReplaceAll(paragraph[1:], "\n\t", "\n") + "\n```\n")
			continue
		}
		width := 0
		for word := range strings.FieldsSeq(paragraph) {
			n := utf8.RuneCountInString(word)
			switch {
			case width == 0:
			case width+1+n > lineWidth:
				b.WriteString("\n")
				width = 0
			default:
				b.WriteString(" ")
				width++
			}
			b.WriteString(word)
			width += n
		}
		b.WriteString("\n")
	}
	return b.String()
}

// reference is the generated part of docs/reference.md.
func reference(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, m := range modules {
		comment, list := m.options(t)
		fmt.Fprintf(&b, "### %s\n\nIn JSON: %s.\n\n%s\n", m.title, m.json, wrap(comment))
		if m.syntax != "" && m.block == "" && m.typ.Name() != "Runner" {
			b.WriteString("In a Caddyfile:\n\n```text\n" + strings.Join(syntax(t, m.syntaxFile, m.syntax), "\n") + "\n```\n\n")
		}
		for _, o := range list {
			fmt.Fprintf(&b, "#### `%s`\n\n", o.name)
			if len(o.forms) > 0 {
				b.WriteString(wrap("* Caddyfile: "+strings.Join(o.forms, ", ")) + "* JSON: " + o.kind + "\n\n")
			} else {
				b.WriteString("* JSON: " + o.kind + "\n\n")
			}
			b.WriteString(wrap(o.text) + "\n")
		}
	}
	return b.String()
}

const (
	referenceFile  = "docs/reference.md"
	referenceStart = "<!-- Generated by `go generate .` from the doc comments of the code. Do not edit. -->\n\n"
	referenceEnd   = "<!-- End of what is generated. -->\n"
)

// TestReference: docs/reference.md says of each option what the doc comments of the code say.
func TestReference(t *testing.T) {
	page := read(t, referenceFile).text
	before, rest, ok := strings.Cut(page, referenceStart)
	require.True(t, ok, "the mark of the generated part is missing")
	is, after, ok := strings.Cut(rest, referenceEnd)
	require.True(t, ok, "the mark at the end of the generated part is missing")
	want := reference(t)
	if *update {
		path := filepath.Join(root, filepath.FromSlash(referenceFile))
		require.NoError(t, os.WriteFile(path, []byte(before+referenceStart+want+referenceEnd+after), 0o644))
		return
	}
	if want != is {
		wanted, found := strings.Split(want, "\n"), strings.Split(is, "\n")
		i := 0
		for i < min(len(wanted), len(found))-1 && wanted[i] == found[i] {
			i++
		}
		require.Equal(t, wanted[i], found[i], "line %d of the generated part is the first that differs; run: go generate .", i+1)
	}
}

// TestEveryOptionHasADefault: what holds without an option is said of each, and it is what the code does.
func TestEveryOptionHasADefault(t *testing.T) {
	defaults := map[string]string{}
	for _, m := range modules {
		_, list := m.options(t)
		for _, o := range list {
			text := strings.Join(strings.Fields(o.text), " ")
			_, value, ok := strings.Cut(text, "Default: ")
			if !ok {
				assert.Contains(t, []string{"runners", "user", "password", "attempts", "within"}, o.name, "%s.%s says no default", m.typ.Name(), o.name)
				continue
			}
			defaults[m.typ.Name()+"."+o.name] = strings.Trim(strings.SplitN(value, ". ", 2)[0], ".`")
		}
	}
	interval, err := time.ParseDuration(defaults["Runner.discover_interval"])
	require.NoError(t, err)
	require.Equal(t, runner.DiscoverIntervalDefault, interval)
	timeout, err := time.ParseDuration(defaults["Runner.shutdown_timeout"])
	require.NoError(t, err)
	require.Equal(t, runner.ShutdownTimeoutDefault, timeout)
	require.Equal(t, runner.NotReady.String(), defaults["Runner.ready_fails_on"])
	require.Equal(t, stringConstant(t, "dashboard/dashboard.go", "defaultPath"), defaults["Handler.path"])
}

// stringConstant reads a constant that is not exported.
func stringConstant(t *testing.T, file, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)\b` + name + `\s+= (".*")`).FindStringSubmatch(read(t, file).text)
	require.NotNil(t, m)
	value, err := strconv.Unquote(m[1])
	require.NoError(t, err)
	return value
}

// TestEveryWordOfTheCaddyfileIsShown: each option that the parsers know is in the syntax that is shown,
// and in the Caddyfile of the reference.
func TestEveryWordOfTheCaddyfileIsShown(t *testing.T) {
	shown := map[string]bool{}
	for _, m := range modules {
		if m.syntax == "" {
			continue
		}
		for _, line := range syntax(t, m.syntaxFile, m.syntax) {
			if word := regexp.MustCompile(`^\s*(\w+)`).FindStringSubmatch(line); word != nil {
				shown[word[1]] = true
			}
		}
	}
	words := map[string]bool{}
	for _, file := range []string{"caddyfile.go", "policies.go", "driver.go"} {
		text := read(t, file).text
		for _, m := range regexp.MustCompile(`(?m)^\t"(\w+)": +(?:func\([rp]|\(\*(?:Runner|Policy)\))`).FindAllStringSubmatch(text, -1) {
			words[m[1]] = true
		}
		for _, m := range regexp.MustCompile(`(?m)^\tcase ("\w+"(?:, "\w+")*):|^\t\tcase ("\w+"(?:, "\w+")*):`).FindAllStringSubmatch(text, -1) {
			for _, word := range regexp.MustCompile(`\w+`).FindAllString(m[1]+m[2], -1) {
				words[word] = true
			}
		}
	}
	require.Greater(t, len(words), 20)
	example := read(t, "Caddyfile.example").text
	blocks := strings.Join(regexp.MustCompile("(?ms)^```caddyfile\n.*?^```$").FindAllString(read(t, referenceFile).text, -1), "\n")
	for word := range words {
		assert.True(t, shown[word], "the syntax does not show %s", word)
		shows := `(?m)^\t*(?:#\s)?` + word + `\b`
		assert.Regexp(t, shows, blocks, "the Caddyfile of %s does not show %s", referenceFile, word)
		assert.Regexp(t, shows, example, "Caddyfile.example does not show %s", word)
	}
}

func TestSyntaxIsRead(t *testing.T) {
	lines := []string{"a [<n>] {", "\tb    <x>", "\tb    y {", "\t\tc <z>", "\t}", "\td", "}"}
	require.Equal(t, []string{"b    <x>", "b    y {", "\tc <z>", "}", "d"}, inner(lines, ""))
	require.Equal(t, []string{"c <z>"}, inner(lines, "b"))
	require.Equal(t, []string{"`b <x>`", "`b y { ... }`"}, written(inner(lines, ""), "b"))
	require.Equal(t, "one two\n\n```json\n{\n\t\"a\": 1\n}\n```\n", wrap("one\ntwo\n\n\t{\n\t\t\"a\": 1\n\t}\n"))
}

// TestReferenceIsFormatted: the Caddyfiles of the reference are as `caddy fmt` writes them. That they
// adapt is tested in test/integration.
func TestReferenceIsFormatted(t *testing.T) {
	for _, b := range regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$").FindAllStringSubmatch(read(t, referenceFile).text, -1) {
		require.Equal(t, string(caddyfile.Format([]byte(b[1]))), b[1])
	}
}

// TestExamplesOfModules: the JSON in the doc comment of a module is one, without options that it has not.
func TestExamplesOfModules(t *testing.T) {
	checked := 0
	for _, m := range modules {
		comment, _ := m.options(t)
		for _, b := range regexp.MustCompile("(?ms)^```json\n(.*?)^```$").FindAllStringSubmatch(wrap(comment), -1) {
			checked++
			// Caddy takes these names away before a module sees the rest.
			text := regexp.MustCompile(`"(?:handler|driver)": "\w+",?`).ReplaceAllString(b[1], "")
			text = regexp.MustCompile(`,\s*}`).ReplaceAllString(text, "}")
			d := json.NewDecoder(strings.NewReader(text))
			d.DisallowUnknownFields()
			require.NoError(t, d.Decode(reflect.New(m.typ).Interface()), b[1])
		}
	}
	require.GreaterOrEqual(t, checked, 7)
}
