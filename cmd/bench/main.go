// Command bench measures what the runner costs and what it makes jobs wait for, against what the
// same machine can do without any runner. It starts PostgreSQL with its normal durability, a stub
// of Odoo in a separate process, and a real Caddy with the module, and prints a table in Markdown.
//
// Usage:
//
//	bench [-caddy bin/caddy] [-runs 5] [-quick] [-json FILE] [-plot FILE] [-profile DIR] [scenario...]
//
// Without arguments all scenarios run. docs/benchmarks.md has the method. The exit status is 1 when
// a bound was missed, 2 when a scenario could not be measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-jobrunner/caddy-jobrunner" // for the profiled Caddy
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

func main() {
	switch {
	case testbed.IsCaddy(): // one whose profiles are wanted
		profileBlocking()
		caddycmd.Main()
		return
	case len(os.Args) > 1 && os.Args[1] == partnerRole:
		servePartner()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := command(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		code = 2
	}
	os.Exit(code)
}

// bench is what all scenarios share.
type bench struct {
	binary string
	dir    string
	runs   int
	pin    bool
	// table has storage parameters of queue_job, and postgres settings of the server.
	table, postgres string
	// oca is the folder of OCA's add-on, and before the Caddy of another revision.
	oca, before string
	many        int
	// connections are those that PostgreSQL allows. Default: enough for most scenarios.
	connections int
	// archived is the number of old jobs in each of the databases of the explorer.
	archived int
	quick    bool
	sustain  time.Duration
	load     float64
	plot     string
	profile  string
	report   *report
}

// command runs the scenarios of the command line, and returns the exit status.
func command(ctx context.Context) (int, error) {
	b := &bench{report: newReport()}
	flag.StringVar(&b.binary, "caddy", "bin/caddy", "the Caddy `binary` with this module")
	flag.StringVar(&b.dir, "dir", "", "the `folder` for all data, on the disk that is to be measured (default: that for temporary files)")
	flag.IntVar(&b.runs, "runs", 5, "the `number` of runs")
	flag.IntVar(&b.many, "databases", 1_000, "the `number` of databases of which most sleep")
	flag.IntVar(&b.archived, "archived", 100_000, "the `number` of old jobs in each database that is searched")
	flag.BoolVar(&b.pin, "pin", false, "keep PostgreSQL and Odoo on one half of the processors, Caddy and all clients on the other")
	flag.StringVar(&b.table, "table", "", "storage `parameters` of queue_job, as ALTER TABLE ... SET takes them")
	flag.StringVar(&b.postgres, "postgres", "", "a `setting` of PostgreSQL, as name=value")
	flag.StringVar(&b.oca, "oca", "", "the `folder` of the add-on queue_job whose runner is measured, too")
	flag.StringVar(&b.before, "before", "", "the Caddy `binary` of another revision, to be measured by turns with this one")
	flag.BoolVar(&b.quick, "quick", false, "small numbers, for development: the figures mean nothing")
	flag.DurationVar(&b.sustain, "sustain", 10*time.Minute, "how long the sustained load lasts")
	flag.Float64Var(&b.load, "load", 0.7, "the sustained load, as a share of the limit")
	flag.StringVar(&b.plot, "plot", "", "write the plot of latency and throughput over load to an SVG `file`")
	flag.StringVar(&b.profile, "profile", "", "write profiles of the drain and of the idle state into a `folder`, and measure nothing")
	jsonFile := flag.String("json", "", "write all figures to a `file`, too")
	flag.Usage = usage
	flag.Parse()
	chosen, err := choose(flag.Args())
	if err != nil {
		return 0, err
	}
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return 0, err
	}
	if b.profile != "" {
		chosen = []scenario{profiles}
	}
	b.run(ctx, chosen)
	if err := b.report.print(os.Stdout); err != nil {
		return 0, err
	}
	if *jsonFile != "" {
		if err := b.report.save(*jsonFile); err != nil {
			return 0, err
		}
	}
	return b.report.exitCode(), nil
}

func usage() {
	out := flag.CommandLine.Output()
	fmt.Fprintln(out, "usage: bench [flags] [scenario...]")
	flag.PrintDefaults()
	fmt.Fprintln(out, "scenarios:")
	for _, s := range scenarios {
		fmt.Fprintf(out, "  %-10s %s\n", s.name, s.about)
	}
}

// scenario is one part of the table.
type scenario struct {
	name, about string
	// databases are created in its lab. Without any, the lab is empty.
	databases []string
	run       func(context.Context, *lab) error
}

var scenarios = []scenario{
	{"drain", "10,000 jobs that do nothing, against bare HTTP clients, and such with a runner's writes", []string{benchDB, limitDB, writesDB}, drainAll},
	{"slow", "3,000 jobs of 100 ms at root:64", []string{benchDB, limitDB, writesDB}, slowAll},
	{"oca", "3,000 jobs that do nothing, with OCA's runner and with this one (needs -oca)", []string{benchDB, limitDB}, ocaAll},
	{"before", "another revision and this one by turns: drains, 400 jobs/s, the start with 1,000,000 jobs (needs -before)", []string{benchDB, limitDB}, beforeAll},
	{"burst", "the first request after a commit of very many rows", []string{benchDB, limitDB}, burstAll},
	{"idle", "single jobs, against the least that gets a job to Odoo", []string{benchDB, floorDB}, idleAll},
	{"million", "1,000,000 waiting jobs", []string{benchDB, idleDB}, millionAll},
	{"5million", "5,000,000 waiting and 1,000,000 failed jobs", []string{benchDB, idleDB}, fiveMillionAll},
	{"databases", "300 databases, one connection each", []string{templateDB, idleDB}, databasesAll},
	{"asleep", "1,000 databases, or -databases, of which 50 have jobs and the others sleep", []string{templateDB, idleDB}, asleepAll},
	{"channels", "a change and a pass of the scheduler with 100,000 channels and with 10", nil, channelsAll},
	{"scale", "10,000,000 jobs, 2,000 requests, 1,000 databases, 100,000 channels: what grows with what", nil, scaleAll},
	{"reload", "reloads with 1,000,000 jobs in memory while jobs run", []string{benchDB}, reloadAll},
	{"status", "questions to the admin API with 1,000,000 jobs and 300 databases, while jobs run", []string{templateDB}, statusAll},
	{"explorer", "lists of jobs among 5,000,000 of 50 databases, while jobs run", []string{templateDB}, explorerAll},
	{"visitors", "visitors of a site while jobs are queued, with and without reserved workers", []string{benchDB}, visitorsAll},
	{"tenants", "one job a second of a small tenant beside 100,000 of a big one, with `fair database`", []string{bigTenant, smallTenant}, tenantsAll},
	{"sweep", "jobs that are committed one by one at a steady rate: one load after the other", []string{benchDB, limitDB}, sweepAll},
	{"sustained", "jobs that are committed one by one at a steady rate for ten minutes", []string{benchDB, limitDB}, sustainedAll},
}

// choose returns the named scenarios, or all.
func choose(names []string) ([]scenario, error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	var chosen []scenario
	for _, name := range names {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			var known []string
			for _, s := range scenarios {
				known = append(known, s.name)
			}
			return nil, fmt.Errorf("there is no scenario %q; there are %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, scenarios[i])
	}
	return chosen, nil
}

// run measures the scenarios one after the other; one that fails does not stop the others.
func (b *bench) run(ctx context.Context, chosen []scenario) {
	b.report.Machine = machine()
	for _, s := range chosen {
		if ctx.Err() != nil {
			return
		}
		began, before := time.Now(), cpuTimes()
		say("== %s: %s", s.name, s.about)
		b.report.scenario = s.name
		if err := b.attempt(ctx, s); err != nil {
			b.report.fail(s.name, err)
			say("   %s could not be measured: %v", s.name, err)
		}
		if share, ok := stolen(before, cpuTimes()); ok {
			b.report.add("processor time that the host gave to other guests, of what was asked for", "%", 1, nil, share*100)
		}
		say("   %s took %.0f s", s.name, time.Since(began).Seconds())
	}
}

// attempt runs a scenario and turns a panic into an error, so that everything is cleaned up and the
// others run.
func (b *bench) attempt(ctx context.Context, s scenario) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if s.databases == nil {
		return s.run(ctx, &lab{bench: b})
	}
	return b.withLab(ctx, s.databases, s.run)
}

// pick returns what is measured, or what is small enough for development.
func pick[T any](b *bench, full, quick T) T {
	if b.quick {
		return quick
	}
	return full
}

// say tells what happens, on the standard error so that the table is alone.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
