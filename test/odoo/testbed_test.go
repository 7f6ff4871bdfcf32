//go:build odoo

package odootest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

const (
	// buildTimeout bounds the making of a chroot: some hundred megabytes.
	buildTimeout = 30 * time.Minute
	// installTimeout bounds the installation of Odoo's modules into a database.
	installTimeout = 5 * time.Minute

	// odooRole is the role that owns Odoo's databases.
	odooRole     = "odoo"
	odooPassword = "a password of the test bed"
)

// cluster is the PostgreSQL server of all tests.
var cluster *pgtest.Cluster

// bed is an installed Odoo of one series, with databases to copy.
type bed struct {
	series int
	root   string // the chroot
	run    string // folder of this run, as seen inside
	plain  string // database without the add-ons
	ready  string // database with them
}

// openBed installs what is missing, and prepares the databases. It fails the
// test when something cannot be had.
func openBed(t *testing.T, series int) *bed {
	t.Helper()
	version := strconv.Itoa(series)
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	build := exec.CommandContext(ctx, "./testbed.sh", "build", version)
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	require.NoError(t, build.Run(), "building the test bed of Odoo %d; see above for what could not be had", series)
	out, err := exec.CommandContext(ctx, "./testbed.sh", "path", version).Output()
	require.NoError(t, err)

	b := &bed{series: series, root: filepath.Join(strings.TrimSpace(string(out)), "root")}
	dir, err := os.MkdirTemp(filepath.Join(b.root, "srv"), "run-") //nolint:usetesting // inside the chroot, and kept after a failure
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the logs of Odoo %d are kept in %s", series, dir)
			return
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	b.run = strings.TrimPrefix(dir, b.root)
	require.NoError(t, os.CopyFS(filepath.Join(dir, "addons"), os.DirFS("addons")))
	launcher, err := os.ReadFile("launch.py")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "launch.py"), launcher, 0o600))

	b.plain, b.ready = fmt.Sprintf("plain%d", series), fmt.Sprintf("ready%d", series)
	b.createDatabase(t, b.plain, "template0")
	b.install(t, b.plain, "base,web")
	b.createDatabase(t, b.ready, b.plain)
	b.install(t, b.ready, "jobrunner_test")
	return b
}

// createDatabase copies a database, for Odoo's role, until the test ends.
func (b *bed) createDatabase(t *testing.T, name, template string) {
	t.Helper()
	require.NoError(t, cluster.Exec(t.Context(), "postgres",
		fmt.Sprintf(`CREATE DATABASE %q OWNER %q TEMPLATE %q`, name, odooRole, template)))
	t.Cleanup(func() { require.NoError(t, cluster.DropDatabase(context.Background(), name)) })
}

// config writes an odoo.conf and returns its path inside the chroot.
func (b *bed) config(t *testing.T, name string, options map[string]any) string {
	t.Helper()
	all := map[string]any{
		"db_host":             "127.0.0.1",
		"db_port":             cluster.Port(),
		"db_user":             odooRole,
		"db_password":         odooPassword,
		"db_template":         "template0",
		"addons_path":         "/srv/addons," + b.run + "/addons",
		"data_dir":            b.run + "/data",
		"server_wide_modules": b.serverWide(),
		"max_cron_threads":    0,
		"limit_time_cpu":      600,
		"limit_time_real":     600,
		"without_demo":        b.withoutDemo(),
	}
	maps.Copy(all, options)
	text := "[options]\n"
	for k, v := range all {
		text += fmt.Sprintf("%s = %v\n", k, v)
	}
	path := b.run + "/" + name + ".conf"
	require.NoError(t, os.WriteFile(filepath.Join(b.root, path), []byte(text), 0o600))
	return path
}

// serverWide are the modules of the server itself: the usual ones of the series,
// and the add-on.
func (b *bed) serverWide() string {
	if b.series < 19 {
		return "base,web,queue_job"
	}
	return "base,rpc,web,queue_job"
}

// withoutDemo is how each series says that it wants no demonstration data.
func (b *bed) withoutDemo() string {
	if b.series < 19 {
		return "all"
	}
	return "True"
}

// command prepares Odoo's command in the chroot. Processes and mounts are in
// namespaces of their own, which end with the command.
func (b *bed) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--pid", "--fork", "--kill-child", "--root=" + b.root, "--wd=/", "--mount-proc",
		"/usr/bin/python3", b.run + "/launch.py",
	}, args...)...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=" + b.run, "LC_ALL=C.UTF-8", "PYTHONPATH=/srv/python"}, env...)
	// A group of its own, and no life after the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// install installs modules into a database.
func (b *bed) install(t *testing.T, db, modules string) {
	t.Helper()
	started := time.Now()
	b.odoo(t, "--config", b.config(t, "install", nil), "--database", db, "--init", modules, "--stop-after-init")
	t.Logf("installing %s into %s: %.0f s", modules, db, time.Since(started).Seconds())
}

// odoo runs one of Odoo's commands to its end.
func (b *bed) odoo(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	out, err := b.command(ctx, []string{"ODOO_QUEUE_JOB_CHANNELS=root:0"}, args...).CombinedOutput()
	require.NoError(t, err, "odoo %s: %s", strings.Join(args, " "), lastLines(string(out)))
}

// lastLines shortens a log for an error message.
func lastLines(text string) string {
	const lines = 40
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
