package odooconf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// ini is a file as Python's configparser reads it, with the settings that Odoo
// uses: "=" or ":" after a key, "#" and ";" at the beginning of a line for
// comments, values that go on in lines that are indented deeper, no
// interpolation, keys in any case. Unlike Python 3 and like Python 2, a section or
// a key that stands twice is no error; the last one counts.
type ini map[string]map[string]string

// defaultSection holds values for all others.
const defaultSection = "DEFAULT"

// value returns the value of a key in a section, or in the default section.
func (f ini) value(section, key string) (string, bool) {
	s, ok := f[section]
	if !ok {
		return "", false
	}
	if v, ok := s[key]; ok {
		return v, true
	}
	v, ok := f[defaultSection][key]
	return v, ok
}

// lineLimit bounds a line, in bytes.
const lineLimit = 1 << 20

// parseINI reads a file.
func parseINI(r io.Reader) (ini, error) {
	p := iniParser{file: ini{}}
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, lineLimit)
	for n := 1; scan.Scan(); n++ {
		line := scan.Text()
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, err
	}
	p.finish()
	return p.file, nil
}

// iniParser is the state between two lines.
type iniParser struct {
	file    ini
	section map[string]string
	key     string   // of the value that may go on; empty for none
	value   []string // the lines of that value
	indent  int
}

// finish enters the value that can no longer go on.
func (p *iniParser) finish() {
	if p.key != "" {
		p.section[p.key] = strings.TrimRight(strings.Join(p.value, "\n"), " \t\r\n\f\v")
	}
	p.key, p.value = "", nil
}

func (p *iniParser) line(line string) error {
	text := strings.TrimSpace(line)
	switch {
	case text == "":
		p.value = append(p.value, "")
		return nil
	case text[0] == '#' || text[0] == ';':
		return nil
	}
	indent := len(line) - len(strings.TrimLeft(line, " \t\r\f\v"))
	if p.key != "" && indent > p.indent {
		p.value = append(p.value, text)
		return nil
	}
	p.finish()
	p.indent = indent
	if text[0] == '[' {
		end := strings.LastIndexByte(text, ']')
		if end < 2 {
			return fmt.Errorf("%q is no section", text)
		}
		name := text[1:end]
		if p.file[name] == nil {
			p.file[name] = map[string]string{}
		}
		p.section = p.file[name]
		return nil
	}
	at := strings.IndexAny(text, "=:")
	switch {
	case p.section == nil:
		return errors.New("there is no section before the first key")
	case at <= 0:
		return errors.New("expected a key, \"=\" and a value") // the line may be part of a secret
	}
	p.key = strings.ToLower(strings.TrimSpace(text[:at]))
	p.value = []string{strings.TrimSpace(text[at+1:])}
	return nil
}

// splitComment takes a comment off the end of a value. Python 2, by which Odoo 7.0 to 10.0 read their
// file, begins one at the first ";" of the value's first line, if a blank is before it; Python 3 knows
// none.
func splitComment(value string) (rest string, found bool) {
	first, more, goesOn := strings.Cut(value, "\n")
	at := strings.IndexByte(first, ';')
	if at < 1 || !unicode.IsSpace(rune(first[at-1])) {
		return value, false
	}
	rest = strings.TrimSpace(first[:at])
	if goesOn {
		rest += "\n" + more
	}
	return rest, true
}
