package docs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// testNames are the tests of the whole tree, and the subtests of the suite with a
// real Odoo.
func testNames(t *testing.T) (tests, real map[string]bool) {
	t.Helper()
	tests, real = map[string]bool{}, map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, f := range files(t, "_test.go") {
		for _, m := range function.FindAllStringSubmatch(f.text, -1) {
			tests[m[1]] = true
		}
	}
	suite := read(t, "test/odoo/suite_test.go").text
	for _, m := range regexp.MustCompile(`\{"(\w+)", test\w+\}`).FindAllStringSubmatch(suite, -1) {
		real[m[1]] = true
	}
	return tests, real
}

// TestCompatibilityTable: each cell of the table of series names tests, or says
// that the series has no such thing, and every test that the page names exists.
func TestCompatibilityTable(t *testing.T) {
	tests, real := testNames(t)
	generations := map[string]bool{}
	for _, g := range odoostub.Generations() {
		generations[g.String()] = true
	}
	exists := func(name string) bool {
		test, sub, isSub := strings.Cut(name, "/")
		if strings.HasPrefix(name, "Test") {
			return tests[test] && (!isSub || generations[sub])
		}
		return real[name]
	}
	page := read(t, "docs/compatibility.md").text

	names := regexp.MustCompile("`([A-Z]\\w+(?:/\\w+)?)`")
	rows := 0
	for _, row := range regexp.MustCompile(`(?m)^\| \d+\.0.*\|$`).FindAllString(page, -1) {
		rows++
		cells := strings.Split(strings.Trim(row, "| "), "|")
		require.Len(t, cells, 10, row)
		for _, cell := range cells[1:] {
			found := names.FindAllStringSubmatch(cell, -1)
			if strings.TrimSpace(cell) != "the series have none" {
				require.NotEmpty(t, found, "%s in %s", cell, cells[0])
			}
			for _, m := range found {
				require.True(t, exists(m[1]), "%s: there is no test %s", cells[0], m[1])
			}
		}
	}
	require.Equal(t, 6, rows)

	// Elsewhere, the names of subtests are in brackets.
	for _, list := range regexp.MustCompile("\\[(`[A-Z]\\w+`(?:,\\s`[A-Z]\\w+`)*)\\]").FindAllStringSubmatch(page, -1) {
		for _, m := range names.FindAllStringSubmatch(list[1], -1) {
			require.True(t, exists(m[1]), "there is no test %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(page, -1) {
		require.True(t, tests[m[1]], "there is no test %s", m[1])
	}
}
