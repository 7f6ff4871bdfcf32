package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const sample = `package sample

import "time"

const (
	base  = 2 * time.Second
	twice = base * 2
)

var floor = -1 * twice

const seldom = 3 * time.Hour

// Late is not tested, and what it needs is.
func Late(d time.Duration) bool { return d+1 > seldom }

// Within is tested, and so is what it needs.
func Within(d time.Duration) bool { return d > 0 && d <= twice }

func Count(names []string, skip string) int {
	n := 0
	for i := 0; i < len(names); i++ {
		switch {
		case names[i] == skip:
			continue
		case names[i] == "":
			break
		}
		n++
	}
	return n
}

func Sum(values map[string]float64) float64 {
	total := 0.0
	for _, v := range values {
		total += -v / 2
	}
	return total
}

func Never(a, b int) int {
	for {
		if a < b {
			return a - b
		}
		a--
	}
}

func Join(a, b string) string { return a + b }
`

const sampleTest = `package sample

import "testing"

func TestWithin(t *testing.T) {
	if !Within(twice) || Within(twice+1) || Within(0) {
		t.Fatal("within")
	}
	if twice != 4e9 {
		t.Fatal("a constant")
	}
}

func TestCount(t *testing.T) {
	if Count([]string{"a", "b", "a"}, "a") != 1 {
		t.Fatal("count")
	}
}

func TestSum(t *testing.T) {
	if Sum(map[string]float64{"a": 4}) != -2 {
		t.Fatal("sum")
	}
	if Join("a", "b") != "ab" {
		t.Fatal("join")
	}
}

func TestSeldom(t *testing.T) {
	if seldom.Hours() != 3 {
		t.Fatal("a constant that nothing else looks at")
	}
}

func TestSkipped(t *testing.T) { t.Fatal("never called") }
`

// TestMutants: every mutant of a sample is found, and judged by the tests that reach it.
func TestMutants(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.prepare())
	for _, c := range []struct {
		was, becomes string
		want         verdict
	}{
		{"d > 0 &&", "d >= 0 &&", killed},
		{"d > 0 &&", "d <= 0 &&", killed},
		{"d > 0 &&", "d > 0 ||", killed},
		{"d <= twice", "d < twice", killed},
		{"d <= twice", "d > twice", killed},
		{"i < len", "i <= len", killed},
		{"i++", "i--", killed},
		{"== skip", "!= skip", killed},
		{`== ""`, `!= ""`, lived},
		{"break", "continue", unreached},
		{"continue", "break", killed},
		{"\t\tn++", "\t\tn--", killed},
		{"total += -v", "total -= -v", killed},
		{"+= -v", "+= +v", killed},
		{"-v / 2", "-v * 2", killed},
		{"a < b", "a <= b", unreached},
		{"a - b", "a + b", unreached},
		{"2 * time", "2 / time", killed},
		{"base * 2", "base / 2", killed},
		{"= -1", "= +1", lived},
		{"3 * time", "3 / time", killed},
		{"a + b }", "a - b }", invalid},
	} {
		code, err := b.judge(breakSample(t, c.was, c.becomes))
		require.NoError(t, err, c.becomes)
		require.Equal(t, c.want.exitCode(), code, c.becomes)
	}
	verdicts, err := os.ReadFile(filepath.Join(b.Work, "verdicts"))
	require.NoError(t, err)
	require.NotContains(t, string(verdicts), "TestSkipped")
	require.Equal(t, 3, strings.Count(string(verdicts), "\t"+string(unreached)+"\t"))
}

// TestVerdicts: what is known is not tried again, except what lived, when the tests have changed.
func TestVerdicts(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.prepare())
	alive, dead := breakSample(t, `== ""`, `!= ""`), breakSample(t, "d > 0", "d >= 0")
	judge := func(dir string, want int) {
		code, err := b.judge(dir)
		require.NoError(t, err)
		require.Equal(t, want, code)
	}
	judge(alive, exitLived)
	judge(dead, exitKilled)

	path := filepath.Join(b.Root, "sample", "sample_test.go")
	require.NoError(t, os.WriteFile(path, []byte(`package sample

import "testing"

func TestEmpty(t *testing.T) {
	if Count([]string{"", "b"}, "") != 1 || Count([]string{"", "b"}, "x") != 2 {
		t.Fatal("count")
	}
}

func TestSlow(t *testing.T) { select {} }
`), 0o600))
	b.longest = time.Second
	require.NoError(t, b.prepare())
	idx, err := b.load()
	require.NoError(t, err)
	require.Len(t, idx.Tests, 2)
	for _, tt := range idx.Tests {
		require.Equal(t, tt.Name == "TestSlow", tt.Fails, tt.Name)
	}
	judge(dead, exitKilled)
	verdicts, err := os.ReadFile(filepath.Join(b.Work, "verdicts"))
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(verdicts), "\n"))
	judge(alive, exitLived)
	verdicts, err = os.ReadFile(filepath.Join(b.Work, "verdicts"))
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(string(verdicts), "\n"), "tried with the new tests")
}

// TestATestThatFailsOnceKillsNothing, because the machine may have been busy.
func TestATestThatFailsOnceKillsNothing(t *testing.T) {
	b := newBench(t)
	marker := filepath.Join(t.TempDir(), "failed")
	require.NoError(t, os.WriteFile(filepath.Join(b.Root, "sample", "sample_test.go"), fmt.Appendf(nil, `package sample

import (
	"os"
	"testing"
)

func TestFlaky(t *testing.T) {
	Within(1)
	if os.Getenv("MUTANT") == "" {
		return
	}
	if _, err := os.Stat(%[1]q); err != nil {
		os.WriteFile(%[1]q, nil, 0o600)
		t.Fatal("once")
	}
}
`, marker), 0o600))
	require.NoError(t, b.prepare())
	code, err := b.judge(breakSample(t, "d > 0", "d >= 0"))
	require.NoError(t, err)
	require.Equal(t, exitLived, code)
	require.FileExists(t, marker)
}

// TestTimeOfABusyMachine: tests that take long without the mutant, too, are given more time.
func TestTimeOfABusyMachine(t *testing.T) {
	b := newBench(t)
	b.patience = time.Second
	runs := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(b.Root, "sample", "sample_test.go"), fmt.Appendf(nil, `package sample

import (
	"os"
	"testing"
	"time"
)

func TestSlow(t *testing.T) {
	Within(1)
	if os.Getenv("MUTANT_NOTES") != "" {
		return
	}
	runs, _ := os.ReadDir(%[1]q)
	os.CreateTemp(%[1]q, "")
	switch len(runs) {
	case 0:
		select {}
	case 1:
		if os.Getenv("MUTANT") != "" {
			t.Fatal("a mutant is in force")
		}
		<-time.After(700 * time.Millisecond)
	}
}
`, runs), 0o600))
	require.NoError(t, b.prepare())
	code, err := b.judge(breakSample(t, "d > 0", "d >= 0"))
	require.NoError(t, err)
	require.Equal(t, exitLived, code)
	found, err := os.ReadDir(runs)
	require.NoError(t, err)
	require.Len(t, found, 3)
}

// TestNothingBroken: Gremlins' copy is not taken for a mutant that lives.
func TestNothingBroken(t *testing.T) {
	b := newBench(t)
	require.NoError(t, b.prepare())
	code, err := b.judge(filepath.Join(b.Root, "sample"))
	require.Error(t, err)
	require.Equal(t, exitBroken, code)
}

// TestParentheses: an operator that changes among others is found behind the parentheses that come with
// it, so that it needs no binary for itself.
func TestParentheses(t *testing.T) {
	const head = "package sample\n\nfunc f(a, b, c bool) bool { return "
	for _, c := range []struct {
		was, becomes string
		at           int
	}{
		{"a && b && c }", "(a || b) && c }", 3},
		{"a && (b && c) }", "a && ((b || c)) }", 9},
		{"a || b && c }", "a || (b || c) }", 8},
	} {
		at, token, ok := difference("sample.go", []byte(head+c.was), []byte(head+c.becomes))
		require.True(t, ok)
		require.Equal(t, c.at, at.Column-len("func f(a, b, c bool) bool { return "), c.was)
		require.Equal(t, "||", token.String())
	}
}

func newBench(t *testing.T) *bench {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "sample"), 0o700))
	for name, content := range map[string]string{
		"go.mod": "module example.com/sample\n\ngo 1.26\n", "sample/sample.go": sample, "sample/sample_test.go": sampleTest,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o600))
	}
	return &bench{
		Root: root, Work: filepath.Join(root, "work"), Package: "sample", Go: "go", Judges: []string{"./sample"},
		only: regexp.MustCompile(""), skip: regexp.MustCompile("^TestSkipped"), longest: time.Minute, patience: time.Minute,
	}
}

// breakSample writes the sample with one change.
func breakSample(t *testing.T, was, becomes string) string {
	t.Helper()
	require.Equal(t, 1, strings.Count(sample, was), was)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sample.go"), []byte(strings.Replace(sample, was, becomes, 1)), 0o600))
	return dir
}
