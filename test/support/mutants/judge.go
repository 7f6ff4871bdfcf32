package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// verdict is what the tests said of a mutant.
type verdict string

const (
	killed    verdict = "killed"
	tooLong   verdict = "timed out" // the tests did not end: a kill
	lived     verdict = "lived"
	unreached verdict = "not reached"
	invalid   verdict = "invalid" // does not compile
)

func (v verdict) exitCode() int {
	switch v {
	case killed, tooLong:
		return exitKilled
	case invalid:
		return exitInvalid
	default:
		return exitLived
	}
}

// mutation is what Gremlins has changed.
type mutation struct {
	file    string
	at      token.Position
	becomes token.Token
}

func (m mutation) key() string { return key(m.at, m.becomes) }

// judge runs the tests on the mutant in dir, Gremlins' copy of the package.
func (b *bench) judge(dir string) (int, error) {
	idx, err := b.load()
	if err != nil {
		return exitBroken, err
	}
	b.rapid = idx.Rapid
	m, err := b.find(dir)
	if err != nil {
		return exitBroken, err
	}
	verdicts := filepath.Join(b.Work, "verdicts")
	id := strings.Join([]string{m.key(), idx.Sources}, "\t")
	if v, ok := b.known(verdicts, id, idx.testsHash()); ok {
		return v.exitCode(), nil
	}
	start := time.Now()
	reaches := idx.reaching(m)
	slices.SortStableFunc(reaches, likeliest(neighbours(verdicts, m)))
	v, by, err := b.try(idx, m, reaches)
	if err != nil {
		return exitBroken, err
	}
	line := strings.Join([]string{id, idx.testsHash(), string(v), by, time.Since(start).Round(time.Millisecond).String()}, "\t")
	return v.exitCode(), appendLine(verdicts, line)
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keeping the verdict: %w", err)
	}
	_, err = fmt.Fprintln(f, line)
	return errors.Join(err, f.Close())
}

// testsHash changes with the tests that judge.
func (idx *index) testsHash() string {
	var h uint64 = 14695981039346656037
	for _, t := range idx.Tests {
		if t.Fails {
			continue
		}
		for _, c := range []byte(t.Judge + t.Name + t.Source) {
			h = (h ^ uint64(c)) * 1099511628211
		}
	}
	return fmt.Sprintf("%016x", h)
}

// known returns an earlier verdict. What was killed stays killed as long as the package is the same,
// because tests are rarely taken away; what lived is tried again with other tests.
func (b *bench) known(path, id, tests string) (verdict, bool) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	var found verdict
	for line := range strings.Lines(string(content)) {
		rest, ok := strings.CutPrefix(line, id+"\t")
		if !ok {
			continue
		}
		fields := strings.Split(rest, "\t")
		if v := verdict(fields[1]); fields[0] == tests || v == killed || v == tooLong || v == invalid {
			found = v
		}
	}
	return found, found != ""
}

// find compares the tokens of Gremlins' copy with those of the package, as it was when all this began.
func (b *bench) find(dir string) (mutation, error) {
	paths, err := filepath.Glob(filepath.Join(b.Work, originalPrefix+"*"))
	if err != nil {
		return mutation{}, fmt.Errorf("finding the mutant: %w", err)
	}
	for _, original := range paths {
		name := strings.TrimPrefix(filepath.Base(original), originalPrefix)
		path := filepath.Join(dir, name)
		mutant, err := os.ReadFile(path)
		if err != nil {
			return mutation{}, fmt.Errorf("finding the mutant: %w", err)
		}
		original, err := os.ReadFile(original)
		if err != nil {
			return mutation{}, fmt.Errorf("finding the mutant: %w", err)
		}
		if bytes.Equal(mutant, original) {
			continue
		}
		if at, becomes, ok := difference(name, original, mutant); ok {
			return mutation{path, at, becomes}, nil
		}
	}
	return mutation{}, errors.New("nothing is broken")
}

// difference returns the first token of the original that is another one in the mutant.
func difference(name string, original, mutant []byte) (token.Position, token.Token, bool) {
	var scanners [2]scanner.Scanner
	fset := token.NewFileSet()
	for i, src := range [][]byte{original, mutant} {
		scanners[i].Init(fset.AddFile(name, -1, len(src)), src, nil, 0)
	}
	for {
		p, was, _ := scanners[0].Scan()
		_, becomes, _ := scanners[1].Scan()
		// What binds less than before is printed in parentheses.
		for was != becomes && (becomes == token.LPAREN || becomes == token.RPAREN) {
			_, becomes, _ = scanners[1].Scan()
		}
		if was != becomes {
			return fset.Position(p), becomes, true
		}
		if was == token.EOF {
			return token.Position{}, 0, false
		}
	}
}

// try runs the tests that reach the mutant, and tells which one killed it.
func (b *bench) try(idx *index, m mutation, reaches []test) (verdict, string, error) {
	binary, env := b.binary, []string(nil)
	if n, ok := idx.Mutants[m.key()]; ok {
		env = []string{fmt.Sprintf("MUTANT=%d", n)}
	} else {
		one, err := os.MkdirTemp(b.Work, "one_")
		if err != nil {
			return "", "", fmt.Errorf("making a folder: %w", err)
		}
		defer os.RemoveAll(one)
		binary = func(judge string) string { return filepath.Join(one, filepath.Base(b.binary(judge))) }
		overlay := filepath.Join(one, "overlay.json")
		original := filepath.Join(b.Root, b.Package, m.at.Filename)
		if err := writeOverlay(overlay, map[string]string{original: m.file}); err != nil {
			return "", "", err
		}
		for _, judge := range b.Judges {
			if !slices.ContainsFunc(reaches, func(t test) bool { return t.Judge == judge }) {
				continue
			}
			if !b.compiles(judge, overlay, binary(judge)) {
				return invalid, "", nil
			}
		}
	}
	if len(reaches) == 0 {
		return unreached, "", nil
	}
	for _, judge := range b.Judges {
		for _, group := range groups(reaches, judge) {
			if v, by := b.attempt(binary(judge), judge, env, group); v != lived {
				return v, test{Judge: judge, Name: by}.id(), nil
			}
		}
	}
	return lived, "", nil
}

func (b *bench) compiles(judge, overlay, binary string) bool {
	_, err := b.compile(judge, overlay, binary)
	return err == nil
}

// reaching returns the tests that reach the mutant, and for a constant also those that reach nothing: they
// may look at the constant itself.
func (idx *index) reaching(m mutation) []test {
	numbers, constant := []int{0}, false
	if n, ok := idx.Mutants[m.key()]; ok {
		numbers = []int{n}
	} else {
		for _, s := range idx.Spans {
			if s.File == m.at.Filename && s.From <= m.at.Offset && m.at.Offset < s.To {
				numbers, constant = s.Functions, true
				break
			}
		}
	}
	var found []test
	for _, t := range idx.Tests {
		looks := constant && len(t.Reaches) == 0
		if !t.Fails && (looks || slices.ContainsFunc(numbers, func(n int) bool { return n == 0 || slices.Contains(t.Reaches, n) })) {
			found = append(found, t)
		}
	}
	return found
}

// likeliest compares tests by how soon they will tell: those that killed the mutants nearby come
// first, then those that take little time and reach little else, because they look closest.
func likeliest(nearby []string) func(a, b test) int {
	rank := func(t test) int {
		if i := slices.Index(nearby, t.id()); i >= 0 {
			return i
		}
		return len(nearby)
	}
	price := func(t test) time.Duration { return t.Took * time.Duration(1+len(t.Reaches)) }
	return func(a, b test) int { return cmp.Or(rank(a)-rank(b), cmp.Compare(price(a), price(b))) }
}

// neighbours returns the tests that killed other mutants of the same file, those of the nearest lines
// first, at most five.
func neighbours(verdicts string, m mutation) []string {
	content, err := os.ReadFile(verdicts)
	if err != nil {
		return nil
	}
	type kill struct {
		lines int
		by    string
	}
	var kills []kill
	for line := range strings.Lines(string(content)) {
		fields := strings.Split(line, "\t")
		at, ok := strings.CutPrefix(fields[0], m.at.Filename+":")
		if !ok || len(fields) < 5 || verdict(fields[3]) != killed {
			continue
		}
		at, _, _ = strings.Cut(at, ":")
		if n, err := strconv.Atoi(at); err == nil {
			kills = append(kills, kill{max(n-m.at.Line, m.at.Line-n), fields[4]})
		}
	}
	slices.SortStableFunc(kills, func(a, b kill) int { return cmp.Compare(a.lines, b.lines) })
	var found []string
	for _, k := range kills {
		if len(found) < 5 && !slices.Contains(found, k.by) {
			found = append(found, k.by)
		}
	}
	return found
}

// groups divides the tests of a judge: a mutant that dies by the first need not wait for the others.
// What each test spent on the start of a server, they spend once.
func groups(tests []test, judge string) [][]test {
	var found [][]test
	var group []test
	var took time.Duration
	start := time.Hour
	for _, t := range tests {
		if t.Judge == judge && t.Took > time.Second {
			start = min(start, t.Took)
		}
	}
	for _, t := range tests {
		if t.Judge != judge {
			continue
		}
		group, took = append(group, t), took+t.Took
		if t.Took >= start {
			took -= start
		}
		if took > 6*time.Second || took > 600*time.Millisecond && len(found) == 0 {
			found, group, took = append(found, group), nil, 0
		}
	}
	if len(group) > 0 {
		found = append(found, group)
	}
	return found
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\w+)`)

// attempt runs some tests on the mutant. A test that fails has to fail twice, because some work in
// real time, and the machine may be busy.
func (b *bench) attempt(binary, judge string, env []string, tests []test) (verdict, string) {
	for len(tests) > 0 {
		names := make([]string, len(tests))
		limit := b.patience
		for i, t := range tests {
			names[i], limit = t.Name, limit+4*t.Took
		}
		args := []string{"-test.failfast", "-test.run", "^(" + strings.Join(names, "|") + ")$"}
		out, err := b.executeBinary(binary, judge, limit, env, args...)
		for errors.Is(err, errTooLong) && b.busy(judge, limit, args) {
			limit *= 2
			out, err = b.executeBinary(binary, judge, limit, env, args...)
		}
		if err == nil {
			return lived, ""
		}
		if errors.Is(err, errTooLong) {
			return tooLong, strings.Join(names, " ")
		}
		found := failed.FindSubmatch(out)
		if found == nil {
			return killed, firstLine(out)
		}
		by := string(found[1])
		if _, err := b.executeBinary(binary, judge, limit, env, "-test.run", "^"+by+"$"); err != nil {
			return killed, by
		}
		tests = slices.DeleteFunc(slices.Clone(tests), func(t test) bool { return t.Name == by })
	}
	return lived, ""
}

// busy reports whether tests take long without a mutant, too.
func (b *bench) busy(judge string, limit time.Duration, args []string) bool {
	began := time.Now()
	_, err := b.executeBinary(b.binary(judge), judge, limit, nil, args...)
	return errors.Is(err, errTooLong) || time.Since(began) > limit/4
}

func firstLine(out []byte) string {
	s := bufio.NewScanner(bytes.NewReader(out))
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line != "PASS" {
			return strings.ReplaceAll(line[:min(len(line), 100)], "\t", " ")
		}
	}
	return "the test binary"
}
