package channels

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// Capacities bounds what runs when each database has its own channel tree (docs/contract.md 6.2).
type Capacities struct {
	// Max is the number of jobs that may run at once in all databases together. With 0 or less
	// nothing runs.
	Max int
	// Rules say how many of them may run in one database. The first one counts whose pattern
	// matches its name; without one it is Max. ParseCapacityRules makes them.
	Rules []CapacityRule
}

// CapacityRule is the capacity of the databases whose names match a pattern.
type CapacityRule struct {
	// Pattern is one of Python's fnmatch: *, ?, [abc], [a-c] and [!abc]. Case counts. There is no
	// white space in it.
	Pattern string
	// Capacity is the number of jobs that may run at once in each of them. With 0 or less nothing
	// runs.
	Capacity int

	name *regexp.Regexp
}

// Of returns the capacity of one database.
func (c Capacities) Of(db string) int {
	for i := range c.Rules {
		if c.Rules[i].name.MatchString(db) {
			return c.Rules[i].Capacity
		}
	}
	return c.Max
}

// ParseCapacityRules reads a string of rules as the add-on writes it, "pattern:capacity" with
// commas between them, or one number for all databases (docs/contract.md 6.2).
func ParseCapacityRules(s string) ([]CapacityRule, error) {
	var rules []CapacityRule
	for text := range strings.SplitSeq(s, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		rule := CapacityRule{Pattern: "*"}
		number := text
		if colon := strings.LastIndex(text, ":"); colon >= 0 {
			rule.Pattern, number = strings.TrimSpace(text[:colon]), strings.TrimSpace(text[colon+1:])
		}
		var err error
		if rule.Capacity, err = parseInt(number); err != nil {
			return nil, fmt.Errorf("rule %q: capacity %q is not a whole number", text, number)
		}
		if rule.Pattern == "" {
			return nil, fmt.Errorf("rule %q: the pattern is empty", text)
		}
		if strings.ContainsFunc(rule.Pattern, unicode.IsSpace) {
			return nil, fmt.Errorf("rule %q: a comma is missing; write ? for a space in a name", text)
		}
		if rule.name, err = fnmatch(rule.Pattern); err != nil {
			return nil, fmt.Errorf("rule %q: %w", text, err)
		}
		rules = append(rules, rule)
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("there is no rule in %q", s)
	}
	return rules, nil
}

// fnmatch understands a pattern of Python's fnmatch. There, nothing escapes, and a bracket that is
// not closed means itself.
func fnmatch(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	for rest := pattern; rest != ""; {
		class, after, ok := bracket(rest)
		switch {
		case ok:
			b.WriteString(class)
			rest = after
			continue
		case rest[0] == '*':
			b.WriteString(".*")
		case rest[0] == '?':
			b.WriteString(".")
		default:
			literal := rest[:literalLength(rest)]
			b.WriteString(regexp.QuoteMeta(literal))
			rest = rest[len(literal):]
			continue
		}
		rest = rest[1:]
	}
	b.WriteString(`\z`)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil, fmt.Errorf("pattern %q: an invalid range in brackets", pattern)
	}
	return re, nil
}

// literalLength is the length of the literal text at the beginning of a pattern, at least one byte.
func literalLength(pattern string) int {
	if end := strings.IndexAny(pattern[1:], "*?["); end >= 0 {
		return 1 + end
	}
	return len(pattern)
}

// bracket translates the set of characters with which a pattern begins.
func bracket(pattern string) (class, rest string, ok bool) {
	set, ok := strings.CutPrefix(pattern, "[")
	if !ok {
		return "", "", false
	}
	not := ""
	if s, negative := strings.CutPrefix(set, "!"); negative {
		not, set = "^", s
	}
	// A closing bracket that comes first belongs to the set.
	end := strings.IndexByte(set[min(1, len(set)):], ']') + 1
	if end == 0 {
		return "", "", false
	}
	members := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(set[:end])
	return "[" + not + members + "]", set[end+1:], true
}
