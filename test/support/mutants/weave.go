package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
)

// weaver puts all mutants of a package into its source, each with a number and behind a condition.
// A function has a number, too, so that it is known which tests enter it.
type weaver struct {
	fset *token.FileSet
	info *types.Info
	next int
	// mutants has the number of each mutant, by its key.
	mutants map[string]int
	spans   []span
}

// span is a piece of source, with the numbers of the functions to which it matters.
type span struct {
	File      string
	From, To  int
	Functions []int
}

// key names a mutant: where the operator is, and what it becomes.
func key(p token.Position, becomes token.Token) string {
	return fmt.Sprintf("%s:%d:%d %s", p.Filename, p.Line, p.Column, becomes)
}

// edit is a text that is put at an offset, in place of del bytes.
type edit struct {
	at, del int
	text    string
	closing bool
}

// woven is one file while it is edited.
type woven struct {
	*weaver
	src   []byte
	edits []edit
	path  []ast.Node
}

func (w *woven) offset(p token.Pos) int  { return w.fset.Position(p).Offset }
func (w *woven) text(n ast.Node) string  { return string(w.src[w.offset(n.Pos()):w.offset(n.End())]) }
func (w *woven) isConst(e ast.Expr) bool { return w.info.Types[e].Value != nil }

func (w *woven) open(p token.Pos, format string, args ...any) {
	w.edits = append(w.edits, edit{at: w.offset(p), text: fmt.Sprintf(format, args...)})
}

func (w *woven) close(p token.Pos, format string, args ...any) {
	w.edits = append(w.edits, edit{at: w.offset(p), text: fmt.Sprintf(format, args...), closing: true})
}

func (w *woven) replace(p token.Pos, op token.Token, text string) {
	w.edits = append(w.edits, edit{at: w.offset(p), del: len(op.String()), text: text})
}

func (w *woven) number() int {
	w.next++
	return w.next
}

func (w *woven) mutant(p token.Pos, becomes token.Token) int {
	n := w.number()
	w.mutants[key(w.fset.Position(p), becomes)] = n
	return n
}

// weave returns the file with its mutants.
func (w *weaver) weave(file *ast.File, src []byte) []byte {
	f := &woven{weaver: w, src: src}
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			f.path = f.path[:len(f.path)-1]
			return true
		}
		if !f.visit(n) {
			return false
		}
		f.path = append(f.path, n)
		return true
	})
	return f.apply()
}

func (w *woven) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		return n.Tok == token.VAR
	case *ast.FuncDecl:
		if n.Body != nil {
			p := w.fset.Position(n.Pos())
			id := w.number()
			w.spans = append(w.spans, span{p.Filename, p.Offset, w.offset(n.End()), []int{id}})
			w.open(n.Body.Lbrace+1, " mut_(%d); ", id)
		}
	case *ast.BlockStmt:
		w.statements(n.List)
	case *ast.CaseClause:
		w.statements(n.Body)
	case *ast.CommClause:
		w.statements(n.Body)
	case *ast.ForStmt:
		if post, ok := n.Post.(*ast.IncDecStmt); ok {
			w.postStatement(post)
		}
	case *ast.UnaryExpr:
		if n.Op == token.SUB && !w.isConst(n) {
			w.open(n.Pos(), "mutNeg_(%d, ", w.mutant(n.OpPos, token.ADD))
			w.replace(n.OpPos, n.Op, "")
			w.close(n.End(), ")")
		}
	case *ast.BinaryExpr:
		if w.isConst(n) {
			return false
		}
		w.binary(n)
	}
	return true
}

var (
	boundary = map[token.Token]token.Token{token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR}
	negation = map[token.Token]token.Token{token.LSS: token.GEQ, token.LEQ: token.GTR, token.GTR: token.LEQ, token.GEQ: token.LSS, token.EQL: token.NEQ, token.NEQ: token.EQL}
	inverse  = map[token.Token]token.Token{
		token.ADD: token.SUB, token.SUB: token.ADD, token.MUL: token.QUO, token.QUO: token.MUL,
		token.ADD_ASSIGN: token.SUB_ASSIGN, token.SUB_ASSIGN: token.ADD_ASSIGN,
		token.MUL_ASSIGN: token.QUO_ASSIGN, token.QUO_ASSIGN: token.MUL_ASSIGN,
		token.INC: token.DEC, token.DEC: token.INC, token.LAND: token.LOR, token.LOR: token.LAND,
		token.BREAK: token.CONTINUE, token.CONTINUE: token.BREAK,
	}
	functions = map[token.Token]string{
		token.LSS: "mutLss_", token.LEQ: "mutLeq_", token.GTR: "mutGtr_", token.GEQ: "mutGeq_",
		token.LAND: "mutAnd_", token.LOR: "mutOr_", token.INC: "mutInc_", token.DEC: "mutDec_",
		token.ADD: "mutAdd_", token.SUB: "mutSub_", token.MUL: "mutMul_", token.QUO: "mutQuo_",
	}
)

func (w *woven) binary(n *ast.BinaryExpr) {
	op := n.Op
	switch op {
	case token.EQL, token.NEQ:
		w.open(n.Pos(), "((")
		w.close(n.End(), ") != mut_(%d))", w.mutant(n.OpPos, negation[op]))
	case token.LSS, token.LEQ, token.GTR, token.GEQ:
		if w.isBasic(n, types.IsOrdered) {
			w.open(n.Pos(), "%s(%d, %d, ", functions[op], w.mutant(n.OpPos, boundary[op]), w.mutant(n.OpPos, negation[op]))
			w.replace(n.OpPos, op, ", ")
			w.close(n.End(), ")")
		}
	case token.LAND, token.LOR:
		w.open(n.Pos(), "%s(%d, ", functions[op], w.mutant(n.OpPos, inverse[op]))
		w.replace(n.OpPos, op, ", func() bool { return (")
		w.close(n.End(), ") })")
	case token.ADD, token.SUB, token.MUL, token.QUO:
		if w.isBasic(n, types.IsInteger|types.IsFloat) {
			w.open(n.Pos(), "%s(%d, ", functions[op], w.mutant(n.OpPos, inverse[op]))
			w.replace(n.OpPos, op, ", ")
			w.close(n.End(), ")")
		}
	}
}

// isBasic tells whether both operands have a basic type of that kind, and one is no constant.
func (w *woven) isBasic(n *ast.BinaryExpr, kind types.BasicInfo) bool {
	for _, e := range []ast.Expr{n.X, n.Y} {
		t := w.info.Types[e].Type
		if _, ok := t.(*types.TypeParam); ok || t == nil {
			return false
		}
		if b, ok := t.Underlying().(*types.Basic); !ok || b.Info()&kind == 0 {
			return false
		}
	}
	return !w.isConst(n.X) || !w.isConst(n.Y)
}

func (w *woven) postStatement(s *ast.IncDecStmt) {
	if _, ok := s.X.(*ast.Ident); !ok {
		return
	}
	w.open(s.Pos(), "%s(%d, &", functions[s.Tok], w.mutant(s.TokPos, inverse[s.Tok]))
	w.replace(s.TokPos, s.Tok, ")")
}

func (w *woven) statements(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.IncDecStmt:
			w.choose(s, s.TokPos, inverse[s.Tok], w.text(s.X)+inverse[s.Tok].String())
		case *ast.AssignStmt:
			becomes, ok := inverse[s.Tok]
			if !ok {
				continue
			}
			b, ok := w.info.Types[s.Lhs[0]].Type.Underlying().(*types.Basic)
			if ok && b.Info()&types.IsNumeric != 0 {
				w.choose(s, s.TokPos, becomes, fmt.Sprintf("%s %s %s", w.text(s.Lhs[0]), becomes, w.text(s.Rhs[0])))
			}
		case *ast.BranchStmt:
			if becomes, ok := inverse[s.Tok]; ok && w.mayBecome(s) {
				text := becomes.String()
				if s.Label != nil {
					text += " " + s.Label.Name
				}
				w.choose(s, s.TokPos, becomes, text)
			}
		}
	}
}

// choose puts the mutant beside the statement.
func (w *woven) choose(s ast.Stmt, p token.Pos, becomes token.Token, text string) {
	w.open(s.Pos(), "if mut_(%d) { %s } else { ", w.mutant(p, becomes), text)
	w.close(s.End(), " }")
}

// mayBecome tells whether a break can be a continue, or the reverse, without a change to what the
// compiler says of the function: there has to be a loop, and it must have an end without the break.
func (w *woven) mayBecome(s *ast.BranchStmt) bool {
	if s.Label != nil && s.Tok == token.BREAK {
		return false
	}
	for _, n := range slices.Backward(w.path) {
		switch n := n.(type) {
		case *ast.FuncDecl, *ast.FuncLit:
			return false
		case *ast.RangeStmt:
			return true
		case *ast.ForStmt:
			return n.Cond != nil || s.Tok == token.BREAK
		}
	}
	return false
}

func (w *woven) apply() []byte {
	// At one place, what ends comes before what begins; of what ends, the inner comes first.
	for i := range w.edits {
		if w.edits[i].closing {
			w.edits[i].del = -i
		}
	}
	slices.SortStableFunc(w.edits, func(a, b edit) int {
		if c := cmp.Compare(a.at, b.at); c != 0 || a.closing != b.closing {
			return cmp.Or(c, map[bool]int{true: -1, false: 1}[a.closing])
		}
		return cmp.Compare(min(a.del, 0), min(b.del, 0))
	})
	var out bytes.Buffer
	at := 0
	for _, e := range w.edits {
		out.Write(w.src[at:e.at])
		out.WriteString(e.text)
		at = e.at + max(e.del, 0)
	}
	out.Write(w.src[at:])
	return out.Bytes()
}
