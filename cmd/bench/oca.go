package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/child"
)

// ocaLauncher runs the add-on's runner in a Python process of its own, without Odoo.
//
//go:embed oca_launcher.py
var ocaLauncher string

// ocaReady is what the launcher writes when the runner listens, and ocaTimeout how long that may take.
const (
	ocaReady   = "ready"
	ocaTimeout = 30 * time.Second
)

// ocaAll drains as many jobs with OCA's runner and with ours, by turns, beside bare clients. OCA's is
// that of a published add-on, as it is; -oca names its folder.
func ocaAll(ctx context.Context, l *lab) error {
	if l.oca == "" {
		say("   left out: -oca names the folder of the add-on queue_job (pip download --no-deps odoo-addon-queue-job, and unzip it)")
		return nil
	}
	version, err := ocaVersion(l.oca)
	if err != nil {
		return err
	}
	l.report.know("OCA's queue_job", version)
	j := jobs{count: pick(l.bench, 3_000, 300), analyze: true}
	for run := range l.runs {
		for _, capacity := range comparedAt {
			if err := l.compareOCA(ctx, run, capacity, j); err != nil {
				return fmt.Errorf("run %d at root:%d: %w", run+1, capacity, err)
			}
		}
	}
	return nil
}

// compareOCA measures both runners and the limit, each time in another order.
func (l *lab) compareOCA(ctx context.Context, run, capacity int, j jobs) error {
	if err := l.clear(ctx, benchDB, limitDB); err != nil {
		return err
	}
	var bare, ours, theirs *drained
	parts := []func() error{
		func() (err error) { bare, err = l.limit(ctx, limitDB, capacity, j); return err },
		func() (err error) { ours, err = l.drain(ctx, capacity, j); return err },
		func() (err error) { theirs, err = l.drainOCA(ctx, capacity, j); return err },
	}
	for i := range parts {
		if err := parts[(i+run)%len(parts)](); err != nil {
			return err
		}
		if err := l.exec(ctx, benchDB, "TRUNCATE queue_job, queue_job_lock"); err != nil {
			return err
		}
	}
	r, root := l.report, fmt.Sprintf("root:%d, ", capacity)
	per := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(j.count) }
	r.add(root+"jobs/s of the limit", "", 0, nil, bare.rate())
	r.add(root+"jobs/s of OCA's runner", "", 0, nil, theirs.rate())
	r.add(root+"jobs/s of the runner", "", 0, nil, ours.rate())
	r.add(root+"ratio, OCA's runner to the limit", "", 3, nil, theirs.rate()/bare.rate())
	r.add(root+"ratio, the runner to the limit", "", 3, nil, ours.rate()/bare.rate())
	r.add(root+"ratio, the runner to OCA's", "", 2, nil, ours.rate()/theirs.rate())
	r.add(root+"CPU of OCA's runner per 1,000 jobs", "s", 3, nil, per(theirs.processor))
	r.add(root+"CPU of Caddy per 1,000 jobs", "s", 3, nil, per(ours.processor))
	r.add(root+"CPU, Caddy to OCA's runner", "", 2, nil, ours.processor.Seconds()/theirs.processor.Seconds())
	r.add(root+"most in flight, OCA's runner", "", 0, nil, float64(theirs.Most))
	r.add(root+"most in flight, the runner", "", 0, nil, float64(ours.Most))
	return nil
}

// drainOCA is drain with OCA's runner.
func (l *lab) drainOCA(ctx context.Context, capacity int, j jobs) (*drained, error) {
	p, err := l.startOCA(ctx, capacity)
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	return l.drainBy(ctx, p.PID(), j)
}

// startOCA starts OCA's runner, and returns when it has read the jobs of its database.
func (l *lab) startOCA(ctx context.Context, capacity int) (*child.Process, error) {
	host, port, _ := strings.Cut(l.address, ":")
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "python3", "-c", ocaLauncher, l.oca, benchDB)
	cmd.Env = append(os.Environ(),
		"ODOO_QUEUE_JOB_CHANNELS="+fmt.Sprintf("root:%d", capacity),
		"ODOO_QUEUE_JOB_HOST="+host, "ODOO_QUEUE_JOB_PORT="+port,
		"ODOO_QUEUE_JOB_JOBRUNNER_DB_HOST=127.0.0.1", "ODOO_QUEUE_JOB_JOBRUNNER_DB_USER="+runnerRole,
		fmt.Sprintf("ODOO_QUEUE_JOB_JOBRUNNER_DB_PORT=%d", l.Postgres.Port()))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting OCA's runner: %w", err)
	}
	said := new(tail)
	cmd.Stderr = said
	p, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, fmt.Errorf("starting OCA's runner, which needs python3: %w", err)
	}
	ready := make(chan error, 1)
	go func() {
		var line [len(ocaReady)]byte
		_, err := out.Read(line[:])
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-time.After(ocaTimeout):
		err = errors.New("it is not ready in time")
	}
	if err == nil {
		err = l.pinClients(p.PID())
	}
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("starting OCA's runner, which needs python3 with psycopg2 and requests: %w: %s", err, said)
	}
	return p, nil
}

// ocaVersion reads the version of an add-on, so that the table says what was measured.
func ocaVersion(folder string) (string, error) {
	manifest, err := os.ReadFile(filepath.Join(folder, "__manifest__.py"))
	if err != nil {
		return "", fmt.Errorf("reading the add-on that -oca names: %w", err)
	}
	_, rest, found := strings.Cut(string(manifest), `"version": "`)
	version, _, ended := strings.Cut(rest, `"`)
	if !found || !ended || len(version) > 32 {
		return "", fmt.Errorf("reading the add-on that -oca names: %s has no version", folder)
	}
	return version, nil
}

// tailSize is how much of what a program says is kept.
const tailSize = 4 << 10

// tail keeps the end of what is written.
type tail struct{ kept []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.kept = append(t.kept, b...)
	if n := len(t.kept) - tailSize; n > 0 {
		t.kept = t.kept[n:]
	}
	return len(b), nil
}

func (t *tail) String() string { return string(t.kept) }
