package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/child"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// bedFolder has the recipe of the real Odoo, and an add-on with jobs.
	bedFolder = "test/odoo"
	odooRole  = "odoo"
	odooDB    = "demo"

	buildTimeout   = 30 * time.Minute // some hundred megabytes
	installTimeout = 5 * time.Minute
	odooTimeout    = 2 * time.Minute // the start of the server
	odooPoll       = 200 * time.Millisecond
	realWorkers    = 4
)

// realTree are the channels of the demonstration with a real Odoo.
const realTree = "root:4,root.mail:3,root.stock:2,root.invoices:1:sequential"

// realOdoo is a real Odoo in a chroot, with PostgreSQL and Caddy.
type realOdoo struct {
	*testbed.Bed
	caddy  *testbed.Caddy
	root   string // the chroot
	run    string // the folder of this run, as seen inside
	site   string // Odoo's address
	gevent string // that of its bus
	ops    string
}

// runReal is the demonstration with a real Odoo. It reports whether everything held.
func runReal(ctx context.Context, binary, series string, keep bool) (held bool, err error) {
	o := new(realOdoo)
	if err := o.build(ctx, series); err != nil {
		return false, err
	}
	defer func() {
		if o.Bed != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	if err := o.open(ctx, binary, series); err != nil {
		return false, err
	}
	r, err := o.work(ctx)
	if err != nil {
		return false, err
	}
	held = table(os.Stdout, r.lines())
	if keep {
		o.stay(ctx)
	}
	return held, nil
}

// build installs Odoo and the add-on, unless an earlier run has.
func (o *realOdoo) build(ctx context.Context, series string) error {
	if os.Geteuid() != 0 {
		return errors.New("a real Odoo is installed into a chroot, which takes root")
	}
	script, err := filepath.Abs(filepath.Join(bedFolder, "testbed.sh"))
	if err != nil {
		return fmt.Errorf("finding the recipe: %w", err)
	}
	path, err := exec.CommandContext(ctx, script, "path", series).CombinedOutput()
	if err != nil {
		return fmt.Errorf("odoo %s: %s", series, strings.TrimSpace(string(path)))
	}
	folder := strings.TrimSpace(string(path))
	if _, err := os.Stat(filepath.Join(folder, "complete")); err != nil {
		say("downloading, once, into %s:\n  Odoo %s with all that it needs, as Debian packages it: 200 MB, 2 GB on the disk\n  queue_job from PyPI, as the OCA publishes it",
			folder, series)
	}
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, script, "build", series)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("installing Odoo %s: %w", series, err)
	}
	o.root = filepath.Join(folder, "root")
	return nil
}

// open starts everything.
func (o *realOdoo) open(ctx context.Context, binary, series string) (err error) {
	say("starting PostgreSQL")
	if o.Bed, err = testbed.Open(ctx, pgtest.Options{Durable: true, Downloading: downloading}); err != nil {
		return err
	}
	for _, address := range []*string{&o.site, &o.gevent, &o.ops} {
		if *address, err = testbed.FreeAddress(); err != nil {
			return err
		}
	}
	if err := o.prepare(series); err != nil {
		return err
	}
	say("creating a database with queue_job in Odoo %s, which takes a minute or two", series)
	for _, sql := range []string{
		"CREATE ROLE " + odooRole + " LOGIN CREATEDB",
		"CREATE DATABASE " + odooDB + " OWNER " + odooRole + " TEMPLATE template0",
	} {
		if err := o.Postgres.Exec(ctx, "postgres", sql); err != nil {
			return err
		}
	}
	install, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	if out, err := o.command(install, "--database", odooDB, "--init", "jobrunner_test", "--stop-after-init").CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted: %w", ctx.Err())
		}
		return fmt.Errorf("installing queue_job: %w\n%s", err, lastLines(string(out)))
	}
	say("starting Odoo %s with %d workers", series, realWorkers)
	if err := o.serve(ctx); err != nil {
		return err
	}
	if _, err := o.Adopt(odooDB); err != nil {
		return err
	}
	say("starting Caddy")
	if binary, err = filepath.Abs(binary); err != nil {
		return fmt.Errorf("finding caddy: %w", err)
	}
	if o.caddy, err = o.StartCaddy(ctx, testbed.Options{Binary: binary, Config: o.config()}); err != nil {
		return err
	}
	if err := o.caddy.WaitReady(ctx, readyTimeout, odooDB); err != nil {
		return err
	}
	say("Odoo is at http://%s (admin, admin), the dashboard at %s, the metrics at %s", o.caddy.Site, o.url("/jobrunner/"), o.url("/metrics"))
	return nil
}

// prepare makes the folder of this run in the chroot.
func (o *realOdoo) prepare(series string) error {
	dir, err := os.MkdirTemp(filepath.Join(o.root, "srv"), "demo-")
	if err != nil {
		return fmt.Errorf("making a folder in the chroot: %w", err)
	}
	o.OnClose(func() error { return os.RemoveAll(dir) })
	o.run = strings.TrimPrefix(dir, o.root)
	if err := os.CopyFS(filepath.Join(dir, "addons"), os.DirFS(filepath.Join(bedFolder, "addons"))); err != nil {
		return fmt.Errorf("copying the add-on: %w", err)
	}
	launcher, err := os.ReadFile(filepath.Join(bedFolder, "launch.py"))
	if err != nil {
		return fmt.Errorf("copying the launcher: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "launch.py"), launcher, 0o600); err != nil {
		return fmt.Errorf("copying the launcher: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "odoo.conf"), []byte(o.odooConf(series)), 0o600); err != nil {
		return fmt.Errorf("writing odoo.conf: %w", err)
	}
	return nil
}

// odooConf is Odoo's configuration: its own runner is off.
func (o *realOdoo) odooConf(series string) string {
	modules, bus, demo := "base,rpc,web,queue_job", "gevent_port", "True"
	if n, err := strconv.Atoi(series); err == nil && n < 19 {
		modules, bus, demo = "base,web,queue_job", "longpolling_port", "all"
	}
	return fmt.Sprintf(`[options]
db_host = 127.0.0.1
db_port = %d
db_user = %s
db_name = %s
db_template = template0
addons_path = /srv/addons,%[4]s/addons
data_dir = %[4]s/data
server_wide_modules = %s
without_demo = %s
http_interface = 127.0.0.1
http_port = %s
%s = %s
workers = %d
max_cron_threads = 0
limit_time_cpu = 600
limit_time_real = 600

[queue_job]
channels = root:0
`, o.Postgres.Port(), odooRole, odooDB, o.run, modules, demo, portOf(o.site), bus, portOf(o.gevent), realWorkers)
}

// command prepares Odoo's command in the chroot. Processes and mounts are in namespaces, which end with
// the command.
func (o *realOdoo) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--pid", "--fork", "--kill-child", "--root=" + o.root, "--wd=/", "--mount-proc",
		"/usr/bin/python3", o.run + "/launch.py", "--config", o.run + "/odoo.conf",
	}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + o.run, "LC_ALL=C.UTF-8", "PYTHONPATH=/srv/python"}
	return cmd
}

// lastLines shortens a log for an error message.
func lastLines(text string) string {
	const lines = 20
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// serve starts Odoo, and waits until it answers.
func (o *realOdoo) serve(ctx context.Context) error {
	log, err := os.Create(o.log())
	if err != nil {
		return fmt.Errorf("opening Odoo's log: %w", err)
	}
	defer log.Close() // the child has its own descriptor
	cmd := o.command(context.WithoutCancel(ctx))
	cmd.Stdout, cmd.Stderr = log, log
	server, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	o.OnClose(func() error { server.Kill(); return nil })
	ctx, cancel := context.WithTimeout(ctx, odooTimeout)
	defer cancel()
	tick := time.NewTicker(odooPoll)
	defer tick.Stop()
	for {
		err := o.call(ctx, "res.users", "search_count", nil, []any{})
		if err == nil {
			return nil
		}
		select {
		case <-server.Done():
			return fmt.Errorf("odoo has ended, see %s: %s", o.log(), server.State())
		case <-ctx.Done():
			return fmt.Errorf("waiting for Odoo: %w", err)
		case <-tick.C:
		}
	}
}

// log is Odoo's log.
func (o *realOdoo) log() string { return filepath.Join(o.root, o.run, "odoo.log") }

// config is the configuration of a site with a real Odoo.
func (o *realOdoo) config() testbed.Config {
	return testbed.Config{
		Runners: []testbed.Runner{{
			Postgres:  fmt.Sprintf("postgres://%s@127.0.0.1:%d/postgres?sslmode=disable", odooRole, o.Postgres.Port()),
			Databases: odooDB, Channels: realTree,
		}},
		Snippets: operations(o.ops),
		Routes:   "jobrunner_guard\n@bus path /websocket /longpolling/*\nreverse_proxy @bus " + o.gevent + "\nreverse_proxy " + o.site,
	}
}

// url is the address of a path of the site with the dashboard.
func (o *realOdoo) url(path string) string { return "http://localhost:" + portOf(o.ops) + path }

func portOf(address string) string {
	_, port, _ := strings.Cut(address, ":")
	return port
}

// stay leaves everything running until ctx ends, and tells what to try.
func (o *realOdoo) stay(ctx context.Context) {
	suggest(append(
		common(o.caddy, o.url),
		suggestion{"Odoo, as admin with the password admin: Job Queue has the same jobs", "", "http://" + o.caddy.Site},
		suggestion{"the public cannot run jobs: 404", "curl", "curl -i http://" + o.caddy.Site + "/queue_job/runjob"},
		suggestion{"Odoo's log", "tail", "tail -f " + o.log()},
	))
	select {
	case <-ctx.Done():
		say("\nstopping")
	case <-o.caddy.Done():
		say("Caddy has ended, stopping")
	}
}
