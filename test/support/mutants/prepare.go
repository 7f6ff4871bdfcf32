package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

//go:embed chosen.txt
var chosen string

// bench is what a package is broken on. What prepare finds out, judge reads from index.json.
type bench struct {
	Root, Work, Package, Tags, Go string
	Judges                        []string

	only, skip *regexp.Regexp
	longest    time.Duration
	patience   time.Duration // how much longer than a multiple of what they took tests may take
	rapid      []string      // as in the index
}

// index is what prepare leaves for judge.
type index struct {
	Sources string // hash of the package
	Mutants map[string]int
	Spans   []span
	Tests   []test
	Rapid   []string // the judges that have properties of package rapid
}

// test is a test of one of the judges.
type test struct {
	Judge, Name string
	Source      string // hash of the file that has it
	Took        time.Duration
	Fails       bool // without a mutant, or takes too long
	Reaches     []int
}

// id names a test among those of all judges.
func (t test) id() string { return t.Judge + " " + t.Name }

func (b *bench) prepare() error {
	if err := os.MkdirAll(b.Work, 0o750); err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	names, err := b.list("-f", `{{join .GoFiles "\n"}}`, "./"+b.Package)
	if err != nil {
		return err
	}
	files := strings.Fields(names)
	idx := &index{Mutants: map[string]int{}}
	if idx.Sources, err = hashOf(filepath.Join(b.Root, b.Package), files...); err != nil {
		return err
	}
	overlay, err := b.weave(idx, files)
	if err != nil {
		return err
	}
	old, err := b.load()
	if err != nil || old.Sources != idx.Sources {
		old = &index{}
	}
	for _, judge := range b.Judges {
		fmt.Printf("compiling the tests of %s\n", judge)
		if out, err := b.compile(judge, overlay, b.binary(judge)); err != nil {
			return fmt.Errorf("compiling the tests of %s: %w\n%s", judge, err, out)
		}
		if err := b.record(idx, old, judge); err != nil {
			return err
		}
	}
	content, err := json.Marshal(idx)
	if err != nil {
		return fmt.Errorf("writing the index: %w", err)
	}
	return os.WriteFile(b.indexPath(), content, 0o600)
}

func (b *bench) indexPath() string { return filepath.Join(b.Work, "index.json") }

func (b *bench) load() (*index, error) {
	content, err := os.ReadFile(b.indexPath())
	if err != nil {
		return nil, fmt.Errorf("reading the index: %w", err)
	}
	idx := &index{}
	if err := json.Unmarshal(content, idx); err != nil {
		return nil, fmt.Errorf("reading the index: %w", err)
	}
	return idx, nil
}

func hashOf(dir string, files ...string) (string, error) {
	h := sha256.New()
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("hashing: %w", err)
		}
		fmt.Fprintf(h, "%s %d\n", name, len(content))
		h.Write(content)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func (b *bench) list(args ...string) (string, error) {
	args = append([]string{"list", "-tags", b.Tags}, args...)
	cmd := exec.Command(b.Go, args...)
	cmd.Dir = b.Root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w\n%s", err, stderr.String())
	}
	return string(out), nil
}

func (b *bench) binary(judge string) string {
	return filepath.Join(b.Work, strings.ReplaceAll(strings.TrimPrefix(judge, "./"), "/", "-")+".test")
}

// compile makes the test binary of a judge. Without a change, the compiler's cache has nearly all.
func (b *bench) compile(judge, overlay, binary string) ([]byte, error) {
	cmd := exec.Command(b.Go, "test", "-c", "-vet=off", "-tags", b.Tags, "-overlay", overlay, "-o", binary, judge)
	cmd.Dir = b.Root
	return cmd.CombinedOutput()
}

// writeOverlay tells the compiler which files to read in place of others.
func writeOverlay(path string, replace map[string]string) error {
	content, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return fmt.Errorf("writing an overlay: %w", err)
	}
	return os.WriteFile(path, content, 0o600)
}

// originalPrefix begins the names of the files as they were.
const originalPrefix = "original_"

// weave writes the package with all its mutants, and returns the overlay that takes it.
func (b *bench) weave(idx *index, files []string) (string, error) {
	fset := token.NewFileSet()
	parsed := map[string]*ast.File{}
	sources := map[string][]byte{}
	for _, name := range files {
		src, err := os.ReadFile(filepath.Join(b.Root, b.Package, name))
		if err != nil {
			return "", fmt.Errorf("reading a source: %w", err)
		}
		if parsed[name], err = parser.ParseFile(fset, name, src, parser.SkipObjectResolution); err != nil {
			return "", fmt.Errorf("parsing: %w", err)
		}
		sources[name] = src
	}
	info, err := b.check(fset, slices.Collect(maps.Values(parsed)))
	if err != nil {
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(b.Work, originalPrefix+"*"))
	if err != nil {
		return "", fmt.Errorf("finding old sources: %w", err)
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return "", fmt.Errorf("removing old sources: %w", err)
		}
	}
	w := &weaver{fset: fset, info: info, mutants: idx.Mutants}
	replace := map[string]string{}
	put := func(name string, content []byte) error {
		path := filepath.Join(b.Work, "woven_"+name)
		replace[filepath.Join(b.Root, b.Package, name)] = path
		return os.WriteFile(path, content, 0o600)
	}
	for _, name := range files {
		err := os.WriteFile(filepath.Join(b.Work, originalPrefix+name), sources[name], 0o600)
		if err := errors.Join(err, put(name, w.weave(parsed[name], sources[name]))); err != nil {
			return "", fmt.Errorf("writing a woven source: %w", err)
		}
	}
	for _, name := range files {
		w.constants(parsed[name], parsed)
	}
	idx.Spans = w.spans
	if err := put("zz_mutants.go", fmt.Appendf(nil, chosen, parsed[files[0]].Name.Name, w.next+1)); err != nil {
		return "", fmt.Errorf("writing a woven source: %w", err)
	}
	overlay := filepath.Join(b.Work, "overlay.json")
	return overlay, writeOverlay(overlay, replace)
}
