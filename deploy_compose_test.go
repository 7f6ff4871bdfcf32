package jobrunner

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const composeDir = "deploy/compose"

// composeService is what of a service is looked at.
type composeService struct {
	Image           string
	Build           struct{ Context, Dockerfile string }
	Environment     map[string]string
	Secrets         []string
	Volumes, Ports  []string
	StopGracePeriod string                       `yaml:"stop_grace_period"`
	DependsOn       map[string]map[string]string `yaml:"depends_on"`
}

// TestCompose: what the services of deploy/compose refer to exists, images have versions, and Caddy's
// configuration can be loaded and fits the rest.
func TestCompose(t *testing.T) {
	var project struct {
		Services map[string]composeService
		Secrets  map[string]struct{ File string }
		Volumes  map[string]any
	}
	content, err := os.ReadFile(filepath.Join(composeDir, "compose.yaml"))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(content, &project))
	require.Len(t, project.Services, 3)
	for name, s := range project.Services {
		require.Regexp(t, pinnedImage, s.Image, name)
		for _, secret := range s.Secrets {
			require.NotEmpty(t, project.Secrets[secret].File, "%s: %s", name, secret)
		}
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(source, ".") {
				require.FileExists(t, filepath.Join(composeDir, source), name)
			} else {
				require.Contains(t, project.Volumes, source, name)
			}
		}
		for other := range s.DependsOn {
			require.Contains(t, project.Services, other)
		}
		if s.Build.Dockerfile != "" {
			require.FileExists(t, filepath.Join(composeDir, s.Build.Dockerfile))
		}
	}

	content, err = os.ReadFile(filepath.Join(composeDir, "Caddyfile"))
	require.NoError(t, err)
	caddyfile := string(content)
	for _, m := range regexp.MustCompile(`(?m)(?:@|reverse_proxy (?:/\S+ )?)([a-z]+):\d+`).FindAllStringSubmatch(caddyfile, -1) {
		require.Contains(t, project.Services, m[1])
	}
	stop, err := time.ParseDuration(project.Services["caddy"].StopGracePeriod)
	require.NoError(t, err)
	var needs time.Duration
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:shutdown_timeout|grace_period) (\S+)`).FindAllStringSubmatch(caddyfile, -1) {
		d, err := caddy.ParseDuration(m[1])
		require.NoError(t, err)
		needs += d
	}
	require.Greater(t, stop, needs)

	cfgs, err := validate(t, withPassword(t, caddyfile, "/run/secrets/odoo_db"))
	require.NoError(t, err)
	require.Equal(t, "secret", cfgs["default"].Postgres.Password)
	conf, err := os.ReadFile(filepath.Join(composeDir, "odoo.conf"))
	require.NoError(t, err)
	require.Contains(t, string(conf), "[queue_job]\n; Odoo starts no runner: Caddy runs the jobs.\nchannels = root:0\n")
	require.Contains(t, string(conf), "\nworkers = 4\n")
	require.Less(t, cfgs["default"].Channels[0].Capacity, 4, "some workers are for visitors")
}

// TestVersionsAreNamed: no image and no tool of the documentation is the newest there happens to be, and
// each connection to another machine says how it is verified.
func TestVersionsAreNamed(t *testing.T) {
	files := []string{"README.md", "xcaddy.md", "Caddyfile.example"}
	for _, pattern := range []string{"docs/*.md", "deploy/*/*", "deploy/helm/*/*.yaml", "deploy/helm/*/templates/*", ".github/*/*"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		files = append(files, found...)
	}
	from := regexp.MustCompile(`(?m)^FROM (\S+)`)
	dsn := regexp.MustCompile(`postgres(?:ql)?://[^\s'"` + "`" + `)]+`)
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.IsDir() || strings.HasSuffix(file, ".png") {
			continue
		}
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NotContains(t, string(content), "@latest", file)
		require.NotContains(t, string(content), ":latest", file)
		for _, m := range from.FindAllStringSubmatch(string(content), -1) {
			require.Regexp(t, pinnedImage, m[1], file)
		}
		for _, url := range dsn.FindAllString(string(content), -1) {
			if !strings.Contains(url, "127.0.0.1") && !strings.Contains(url, "...") {
				require.Contains(t, url, "sslmode=", "%s: %s", file, url)
			}
		}
	}
}
