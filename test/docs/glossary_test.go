package docs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const glossaryFile = "docs/glossary.md"

// chapter returns the text of a heading of the second level.
func chapter(t *testing.T, text, title string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n## "+title+"\n")
	require.True(t, ok, "no heading %s", title)
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

// explained are the words in code in the first cells of the tables of a text, and in its prose.
func explained(text string) map[string]bool {
	words := map[string]bool{}
	for line := range strings.SplitSeq(text, "\n") {
		if tableRow.MatchString(line) {
			line = strings.SplitN(line, "|", 3)[1]
		}
		for _, m := range inCode.FindAllStringSubmatch(line, -1) {
			words[m[1]] = true
		}
	}
	return words
}

// all returns the names of a sequence that begins at 0 and ends before what has no name.
func all[T ~uint8](from T, name func(T) string) []string {
	var names []string
	for i := from; ; i++ {
		s := name(i)
		if s == "invalid" || strings.Contains(s, "(") {
			return names
		}
		names = append(names, s)
	}
}

// matches returns the first group of each match in a file.
func matches(t *testing.T, path, pattern string) []string {
	t.Helper()
	var list []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, path).text, -1) {
		list = append(list, m[1])
	}
	require.NotEmpty(t, list, "%s: %s", path, pattern)
	return list
}

// TestGlossary: each word that the code prints for people is explained, under its heading.
func TestGlossary(t *testing.T) {
	text := read(t, glossaryFile).text
	events := make([]string, 0, len(runner.EventKinds()))
	for _, k := range runner.EventKinds() {
		events = append(events, string(k))
	}
	reasons := all(channels.Reason(1), channels.Reason.String)
	for title, words := range map[string][]string{
		"States of a runner":     all(runner.Health(0), runner.Health.String),
		"States of a database":   append(all(runner.DatabaseState(0), runner.DatabaseState.String), all(driver.Health(0), driver.Health.String)...),
		"States of a job":        all(channels.State(0), channels.State.String),
		"Phases of a task":       matches(t, "runner/status.go", `phase\w+: +"(\w+)"`),
		"Why a job does not run": append(reasons, matches(t, "runner/why.go", `(?m)^\tWhy\w+ += "(\w+)"`)...),
		"Ends of a request, and of an attempt": append(all(driver.Outcome(0), driver.Outcome.String),
			all(driver.Verdict(0), driver.Verdict.String)...),
		"Findings of the doctor": matches(t, "internal/doctor/finding.go", `= kind\{\w+, "\w+", "(\w+)"\}`),
		"Events":                 events,
	} {
		found := explained(chapter(t, text, title))
		for _, word := range words {
			switch word {
			case channels.ReasonPaused.String(), channels.ReasonSuspended.String():
				continue // a more exact word is said
			}
			assert.True(t, found[word], "%s does not explain %s under %q", glossaryFile, word, title)
		}
	}
}

// TestGlossaryOfColumns: the heading of each column of each table is explained.
func TestGlossaryOfColumns(t *testing.T) {
	first := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([A-Z][A-Z0-9, -]+) \|`).FindAllStringSubmatch(chapter(t, read(t, glossaryFile).text, "Columns"), -1) {
		for column := range strings.SplitSeq(m[1], ", ") {
			first[column] = true
		}
	}
	for _, path := range []string{"show.go", "jobs.go", "doctor.go", "history.go", "simulate.go", "forecast.go", "top.go"} {
		for _, column := range matches(t, "internal/command/"+path, `"([A-Z][A-Z-]+(?: [A-Z0-9]+)*)"`) {
			assert.True(t, first[column], "%s does not explain the column %s", glossaryFile, column)
		}
	}
}
