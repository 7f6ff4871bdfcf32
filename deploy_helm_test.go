package jobrunner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const chartDir = "deploy/helm/caddy-jobrunner"

// chartFunctions are those of Helm's functions that the chart uses, with their meaning there.
func chartFunctions(tree *template.Template) template.FuncMap {
	indent := func(n int, s string) string {
		pad := strings.Repeat(" ", n)
		return pad + strings.ReplaceAll(s, "\n", "\n"+pad)
	}
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var b bytes.Buffer
			err := tree.ExecuteTemplate(&b, name, data)
			return b.String(), err
		},
		"required": func(message string, v any) (any, error) {
			if v == nil || v == "" { // an empty list passes, as in Helm
				return nil, errors.New(message)
			}
			return v, nil
		},
		"fail": func(message string) (string, error) { return "", errors.New(message) },
		"default": func(otherwise, v any) any {
			if truth, _ := template.IsTrue(v); !truth {
				return otherwise
			}
			return v
		},
		"toYaml": func(v any) (string, error) {
			b, err := yaml.Marshal(v)
			return strings.TrimSuffix(string(b), "\n"), err
		},
		"join": func(separator string, list []any) string {
			words := make([]string, 0, len(list))
			for _, v := range list {
				words = append(words, fmt.Sprint(v))
			}
			return strings.Join(words, separator)
		},
		"sha256sum": func(s string) string {
			sum := sha256.Sum256([]byte(s))
			return hex.EncodeToString(sum[:])
		},
		"trunc":      func(n int, s string) string { return s[:min(n, len(s))] },
		"indent":     indent,
		"nindent":    func(n int, s string) string { return "\n" + indent(n, s) },
		"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
		"trim":       strings.TrimSpace,
		"quote":      func(v any) string { return strconv.Quote(fmt.Sprint(v)) },
		"add":        func(a, b int) int { return a + b },
		"int":        func(n int) int { return n },
	}
}

// merge puts values over others, as Helm does with those of a user.
func merge(under, over map[string]any) map[string]any {
	out := maps.Clone(under)
	for key, v := range over {
		if inner, ok := v.(map[string]any); ok {
			if below, ok := out[key].(map[string]any); ok {
				v = merge(below, inner)
			}
		}
		out[key] = v
	}
	return out
}

// renderChart renders the chart with values of a user, which name only what values.yaml has.
func renderChart(t *testing.T, user string) ([]byte, error) {
	t.Helper()
	var chart struct {
		APIVersion, Name, Version, AppVersion string
	}
	var head map[string]any
	content, err := os.ReadFile(filepath.Join(chartDir, "Chart.yaml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(content, &head))
	chart.Name, chart.Version, chart.AppVersion = head["name"].(string), head["version"].(string), head["appVersion"].(string)
	require.Equal(t, "v2", head["apiVersion"])

	var values, over map[string]any
	content, err = os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(content, &values))
	require.NoError(t, yaml.Unmarshal([]byte(user), &over))

	tree := template.New("chart").Option("missingkey=error")
	tree.Funcs(chartFunctions(tree))
	files, err := filepath.Glob(filepath.Join(chartDir, "templates", "*"))
	require.NoError(t, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		_, err = tree.New(filepath.Base(file)).Parse(string(content))
		require.NoError(t, err)
	}
	data := map[string]any{
		"Values": merge(values, over), "Chart": chart,
		"Release": map[string]any{"Name": "jobs", "Namespace": "odoo", "Service": "Helm"},
	}
	var out bytes.Buffer
	for _, file := range files {
		name := filepath.Base(file)
		if strings.HasPrefix(name, "_") {
			continue
		}
		var b bytes.Buffer
		if err := tree.ExecuteTemplate(&b, name, data); err != nil {
			return nil, err
		}
		if strings.HasSuffix(name, ".yaml") && strings.TrimSpace(b.String()) != "" {
			out.WriteString("---\n" + b.String())
		}
	}
	return out.Bytes(), nil
}

const leastValues = `
image: {repository: registry.example.com/caddy-jobrunner}
postgres: {url: "postgres://odoo@postgresql:5432/postgres?sslmode=verify-full", passwordSecret: odoo-db}
odoo: {upstreams: ["http://odoo:8069"]}
`

// TestHelmChart renders the chart and checks its objects as those of deploy/kubernetes.
func TestHelmChart(t *testing.T) {
	out, err := renderChart(t, leastValues)
	require.NoError(t, err)
	objects := manifests(t, out)
	require.Len(t, objects, 4)
	cfg := checkManifests(t, objects)
	require.Empty(t, cfg.Databases)
	require.Equal(t, "root", cfg.Channels[0].Name)
	require.Equal(t, 4, cfg.Channels[0].Capacity)
	require.Equal(t, "registry.example.com/caddy-jobrunner:0.1.0", objects["Deployment"].Spec.Template.Spec.Containers[0].Image)

	out, err = renderChart(t, strings.Replace(leastValues, `{upstreams: ["http://odoo:8069"]}`,
		`{service: odoo-headless, host: "{database}.example.com"}`, 1)+`
replicas: 1
channels: "root:8,root.mail:2:throttle=1"
extraOptions: |
  discover_interval 1m
  rescue_started_after 2h
persistence: {existingClaim: data}
tolerations: [{key: jobs, operator: Exists}]
shutdownTimeoutSeconds: 600
`)
	require.NoError(t, err)
	objects = manifests(t, out)
	require.Len(t, objects, 3, "a single pod has no budget for disruptions")
	cfg = checkManifests(t, objects)
	require.Len(t, cfg.Channels, 2)
	require.NotZero(t, cfg.RescueStartedAfter)
	require.Contains(t, string(out), "claimName: \"data\"")
}

// TestHelmChartRequires: the chart says which value is missing.
func TestHelmChartRequires(t *testing.T) {
	for line, missing := range map[string]string{
		"image:": "image.repository", "postgres:": "postgres.url", "odoo:": "odoo.upstreams or odoo.service",
	} {
		var kept []string
		for l := range strings.SplitSeq(leastValues, "\n") {
			if !strings.HasPrefix(l, line) {
				kept = append(kept, l)
			}
		}
		_, err := renderChart(t, strings.Join(kept, "\n"))
		require.ErrorContains(t, err, missing+" is required")
	}
}
