package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

var testName = regexp.MustCompile(`^(Test|Example|Fuzz)\w*$`)

// record runs each test of a judge by itself, without a mutant, and notes what it reaches.
func (b *bench) record(idx, old *index, judge string) error {
	sources, err := b.testSources(judge)
	if err != nil {
		return err
	}
	if _, err := b.execute(judge, time.Minute, nil, "-test.list", ".", "-rapid.nofailfile"); err == nil {
		idx.Rapid = append(idx.Rapid, judge)
		b.rapid = idx.Rapid
	}
	out, err := b.execute(judge, time.Minute, nil, "-test.list", ".")
	if err != nil {
		return fmt.Errorf("listing the tests of %s: %w\n%s", judge, err, out)
	}
	for name := range strings.FieldsSeq(string(out)) {
		if !testName.MatchString(name) || !b.only.MatchString(name) || b.skip != nil && b.skip.MatchString(name) {
			continue
		}
		t := test{Judge: judge, Name: name, Source: sources[name]}
		if i := slices.IndexFunc(old.Tests, func(o test) bool { return !o.Fails && o.Judge == t.Judge && o.Name == t.Name && o.Source == t.Source }); i >= 0 {
			idx.Tests = append(idx.Tests, old.Tests[i])
			continue
		}
		notes := filepath.Join(b.Work, "notes")
		if err := os.WriteFile(notes, nil, 0o600); err != nil {
			return fmt.Errorf("recording: %w", err)
		}
		start := time.Now()
		out, err := b.execute(judge, b.longest, []string{"MUTANT_NOTES=" + notes}, "-test.run", "^"+name+"$")
		t.Took = time.Since(start)
		if t.Fails = err != nil; t.Fails {
			fmt.Printf("%s: %s is left out: %v\n%s\n", judge, name, err, tail(out))
		}
		noted, err := os.ReadFile(notes)
		if err != nil {
			return fmt.Errorf("recording: %w", err)
		}
		for n, b := range noted {
			if b != 0 {
				t.Reaches = append(t.Reaches, n)
			}
		}
		idx.Tests = append(idx.Tests, t)
	}
	return nil
}

func tail(out []byte) []byte { return out[max(0, len(out)-1000):] }

// testSources returns, for each test of a judge, the hash of the file that has it.
func (b *bench) testSources(judge string) (map[string]string, error) {
	paths, err := filepath.Glob(filepath.Join(b.Root, judge, "*_test.go"))
	if err != nil {
		return nil, fmt.Errorf("finding tests: %w", err)
	}
	found := map[string]string{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parsing tests: %w", err)
		}
		hash, err := hashOf(filepath.Dir(path), filepath.Base(path))
		if err != nil {
			return nil, err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				found[f.Name.Name] = hash
			}
		}
	}
	return found, nil
}

// execute runs a test binary, and ends it with all that it has started when it takes too long.
func (b *bench) execute(judge string, limit time.Duration, env []string, args ...string) ([]byte, error) {
	return b.executeBinary(b.binary(judge), judge, limit, env, args...)
}

var errTooLong = errors.New("took too long")

func (b *bench) executeBinary(binary, judge string, limit time.Duration, env []string, args ...string) ([]byte, error) {
	// The tests end themselves before they are ended, so that they can stop their servers.
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit+10*time.Second, errTooLong)
	defer cancel()
	args = append(args, "-test.timeout", limit.String())
	if slices.Contains(b.rapid, judge) {
		// What fails with one mutant is not what the next one is tried with.
		args = append(args, "-rapid.nofailfile", "-rapid.shrinktime", "1ms")
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = filepath.Join(b.Root, judge)
	cmd.Env = append(os.Environ(), env...)
	inGroup(cmd)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err != nil && (ctx.Err() != nil || bytes.Contains(out.Bytes(), []byte("panic: test timed out after"))) {
		err = errTooLong
	}
	return out.Bytes(), err
}
