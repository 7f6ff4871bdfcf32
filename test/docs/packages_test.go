package docs

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// lineTolerance is by how much the lines of a package may differ from those in the
// table before the table has to be put right: a quarter, and a few.
const lineTolerance = 4

// TestPackageTable: the table of docs/architecture.md names every package, and is
// not far off with their lines.
func TestPackageTable(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	require.NoError(t, err)
	row := regexp.MustCompile("(?m)^\\| (root package|(?:`[a-z/]+`(?:, )?)+) \\| [^|]+ \\| ([0-9]+|tests only) \\| [^|]+ \\|$")
	told := map[string]int{}
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			n = 0
		}
		for name := range strings.SplitSeq(m[1], ", ") {
			told[strings.Trim(strings.Replace(name, "root package", ".", 1), "`")] = n
		}
	}
	for dir, lines := range packages(t) {
		n, ok := told[dir]
		if !ok {
			t.Errorf("the table of packages lacks %s (%d lines)", dir, lines)
			continue
		}
		if diff := max(n-lines, lines-n); diff*lineTolerance > max(n, 100) {
			t.Errorf("the table of packages says %d lines for %s, which has %d", n, dir, lines)
		}
		delete(told, dir)
	}
	require.Empty(t, told, "packages of the table that do not exist")
}

// packages counts the lines of production code of each package.
func packages(t *testing.T) map[string]int {
	t.Helper()
	found := map[string]int{}
	require.NoError(t, filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && path != root || entry.Name() == "testdata" || entry.Name() == "bin") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(dir, "test/") && strings.HasSuffix(path, "doc.go") {
			content = nil
		}
		found[dir] += bytes.Count(content, []byte("\n"))
		return err
	}))
	return found
}
