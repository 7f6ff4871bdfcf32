package command

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/metrics"
)

// rule is an alert rule, and sample a value of a metric.
type (
	rule   struct{ Alert, Expr string }
	sample struct {
		name   string
		labels map[string]string
		value  float64
	}
)

// readRules reads the alert rules about a state. Those about a rate need a past.
func readRules(t *testing.T) []rule {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "deploy", "prometheus", "jobrunner.rules.yaml"))
	require.NoError(t, err)
	var doc struct{ Groups []struct{ Rules []rule } }
	require.NoError(t, yaml.Unmarshal(raw, &doc))
	return slices.DeleteFunc(doc.Groups[0].Rules, func(r rule) bool { return strings.Contains(r.Expr, "increase(") })
}

// scrape reads all metrics.
func scrape(t *testing.T) (samples []sample) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	require.NoError(t, metrics.Register(reg))
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetGauge() == nil {
				continue
			}
			s := sample{f.GetName(), map[string]string{"instance": "a"}, m.GetGauge().GetValue()}
			for _, l := range m.GetLabel() {
				s.labels[l.GetName()] = l.GetValue()
			}
			samples = append(samples, s)
		}
	}
	return samples
}

// selector is a metric with labels.
type selector string

var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// of returns the samples that it selects.
func (s selector) of(samples []sample) (list []sample) {
	name, labels, _ := strings.Cut(string(s), "{")
	for _, x := range samples {
		matches := x.name == name
		for _, l := range label.FindAllStringSubmatch(labels, -1) {
			matches = matches && x.labels[l[1]] == l[2]
		}
		if matches {
			list = append(list, x)
		}
	}
	return list
}

func (s selector) holds(samples []sample, value float64) bool {
	return slices.ContainsFunc(s.of(samples), func(x sample) bool { return x.value == value })
}

var (
	// operator joins two conditions; the labels say what belongs together.
	operator = regexp.MustCompile(`^(.*) (or|and on \([^)]*\)|unless on \([^)]*\)|and|unless) (.*)$`)
	// condition compares a metric, or the sum or extreme of one, with a number.
	condition = regexp.MustCompile(`^(?:(max|min|sum) by \(([^)]*)\) )?\(?(?:min_over_time\()?([a-z_]+(?:\{[^}]*\})?)(?:\[\w+\]\))?\)? (==|>) (\d+)$`)
)

// eval is a small part of PromQL: as much as the rules about a state use.
func eval(t *testing.T, expr string, samples []sample) (list []map[string]string) {
	t.Helper()
	expr = strings.Join(strings.Fields(expr), " ")
	if m := operator.FindStringSubmatch(expr); m != nil {
		left, right := eval(t, m[1], samples), eval(t, m[3], samples)
		kind, on, _ := strings.Cut(m[2], " on ")
		if kind == "or" {
			return append(left, right...)
		}
		names := strings.Split(strings.Trim(on, "()"), ", ")
		return slices.DeleteFunc(left, func(l map[string]string) bool {
			found := slices.ContainsFunc(right, func(r map[string]string) bool {
				if on == "" {
					return maps.Equal(l, r)
				}
				return !slices.ContainsFunc(names, func(name string) bool { return l[name] != r[name] })
			})
			return found == (kind == "unless")
		})
	}
	m := condition.FindStringSubmatch(expr)
	require.NotNil(t, m, "%s is beyond this test", expr)
	limit, err := strconv.ParseFloat(m[5], 64)
	require.NoError(t, err)
	found := selector(m[3]).of(samples)
	if m[1] != "" {
		found = grouped(found, m[1], strings.Split(m[2], ", "))
	}
	for _, x := range found {
		if m[4] == "==" && x.value == limit || m[4] == ">" && x.value > limit {
			list = append(list, x.labels)
		}
	}
	return list
}

// grouped puts samples together that have the same labels of these names.
func grouped(samples []sample, how string, by []string) (list []sample) {
	for _, x := range samples {
		labels := make(map[string]string)
		for _, name := range by {
			labels[name] = x.labels[name]
		}
		i := slices.IndexFunc(list, func(g sample) bool { return maps.Equal(g.labels, labels) })
		switch {
		case i < 0:
			list = append(list, sample{labels: labels, value: x.value})
		case how == "sum":
			list[i].value += x.value
		case how == "max":
			list[i].value = max(list[i].value, x.value)
		default:
			list[i].value = min(list[i].value, x.value)
		}
	}
	return list
}

// firing returns the alerts of the rules that are true.
func firing(t *testing.T, rules []rule, samples []sample) (list []string) {
	t.Helper()
	for _, r := range rules {
		if len(eval(t, r.Expr, samples)) > 0 {
			list = append(list, r.Alert)
		}
	}
	slices.Sort(list)
	return list
}
