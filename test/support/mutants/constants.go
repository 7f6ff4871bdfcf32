package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// check finds the types of a package, with what the compiler has exported of its imports.
func (b *bench) check(fset *token.FileSet, files []*ast.File) (*types.Info, error) {
	out, err := b.list("-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./"+b.Package)
	if err != nil {
		return nil, err
	}
	exports := map[string]string{}
	for line := range strings.Lines(out) {
		path, export, _ := strings.Cut(strings.TrimSpace(line), "\t")
		exports[path] = export
	}
	lookup := func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, errors.New("no export data")
		}
		return os.Open(exports[path])
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup)}
	if _, err := config.Check(b.Package, fset, files, info); err != nil {
		return nil, fmt.Errorf("checking types: %w", err)
	}
	return info, nil
}

// constants notes to which functions the constants of a file matter.
func (w *weaver) constants(file *ast.File, all map[string]*ast.File) {
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			users := map[int]bool{}
			for _, name := range spec.(*ast.ValueSpec).Names {
				w.usersOf(w.info.Defs[name], all, users, map[types.Object]bool{})
			}
			p := w.fset.Position(spec.Pos())
			w.spans = append(w.spans, span{p.Filename, p.Offset, w.fset.Position(spec.End()).Offset, slices.Sorted(maps.Keys(users))})
		}
	}
}

// usersOf collects the functions that use a constant, or another one that is made of it. Nought
// means that something else does, such as a variable of the package: any test may depend on it.
func (w *weaver) usersOf(obj types.Object, all map[string]*ast.File, users map[int]bool, seen map[types.Object]bool) {
	if obj == nil || seen[obj] {
		return
	}
	seen[obj] = true
	if obj.Exported() {
		users[0] = true
	}
	for _, file := range all {
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if w.uses(decl, obj) {
					users[w.functionAt(w.fset.Position(decl.Pos()))] = true
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					value, ok := spec.(*ast.ValueSpec)
					switch {
					case !w.uses(spec, obj):
					case ok && decl.Tok == token.CONST:
						for _, name := range value.Names {
							w.usersOf(w.info.Defs[name], all, users, seen)
						}
					default:
						users[0] = true
					}
				}
			}
		}
	}
}

func (w *weaver) uses(n ast.Node, obj types.Object) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && w.info.Uses[id] == obj {
			found = true
		}
		return !found
	})
	return found
}

func (w *weaver) functionAt(p token.Position) int {
	for _, s := range w.spans {
		if s.File == p.Filename && s.From == p.Offset {
			return s.Functions[0]
		}
	}
	return 0
}
