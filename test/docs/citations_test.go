package docs

import (
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A citation names a document, and sections or items of it: "docs/NAME.md 1.2, 4" or
// "docs/NAME.md 7, item 5". Comments break lines anywhere in it.
type citation struct {
	document string
	sections []string
	item     string
	offset   int
}

var (
	lineComment = regexp.MustCompile(`\n[ \t]*(?://+|#+)[ \t]?`)
	address     = regexp.MustCompile(`https?://\S+`)
	document    = regexp.MustCompile(`[\w./-]*\w\.md\b`)
	section     = regexp.MustCompile(`^(?:\s+|,\s*|\s+and\s+)(\d+(?:\.\d+)*)`)
	item        = regexp.MustCompile(`^,\s*item\s+(\d+)`)
	numbered    = regexp.MustCompile(`(?m)^#{1,6}[ \t]+(\d+(?:\.\d+)*)\.?[ \t].*$`)
)

// citations finds the documents that a text names. In code, the text of comments
// is read as if it had no line breaks.
func citations(text string) []citation {
	text = blank(blank(text, lineComment), address)
	var list []citation
	for _, m := range document.FindAllStringIndex(text, -1) {
		c := citation{document: text[m[0]:m[1]], offset: m[0]}
		rest := text[m[1]:]
		for {
			s := section.FindStringSubmatch(rest)
			if s == nil || len(c.sections) > 0 && !strings.Contains(s[1], ".") && !endsHere(rest[len(s[0]):]) {
				break
			}
			c.sections = append(c.sections, s[1])
			rest = rest[len(s[0]):]
		}
		if m := item.FindStringSubmatch(rest); m != nil && len(c.sections) > 0 {
			c.item = m[1]
		}
		list = append(list, c)
	}
	return list
}

// endsHere reports whether a sentence or a bracket goes on with punctuation: a number
// before it is that of a section, not that of things.
func endsHere(rest string) bool {
	return rest == "" || strings.ContainsRune(").,;:", rune(rest[0]))
}

// sections returns the numbered sections of a document with their texts.
func sections(text string) map[string]string {
	found := map[string]string{}
	list := numbered.FindAllStringSubmatchIndex(blank(text, fence), -1)
	for i, m := range list {
		end := len(text)
		if i+1 < len(list) {
			end = list[i+1][0]
		}
		found[text[m[2]:m[3]]] = text[m[1]:end]
	}
	return found
}

// TestCitations: each document that a comment, a configuration or a document names
// exists, by its path from the root or, in documents, from where they are; so do the
// numbered sections that are named with it.
func TestCitations(t *testing.T) {
	numbers := map[string]map[string]string{}
	for _, f := range files(t, ".md") {
		numbers[f.path] = sections(f.text)
	}
	cited := 0
	for _, f := range files(t, ".go", ".md", ".yaml", ".yml", ".sh", ".js", ".css", ".html", ".conf", ".json",
		"Makefile", "Caddyfile.example") {
		if strings.HasPrefix(f.path, "test/docs/") {
			continue // samples
		}
		text := f.text
		if strings.HasSuffix(f.path, ".md") {
			text = blank(text, fence)
		}
		for _, c := range citations(text) {
			cited++
			at := f.at(c.offset)
			name := strings.TrimPrefix(c.document, "./")
			known, ok := numbers[name]
			if !ok && (strings.HasSuffix(f.path, ".md") || strings.HasPrefix(name, "../")) {
				known, ok = numbers[path.Join(path.Dir(f.path), name)]
			}
			if !assert.True(t, ok, "%s: there is no document %s", at, c.document) {
				continue
			}
			for _, s := range c.sections {
				assert.Contains(t, known, s, "%s: %s has no section %s", at, c.document, s)
			}
			if c.item != "" {
				assert.Contains(t, known[c.sections[0]], "\n"+c.item+". ", "%s: no such item", at)
			}
		}
	}
	require.NotZero(t, cited)
}

func TestCitationsAreFound(t *testing.T) {
	found := citations("// As a.md says (docs/b.md 1.2, 4), and\n// docs/b.md\n// 3.4, 10 times; docs/b.md 7, item 5.\nhttps://x/c.md")
	for i := range found {
		found[i].offset = 0
	}
	require.Equal(t, []citation{
		{document: "a.md"},
		{document: "docs/b.md", sections: []string{"1.2", "4"}},
		{document: "docs/b.md", sections: []string{"3.4"}},
		{document: "docs/b.md", sections: []string{"7"}, item: "5"},
	}, found)
	require.Equal(t, map[string]string{"1": "\ntext\n", "1.2": "\n1. item\n"},
		sections("# Title\n## 1. One\ntext\n### 1.2 Two\n1. item\n"))
}
