package docs

import (
	"bytes"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// workflow is what of a workflow of GitHub is looked at.
type workflow struct {
	Name        string
	On          any
	Permissions map[string]string
	Concurrency any
	Jobs        map[string]struct {
		RunsOn      string `yaml:"runs-on"`
		Timeout     int    `yaml:"timeout-minutes"`
		Permissions map[string]string
		Strategy    any
		Steps       []struct {
			Name, If, Uses, Run string
			WorkingDirectory    string `yaml:"working-directory"`
			With                map[string]any
			Env                 map[string]string
		}
	}
}

// strictYAML decodes a file, in which each key is known and appears once.
func strictYAML(t *testing.T, f file, into any) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader([]byte(f.text)))
	d.KnownFields(true)
	require.NoError(t, d.Decode(into), f.path)
}

var (
	pinned     = regexp.MustCompile(`^[\w-]+/[\w-]+@[0-9a-f]{40}$`)
	usesLine   = regexp.MustCompile(`(?m)uses: (\S+)( # v\d+\.\d+\.\d+)?$`)
	expression = regexp.MustCompile(`\$\{\{([^}]*)\}\}`)
	makeLine   = regexp.MustCompile(`(?:^|[\s"])make((?: [A-Z]+=\S+)* ([a-z-]+))`)
	script     = regexp.MustCompile(`\.ci/([a-z-]+)`)
)

// TestWorkflows: actions are pinned to commits with their versions, jobs have limits and no more rights
// than they need, no text of others gets into a shell, and targets of make exist.
func TestWorkflows(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range makeTarget.FindAllStringSubmatch(read(t, "Makefile").text, -1) {
		targets[m[1]] = true
	}
	names := map[string]bool{}
	for _, f := range files(t, ".yaml") {
		if !strings.HasPrefix(f.path, ".github/workflows/") {
			continue
		}
		var w workflow
		strictYAML(t, f, &w)
		names[w.Name] = true
		require.Equal(t, map[string]string{"contents": "read"}, w.Permissions, f.path)
		for _, m := range usesLine.FindAllStringSubmatch(f.text, -1) {
			require.Regexp(t, pinned, m[1], f.path)
			require.NotEmpty(t, m[2], "%s: %s without its version", f.path, m[1])
		}
		require.Len(t, usesLine.FindAllString(f.text, -1), strings.Count(f.text, "uses:"), f.path)
		for name, job := range w.Jobs {
			require.NotZero(t, job.Timeout, "%s: %s may run for ever", f.path, name)
			require.NotContains(t, job.RunsOn, "latest", name)
			for _, step := range job.Steps {
				if strings.HasPrefix(step.Uses, "actions/checkout@") {
					require.Equal(t, map[string]any{"persist-credentials": false}, step.With, name)
				}
				for _, m := range expression.FindAllStringSubmatch(step.Run, -1) {
					require.Contains(t, []string{"matrix.transport"}, strings.TrimSpace(m[1]), "%s: %s", f.path, name)
				}
				for _, m := range makeLine.FindAllStringSubmatch(step.Run, -1) {
					assert.True(t, targets[m[2]], "%s: make has no target %s", f.path, m[2])
				}
				for _, m := range script.FindAllStringSubmatch(step.Run, -1) {
					assert.True(t, exists(".ci/"+m[1]), "%s: there is no .ci/%s", f.path, m[1])
				}
			}
		}
	}
	require.Equal(t, []string{"CI", "Nightly", "Release"}, slices.Sorted(maps.Keys(names)))
}

// TestIssueForms: the forms are as GitHub takes them.
func TestIssueForms(t *testing.T) {
	forms := 0
	for _, f := range files(t, ".yml") {
		if !strings.HasPrefix(f.path, ".github/ISSUE_TEMPLATE/") || strings.HasSuffix(f.path, "/config.yml") {
			continue
		}
		forms++
		var form struct {
			Name, Description string
			Labels            []string
			Body              []struct {
				Type, ID   string
				Attributes struct {
					Label, Description, Placeholder, Render, Value string
					Options                                        []string
				}
				Validations struct{ Required bool }
			}
		}
		strictYAML(t, f, &form)
		require.NotEmpty(t, form.Name)
		require.NotEmpty(t, form.Description)
		ids := map[string]bool{}
		for _, part := range form.Body {
			switch part.Type {
			case "markdown":
				require.NotEmpty(t, part.Attributes.Value)
				continue
			case "dropdown":
				require.NotEmpty(t, part.Attributes.Options)
			default:
				require.Contains(t, []string{"textarea", "input"}, part.Type)
			}
			require.NotEmpty(t, part.Attributes.Label)
			require.False(t, ids[part.ID], part.ID)
			ids[part.ID] = true
		}
	}
	require.Equal(t, 2, forms)
}

// TestDependabot: what it looks after is there.
func TestDependabot(t *testing.T) {
	var cfg struct {
		Version int
		Updates []struct {
			Ecosystem     string `yaml:"package-ecosystem"`
			Directory     string
			Schedule      map[string]string
			Groups        map[string]any
			CommitMessage map[string]string `yaml:"commit-message"`
		}
	}
	strictYAML(t, read(t, ".github/dependabot.yml"), &cfg)
	require.Equal(t, 2, cfg.Version)
	needs := map[string]string{
		"gomod": "go.mod", "github-actions": ".github/workflows", "docker": "*.Dockerfile", "docker-compose": "compose.yaml",
	}
	for _, u := range cfg.Updates {
		require.True(t, exists(strings.TrimPrefix(u.Directory+"/", "/")+needs[u.Ecosystem]), u.Ecosystem)
		delete(needs, u.Ecosystem)
	}
	require.Empty(t, needs)
}

// TestChangelog: its sections are versions in falling order, each once, and the newest is that of the chart.
func TestChangelog(t *testing.T) {
	text := read(t, "CHANGELOG.md").text
	headings := regexp.MustCompile(`(?m)^## \[(.+?)\](?: - \d{4}-\d{2}-\d{2})?$`).FindAllStringSubmatch(text, -1)
	require.Len(t, headings, strings.Count(text, "\n## "))
	require.GreaterOrEqual(t, len(headings), 2)
	require.Equal(t, "Unreleased", headings[0][1])
	chart := read(t, "deploy/helm/caddy-jobrunner/Chart.yaml").text
	require.Contains(t, chart, "\nappVersion: "+headings[1][1]+"\n")
}

// TestPublicPackagesHaveExamples: those that people use by themselves.
func TestPublicPackagesHaveExamples(t *testing.T) {
	for _, dir := range []string{".", "channels", "dashboard", "runjobguard", "runner", "runner/driver", "runner/postgres"} {
		text := read(t, dir+"/example_test.go").text
		require.Regexp(t, `(?m)^func Example`, text, dir)
		require.Contains(t, text, "// Output:", dir)
	}
}
