package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	tableRow  = regexp.MustCompile(`^\s*\|`)
	tableRule = regexp.MustCompile(`^\s*\|[\s:|-]+\|?\s*$`)
	listItem  = regexp.MustCompile(`^\s*(?:\d+\.|[*-])\s`)
	inCode    = regexp.MustCompile("`([^`]+)`")
	pathLike  = regexp.MustCompile(`^[\w.{},*-]+(?:/[\w.{},*-]+)*/?$`)
	fileLike  = regexp.MustCompile(`\.(?:go|md|ya?ml|js|css|html|svg|png|example|json)$`)
	goName    = regexp.MustCompile(`^\*?([A-Za-z_]\w*)(?:\.([A-Za-z_]\w*))?(?:\(\))?$`)
	between   = regexp.MustCompile(`^[\s:,(]*$`)
)

// declarations are the names that Go code declares: "Name", "Type.Method", "Type.Field",
// "package.Name", each with the files that declare it.
type declarations map[string]map[string]bool

func (d declarations) add(file string, names ...string) {
	for _, name := range names {
		if d[name] == nil {
			d[name] = map[string]bool{}
		}
		d[name][file] = true
	}
}

func (d declarations) top(file, pkg, name string) { d.add(file, name, pkg+"."+name) }

func (d declarations) parse(t *testing.T, f file) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), f.path, f.text, parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, decl := range tree.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Recv == nil {
				d.top(f.path, tree.Name.Name, decl.Name.Name)
				continue
			}
			d.add(f.path, decl.Name.Name, receiver(decl.Recv.List[0].Type)+"."+decl.Name.Name)
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				d.spec(f.path, tree.Name.Name, spec)
			}
		}
	}
}

func (d declarations) spec(file, pkg string, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			d.top(file, pkg, name.Name)
		}
	case *ast.TypeSpec:
		d.top(file, pkg, spec.Name.Name)
		var members *ast.FieldList
		switch typ := spec.Type.(type) {
		case *ast.StructType:
			members = typ.Fields
		case *ast.InterfaceType:
			members = typ.Methods
		default:
			return
		}
		for _, field := range members.List {
			for _, name := range field.Names {
				d.add(file, spec.Name.Name+"."+name.Name)
			}
		}
	}
}

func receiver(expr ast.Expr) string {
	switch expr := expr.(type) {
	case *ast.StarExpr:
		return receiver(expr.X)
	case *ast.IndexExpr:
		return receiver(expr.X)
	case *ast.Ident:
		return expr.Name
	default:
		return ""
	}
}

// looksGo tells names of Go from other words in code: they have a dot, brackets, or a
// capital among small letters.
func looksGo(name string) bool {
	m := goName.FindStringSubmatch(name)
	switch {
	case m == nil || strings.Contains(name, "_") || strings.ToUpper(name) == name:
		return false
	case m[2] != "" || strings.HasSuffix(name, "()"):
		return true
	}
	return strings.IndexFunc(name, unicode.IsUpper) >= 0 && strings.IndexFunc(name, unicode.IsLower) >= 0
}

// A mention is a name in code in a table or a list. Those that follow the name of a file of Go
// code immediately are said to be in that file.
type mention struct {
	name string
	file string
	line int
}

// mentions returns the names in code of tables and, if whole is set, of lists. Columns
// that are headed by the name of something else ("in queue_job") are left out.
func mentions(text string, whole bool) []mention {
	var list []mention
	var foreign map[int]bool
	lines := strings.Split(blank(text, fence), "\n")
	for i, line := range lines {
		switch {
		case tableRow.MatchString(line) && i+1 < len(lines) && tableRule.MatchString(lines[i+1]):
			foreign = map[int]bool{}
			for n, cell := range strings.Split(line, "|") {
				foreign[n] = strings.Contains(cell, "queue_job") || strings.Contains(cell, "Nomad")
			}
		case tableRule.MatchString(line):
		case tableRow.MatchString(line):
			for n, cell := range strings.Split(line, "|") {
				if !foreign[n] {
					list = append(list, inText(cell, i+1)...)
				}
			}
		case whole && (listItem.MatchString(line) || strings.HasPrefix(line, "  ")):
			list = append(list, inText(line, i+1)...)
		}
	}
	return list
}

func inText(text string, line int) []mention {
	var list []mention
	file, end := "", 0
	for _, m := range inCode.FindAllStringSubmatchIndex(text, -1) {
		name := text[m[2]:m[3]]
		if !between.MatchString(text[end:m[0]]) {
			file = ""
		}
		list = append(list, mention{name: name, file: file, line: line})
		if strings.HasSuffix(name, ".go") && !strings.Contains(name, "*") {
			file = name
		}
		end = m[1]
	}
	return list
}

// notOurs are names that look like those of Go code or of files, and are something else.
var notOurs = []string{"jobrunner.drivers", "odoo.conf", "net/http", "testing/synctest", "time.Sleep"}

// TestNames: the files, the folders and the names of Go code that the tables and lists of
// two documents mention exist.
func TestNames(t *testing.T) {
	declared, packages := declarations{}, map[string]bool{}
	for _, f := range files(t, ".go") {
		declared.parse(t, f)
		packages[path.Base(path.Dir(f.path))] = true
	}
	for _, name := range []string{"docs/architecture.md", "CONTRIBUTING.md", "docs/drivers.md"} {
		checked := 0
		for _, m := range mentions(read(t, name).text, true) {
			switch {
			case slices.Contains(notOurs, m.name):
			case fileLike.MatchString(m.name) && pathLike.MatchString(m.name),
				strings.Contains(m.name, "/") && pathLike.MatchString(m.name) && !strings.HasPrefix(m.name, "/"):
				checked++
				assert.True(t, exists(m.name), "%s:%d: there is no %s", name, m.line, m.name)
			case looksGo(m.name):
				checked++
				in := declared[strings.TrimSuffix(strings.TrimPrefix(m.name, "*"), "()")]
				if assert.NotEmpty(t, in, "%s:%d: nothing is called %s", name, m.line, m.name) && m.file != "" {
					assert.Contains(t, in, m.file, "%s:%d: %s is elsewhere", name, m.line, m.name)
				}
			}
		}
		require.NotZero(t, checked, name)
	}
}

var (
	makeCall   = regexp.MustCompile(`(?m)(?:^[ \t]*|[` + "`" + `;&] *)make((?: +[A-Za-z][\w-]*(?:=(?:'[^']*'|\S+))?)+)`)
	makeTarget = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)
	code       = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```[ \t]*$|`[^`]+`")
)

// called returns the targets of make that a document calls in its code.
func called(text string) []string {
	var targets []string
	for _, part := range code.FindAllString(text, -1) {
		for _, m := range makeCall.FindAllStringSubmatch(part, -1) {
			for _, word := range regexp.MustCompile(`[\w-]+(?:=(?:'[^']*'|\S+))?`).FindAllString(m[1], -1) {
				if !strings.Contains(word, "=") {
					targets = append(targets, word)
				}
			}
		}
	}
	return targets
}

// TestMakeTargets: the targets of make that documents call exist.
func TestMakeTargets(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range makeTarget.FindAllStringSubmatch(read(t, "Makefile").text, -1) {
		targets[m[1]] = true
	}
	checked := 0
	for _, f := range files(t, ".md") {
		for _, target := range called(f.text) {
			checked++
			assert.True(t, targets[target], "%s: make has no target %s", f.path, target)
		}
	}
	require.NotZero(t, checked)
}

func TestNamesAreFound(t *testing.T) {
	text := "| what in queue_job | here |\n|---|---|\n| `A.b` | `x/y.go` `C.d`, or `e` |\n\nprose `F.g`\n1. `h.go`: `I`\n"
	require.Equal(t, []mention{
		{name: "x/y.go", line: 3},
		{name: "C.d", file: "x/y.go", line: 3},
		{name: "e", line: 3},
		{name: "h.go", line: 6},
		{name: "I", file: "h.go", line: 6},
	}, mentions(text, true))
	for name, want := range map[string]bool{
		"engine.settle": true, "Manager": true, "judgeAlone": true, "f()": true,
		"pending": false, "LISTEN": false, "discover_interval": false, "root:0": false, "DROP DATABASE": false,
	} {
		require.Equal(t, want, looksGo(name), name)
	}
	require.Equal(t, []string{"a", "b", "c"}, called("`make a X=1 b` make no\n```\nmake c Y='d e'  # help\n```\n"))
}
