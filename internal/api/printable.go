package api

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable returns a text for one line of a terminal or a log. What could control a terminal, or
// change the direction in which text is shown, becomes the replacement character: names, notes
// and errors come from rows that anyone may have written.
func Printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, controls) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if controls(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// IsPrintable reports whether a text has nothing that [Printable] would replace.
func IsPrintable(s string) bool { return utf8.ValidString(s) && !strings.ContainsFunc(s, controls) }

// controls reports whether a character controls how others are shown.
func controls(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}
