package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// report collects the figures.
type report struct {
	Machine  []fact            `json:"machine"`
	Figures  []*figure         `json:"figures"`
	Sweep    []point           `json:"sweep,omitempty"`
	Failures map[string]string `json:"failures,omitempty"`

	scenario string
}

// fact is something about the machine.
type fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// figure is one line of the table: what was measured in each run.
type figure struct {
	Scenario string    `json:"scenario"`
	What     string    `json:"what"`
	Unit     string    `json:"unit,omitempty"`
	Bound    *bound    `json:"bound,omitempty"`
	Samples  []float64 `json:"samples"`
	digits   int
}

// bound is what the median has to keep.
type bound struct {
	// AtMost tells an upper bound from a lower one.
	AtMost bool    `json:"at_most"`
	Value  float64 `json:"value"`
}

func atMost(v float64) *bound  { return &bound{AtMost: true, Value: v} }
func atLeast(v float64) *bound { return &bound{Value: v} }

func (b *bound) met(v float64) bool {
	if b.AtMost {
		return v <= b.Value
	}
	return v >= b.Value
}

func newReport() *report { return &report{Failures: map[string]string{}} }

// add records what one run of the present scenario has measured, in the line of that name. digits
// are those after the point; b may be nil.
func (r *report) add(what, unit string, digits int, b *bound, v float64) *figure {
	i := slices.IndexFunc(r.Figures, func(f *figure) bool { return f.Scenario == r.scenario && f.What == what })
	if i < 0 {
		i = len(r.Figures)
		r.Figures = append(r.Figures, &figure{Scenario: r.scenario, What: what, Unit: unit, Bound: b, digits: digits})
	}
	f := r.Figures[i]
	f.Samples = append(f.Samples, v)
	say("   %s: %s", f.What, f.format(v))
	return f
}

func (f *figure) format(v float64) string {
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", f.digits, v, f.Unit))
}

// median of the samples; of an even number the lower one.
func (f *figure) median() float64 { return testbed.Percentile(f.Samples, 50) }

// met reports whether the median keeps the bound.
func (f *figure) met() bool { return f.Bound == nil || f.Bound.met(f.median()) }

func (r *report) fail(scenario string, err error) { r.Failures[scenario] = err.Error() }

// exitCode is the program's.
func (r *report) exitCode() int {
	switch {
	case len(r.Failures) > 0:
		return 2
	case slices.ContainsFunc(r.Figures, func(f *figure) bool { return !f.met() }):
		return 1
	}
	return 0
}

// print writes the table.
func (r *report) print(out io.Writer) error {
	var b strings.Builder
	for _, f := range r.Machine {
		fmt.Fprintf(&b, "%s: %s  \n", f.Name, f.Value)
	}
	b.WriteString("\n| scenario | what | median | range | runs | bound | |\n|---|---|---|---|---|---|---|\n")
	for _, f := range r.Figures {
		b.WriteString(f.row())
	}
	for _, s := range scenarios {
		if err, ok := r.Failures[s.name]; ok {
			fmt.Fprintf(&b, "| %s | could not be measured: %s | | | | | **failed** |\n", s.name, oneLine(err))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (f *figure) row() string {
	limit, verdict := "", ""
	if f.Bound != nil {
		limit, verdict = "at least ", "met"
		if f.Bound.AtMost {
			limit = "at most "
		}
		limit += strings.TrimSpace(fmt.Sprintf("%g %s", f.Bound.Value, f.Unit))
		if !f.met() {
			verdict = "**not met**"
		}
	}
	span := ""
	if len(f.Samples) > 1 {
		span = fmt.Sprintf("%.*f to %.*f", f.digits, slices.Min(f.Samples), f.digits, slices.Max(f.Samples))
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %d | %s | %s |\n",
		f.Scenario, f.What, f.format(f.median()), span, len(f.Samples), limit, verdict)
}

// oneLine makes an error fit a cell.
func oneLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return strings.ReplaceAll(s, "|", "/")
}

// save writes everything as JSON.
func (r *report) save(file string) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("encoding the figures: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the figures: %w", err)
	}
	return nil
}
