package docs

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lineWidth is the longest line of prose. Tables, code and the targets of links may be longer.
const lineWidth = 100

var linkTarget = regexp.MustCompile(`\]\([^)]*\)|\[!\[.*$|^\[[^\]]+\]:.*$|<?https?://\S+`)

// tooLong returns the numbers of the lines that are too long.
func tooLong(text string) []int {
	var list []int
	for i, line := range strings.Split(blank(text, fence), "\n") {
		line = strings.TrimRight(line, " ")
		if tableRow.MatchString(line) || utf8.RuneCountInString(line) <= lineWidth {
			continue
		}
		if utf8.RuneCountInString(linkTarget.ReplaceAllString(line, "")) > lineWidth {
			list = append(list, i+1)
		}
	}
	return list
}

// TestLineWidth: prose is wrapped.
func TestLineWidth(t *testing.T) {
	for _, f := range files(t, ".md") {
		assert.Empty(t, tooLong(f.text), "%s: lines of more than %d characters", f.path, lineWidth)
	}
}

func TestLongLinesAreFound(t *testing.T) {
	long := strings.Repeat("word ", 21)
	require.Equal(t, []int{1}, tooLong(long+"\n| "+long+"|\n```\n"+long+"\n```\n[a](b/"+strings.Repeat("c", 100)+")\n"))
}
