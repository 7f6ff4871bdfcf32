// Command bench measures what the runner costs and what it makes jobs wait for,
// against what the same machine can do without any runner. It starts PostgreSQL
// with its normal durability, a stub of Odoo in a process of its own, and a real
// Caddy with the module, and prints a table in Markdown.
//
// Usage:
//
//	bench [-caddy bin/caddy] [-runs 5] [-quick] [-json FILE] [-plot FILE] [-profile DIR] [scenario...]
//
// Without arguments all scenarios run. docs/benchmarks.md has the method. The
// exit status is 1 when a bound was missed, 2 when a scenario could not be measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-jobrunner/caddy-jobrunner" // for the profiled Caddy
)

// roles are what this program is as a child of itself, by its first argument.
var roles = map[string]func(context.Context, []string) error{
	"stub":  runStub,
	"floor": runFloor,
}

// profiledRole is Caddy itself, with the profiles switched on that cost something.
const profiledRole = "profiled-caddy"

func main() {
	if len(os.Args) > 1 && os.Args[1] == profiledRole {
		profileBlocking()
		os.Args = append(os.Args[:1], os.Args[2:]...)
		caddycmd.Main()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx)
	stop()
	os.Exit(code)
}

// command runs a role, or the benchmarks, and returns the exit status.
func command(ctx context.Context) int {
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok {
			if err := role(ctx, os.Args[2:]); err != nil {
				fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
				return 2
			}
			return 0
		}
	}
	b := &bench{report: newReport()}
	flag.StringVar(&b.caddy, "caddy", "bin/caddy", "the Caddy `binary` with this module")
	flag.StringVar(&b.dir, "dir", "", "the `folder` for all data, on the disk that is to be measured (default: that for temporary files)")
	flag.IntVar(&b.runs, "runs", 5, "the `number` of runs")
	flag.BoolVar(&b.quick, "quick", false, "small numbers, for development: the figures mean nothing")
	flag.DurationVar(&b.sustain, "sustain", 10*time.Minute, "how long the sustained load lasts")
	flag.Float64Var(&b.load, "load", 0.8, "the sustained load, as a share of the limit")
	flag.StringVar(&b.plot, "plot", "", "write the plot of latency and throughput over load to an SVG `file`")
	flag.StringVar(&b.profile, "profile", "", "write profiles of the drain and of the idle state into a `folder`, and measure nothing")
	jsonFile := flag.String("json", "", "write all figures to a `file`, too")
	flag.Usage = usage
	flag.Parse()
	chosen, err := choose(flag.Args())
	if err == nil {
		b.caddy, err = filepath.Abs(b.caddy)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	if b.profile != "" {
		chosen = []scenario{profiles}
	}
	return b.run(ctx, chosen, *jsonFile)
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

// bench is what all scenarios share.
type bench struct {
	caddy   string
	dir     string
	runs    int
	quick   bool
	sustain time.Duration
	load    float64
	plot    string
	profile string
	report  *report
}

// scenario is one part of the table.
type scenario struct {
	name, about string
	run         func(context.Context, *bench) error
}

var scenarios = []scenario{drain, slow, burst, idle, million, fiveMillion, databases, channelTree, reload, status, sustained}

// choose returns the named scenarios, or all.
func choose(names []string) ([]scenario, error) {
	if len(names) == 0 {
		return scenarios, nil
	}
	var chosen []scenario
next:
	for _, name := range names {
		for _, s := range scenarios {
			if s.name == name {
				chosen = append(chosen, s)
				continue next
			}
		}
		return nil, fmt.Errorf("there is no scenario %q; there are %s", name, strings.Join(scenarioNames(), ", "))
	}
	return chosen, nil
}

func scenarioNames() []string {
	names := make([]string, len(scenarios))
	for i, s := range scenarios {
		names[i] = s.name
	}
	return names
}

// run measures the scenarios one after the other; one that fails does not stop
// the others.
func (b *bench) run(ctx context.Context, chosen []scenario, jsonFile string) int {
	b.report.Machine = machine()
	for _, s := range chosen {
		if ctx.Err() != nil {
			break
		}
		began, before := time.Now(), cpuTimes()
		say("== %s: %s", s.name, s.about)
		b.report.scenario = s.name
		if err := b.attempt(ctx, s); err != nil {
			b.report.fail(s.name, err)
			say("   %s could not be measured: %v", s.name, err)
		}
		if share, ok := cpuTimes().stolenSince(before); ok {
			b.report.figure("processor time that the host gave to other guests, of what was asked for", "%", 1, nil).add(share * 100)
		}
		say("   %s took %.0f s", s.name, time.Since(began).Seconds())
	}
	if err := b.report.print(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	if jsonFile != "" {
		if err := b.report.save(jsonFile); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 2
		}
	}
	return b.report.exitCode()
}

// attempt runs a scenario and turns a panic into an error, so that everything is
// cleaned up and the others run.
func (b *bench) attempt(ctx context.Context, s scenario) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return s.run(ctx, b)
}

// size is a number of jobs, databases or the like, which is small for development.
func (b *bench) size(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

// duration is size for times.
func (b *bench) duration(full, quick time.Duration) time.Duration {
	if b.quick {
		return quick
	}
	return full
}

// say tells what happens, on the standard error so that the table stands alone.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
