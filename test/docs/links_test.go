package docs

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	inlineLink    = regexp.MustCompile(`\]\(([^)\s]+)(?:\s+"[^"]*")?\)`)
	referenceLink = regexp.MustCompile(`(?m)^\[[^\]]+\]:\s+(\S+)`)
	htmlLink      = regexp.MustCompile(`(?:src|href)="([^"]+)"`)
	external      = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)
	heading       = regexp.MustCompile(`(?m)^#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*$`)
	linkText      = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
)

// anchors returns the names by which GitHub knows the headings of a document: lower
// case, without punctuation, hyphens for blanks, and a number from the second on.
func anchors(text string) map[string]bool {
	names, count := map[string]bool{}, map[string]int{}
	for _, m := range heading.FindAllStringSubmatch(blank(text, fence), -1) {
		title := linkText.ReplaceAllString(m[1], "$1")
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			default:
				return -1
			}
		}, title)
		n := count[name]
		count[name]++
		if n > 0 {
			name = fmt.Sprintf("%s-%d", name, n)
		}
		names[name] = true
	}
	return names
}

// A link is a target in a document, as written there.
type link struct {
	target string
	offset int
}

func links(text string) []link {
	var list []link
	text = blank(blank(text, fence), codeSpan)
	for _, form := range []*regexp.Regexp{inlineLink, referenceLink, htmlLink} {
		for _, m := range form.FindAllStringSubmatchIndex(text, -1) {
			list = append(list, link{target: text[m[2]:m[3]], offset: m[2]})
		}
	}
	return list
}

// TestLinks: each relative link of a document leads to a file or a folder, and each
// anchor to a heading.
func TestLinks(t *testing.T) {
	documents := files(t, ".md")
	names := map[string]map[string]bool{}
	for _, f := range documents {
		names[f.path] = anchors(f.text)
	}
	checked := 0
	for _, f := range documents {
		for _, l := range links(f.text) {
			if external.MatchString(l.target) {
				continue
			}
			checked++
			target, anchor, hasAnchor := strings.Cut(l.target, "#")
			resolved := f.path
			if target != "" {
				resolved = path.Join(path.Dir(f.path), target)
			}
			assert.True(t, exists(resolved), "%s: there is no %s", f.at(l.offset), l.target)
			if hasAnchor && names[resolved] != nil {
				assert.True(t, names[resolved][anchor], "%s: no heading is called %s", f.at(l.offset), l.target)
			}
		}
	}
	require.NotZero(t, checked)
}

func TestAnchors(t *testing.T) {
	require.Equal(t, map[string]bool{"options": true, "options-1": true, "11-the-tables-a_b-c": true, "ocas": true},
		anchors("# Options\n## Options ##\n### 1.1 The `tables`: a_b, [c](d.md)\n```\n# no heading\n```\n# OCA's\n"))
}

func TestLinksAreFound(t *testing.T) {
	text := "[a](b.md) ![c](d.png \"title\") `[no](code)`\n[ref]: e.md#f\n<img src=\"g.png\">\n```\n[no](fence)\n```\n"
	var targets []string
	for _, l := range links(text) {
		targets = append(targets, l.target)
	}
	require.Equal(t, []string{"b.md", "d.png", "e.md#f", "g.png"}, targets)
}
