package jobrunner

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/metrics"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// metricNames are all that we have, with the suffixes that histograms bring along.
func metricNames(t *testing.T) map[string]bool {
	t.Helper()
	descs := make(chan *prometheus.Desc, 100)
	for _, c := range metrics.Collectors() {
		c.Describe(descs)
	}
	close(descs)
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	all := make(map[string]bool)
	for d := range descs {
		all[name.FindStringSubmatch(d.String())[1]] = true
	}
	for _, histogram := range []string{"job_wait_seconds", "job_run_seconds", "dispatch_seconds", "claim_batch_size"} {
		require.True(t, all["caddy_jobrunner_"+histogram])
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			all["caddy_jobrunner_"+histogram+suffix] = true
		}
	}
	return all
}

var metricPattern = regexp.MustCompile(`caddy_jobrunner_[a-z_]+`)

// TestDeployedNamesExist: rules and dashboard speak of metrics that there are, and
// the documentation of all of them.
func TestDeployedNamesExist(t *testing.T) {
	names := metricNames(t)
	for _, path := range []string{
		"deploy/prometheus/jobrunner.rules.yaml", "deploy/prometheus/jobrunner.rules.test.yaml",
		"deploy/grafana/jobrunner.json",
	} {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		found := metricPattern.FindAllString(string(content), -1)
		require.NotEmpty(t, found, path)
		for _, name := range found {
			require.True(t, names[name], "%s: there is no metric %s", path, name)
		}
	}
	doc, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	for name := range names {
		if !regexp.MustCompile(`_(bucket|sum|count)$`).MatchString(name) {
			require.Contains(t, string(doc), "`"+strings.TrimPrefix(name, "caddy_jobrunner_")+"`", "docs/operations.md says nothing of %s", name)
		}
	}
}

// TestAlertsAreExplained: what each means stands in the documentation, and promtool plays each through.
func TestAlertsAreExplained(t *testing.T) {
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	strictYAML(t, "deploy/prometheus/jobrunner.rules.yaml", &rules)
	doc, err := os.ReadFile("docs/operations.md")
	require.NoError(t, err)
	played, err := os.ReadFile("deploy/prometheus/jobrunner.rules.test.yaml")
	require.NoError(t, err)
	require.Len(t, rules.Groups, 1)
	for _, r := range rules.Groups[0].Rules {
		require.Contains(t, string(doc), "`"+r.Alert+"`")
		require.Regexp(t, `alertname(: |=")`+r.Alert+`\b`, string(played), "no case of promtool sees it fire")
		require.Contains(t, []string{"info", "warning", "critical"}, r.Labels["severity"], r.Alert)
		require.NotEmpty(t, r.Annotations["summary"], r.Alert)
		require.NotEmpty(t, r.Annotations["description"], r.Alert)
	}
}

func strictYAML(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	require.NoError(t, dec.Decode(into), path)
}

// TestGrafanaDashboard checks what Grafana needs: panels with a place, queries, and
// variables that are defined.
func TestGrafanaDashboard(t *testing.T) {
	content, err := os.ReadFile("deploy/grafana/jobrunner.json")
	require.NoError(t, err)
	var d struct {
		UID           string
		Title         string
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ RefID, Expr string }
			Datasource  struct{ Type, UID string }
		}
	}
	require.NoError(t, json.Unmarshal(content, &d))
	require.NotEmpty(t, d.UID)
	require.Positive(t, d.SchemaVersion)
	vars := []string{"__rate_interval"}
	for _, v := range d.Templating.List {
		vars = append(vars, v.Name)
	}
	taken := make(map[[2]int]string)
	ids := make(map[int]bool)
	for _, p := range d.Panels {
		require.False(t, ids[p.ID], "panel %q: id %d is taken", p.Title, p.ID)
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Empty(t, taken[at], "panel %q overlaps", p.Title)
				taken[at] = p.Title
			}
		}
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24)
		if p.Type == "row" {
			continue
		}
		require.Equal(t, "${datasource}", p.Datasource.UID, p.Title)
		require.NotEmpty(t, p.Targets, p.Title)
		for _, q := range p.Targets {
			for _, v := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				require.Contains(t, vars, v[1], "panel %q: %s", p.Title, q.Expr)
			}
			require.Equal(t, strings.Count(q.Expr, "("), strings.Count(q.Expr, ")"), q.Expr)
		}
	}
}

// manifest is what of a Kubernetes object is looked at.
type manifest struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Data       map[string]string
	Spec       struct {
		Template struct {
			Spec struct {
				TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
				Volumes                       []struct{ Name string }
				Containers                    []struct {
					Image                         string
					LivenessProbe, ReadinessProbe struct {
						Exec struct{ Command []string }
					}
					VolumeMounts []struct{ Name, MountPath string } `yaml:"volumeMounts"`
				}
			}
		}
	}
}

// manifests decodes Kubernetes objects, by kind, duplicate keys being mistakes.
func manifests(t *testing.T, content []byte) map[string]manifest {
	t.Helper()
	dec := yaml.NewDecoder(bytes.NewReader(content))
	objects := make(map[string]manifest)
	for {
		var node yaml.Node
		err := dec.Decode(&node)
		if errors.Is(err, io.EOF) {
			return objects
		}
		require.NoError(t, err)
		require.NoError(t, node.Decode(new(map[string]any)), "duplicate keys")
		var m manifest
		require.NoError(t, node.Decode(&m))
		require.NotEmpty(t, m.APIVersion)
		require.NotEmpty(t, m.Metadata.Name)
		require.Empty(t, objects[m.Kind].Kind, "two objects of the kind %s", m.Kind)
		objects[m.Kind] = m
	}
}

// checkManifests checks the references in the objects, and runs the configuration in them as far as it
// goes without a cluster.
func checkManifests(t *testing.T, objects map[string]manifest) runner.Config {
	t.Helper()
	pod := objects["Deployment"].Spec.Template.Spec
	require.Len(t, pod.Containers, 1)
	require.Regexp(t, pinnedImage, pod.Containers[0].Image)
	var volumes []string
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		require.Contains(t, volumes, m.Name)
	}
	require.Contains(t, volumes, "password")
	caddyfile := objects["ConfigMap"].Data["Caddyfile"]
	grace := regexp.MustCompile(`shutdown_timeout (\S+)`).FindStringSubmatch(caddyfile)
	timeout, err := caddy.ParseDuration(grace[1])
	require.NoError(t, err)
	require.Greater(t, time.Duration(pod.TerminationGracePeriodSeconds)*time.Second, timeout)

	cfgs, err := validate(t, withPassword(t, caddyfile, "/run/secrets/jobrunner/password"))
	require.NoError(t, err)
	require.Equal(t, "secret", cfgs["default"].Postgres.Password)
	return cfgs["default"]
}

// withPassword puts the path of a file with a password into a Caddyfile, in the place of another path.
func withPassword(t *testing.T, caddyfile, path string) string {
	t.Helper()
	require.Contains(t, caddyfile, "{file."+path+"}")
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("secret"), 0o600))
	return strings.ReplaceAll(caddyfile, path, password)
}

// pinnedImage is an image with a version or a digest.
var pinnedImage = regexp.MustCompile(`^[\w./-]+:v?\d[\w.-]*(?:@sha256:[0-9a-f]{64})?$`)

func TestKubernetesManifests(t *testing.T) {
	content, err := os.ReadFile("deploy/kubernetes/jobrunner.yaml")
	require.NoError(t, err)
	cfg := checkManifests(t, manifests(t, content))
	require.NotNil(t, cfg.Postgres.TLSConfig)
}
