// Command demo shows the whole way of a job, on this machine and without any preparation: it starts
// PostgreSQL with two databases, two servers that play Odoo, and a real Caddy with this module in
// front of them; it enqueues jobs, watches them, and ends with a table. The exit status says
// whether everything held.
//
// Usage:
//
//	demo [-caddy bin/caddy] [-jobs 2000] [-keep] [-odoo 19]
//
// With -keep everything is left running until Ctrl-C. With -odoo 14 or 19, a real Odoo with the real
// add-on takes the place of what plays it; that needs root, and some hundred megabytes once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	binary := flag.String("caddy", "bin/caddy", "the Caddy `binary` with this module")
	jobs := flag.Int("jobs", 2000, "the `number` of jobs")
	keep := flag.Bool("keep", false, "leave everything running until Ctrl-C")
	series := flag.String("odoo", "", "use a real Odoo of this `series`, 14 or 19; needs root")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var held bool
	var err error
	if *series != "" {
		held, err = runReal(ctx, *binary, *series, *keep)
	} else {
		held, err = run(ctx, *binary, *jobs, *keep)
	}
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	case !held:
		fmt.Fprintln(os.Stderr, "demo: not everything held, see WRONG above")
		os.Exit(1)
	}
}

// run is the demonstration. It reports whether everything held.
func run(ctx context.Context, binary string, jobs int, keep bool) (held bool, err error) {
	if jobs < len(databases)*minimumJobs {
		return false, fmt.Errorf("at least %d jobs are needed for a bit of everything", len(databases)*minimumJobs)
	}
	s, err := open(ctx, binary)
	if s != nil {
		defer func() { err = errors.Join(err, s.Close()) }()
	}
	if err != nil {
		return false, err
	}
	r, err := s.work(ctx, jobs)
	if err != nil {
		return false, err
	}
	if r.latencies, err = s.probe(ctx); err != nil {
		return false, err
	}
	if r.public, err = s.publicStatus(ctx); err != nil {
		return false, err
	}
	held = r.report(os.Stdout)
	if keep {
		s.stay(ctx)
	} else {
		say("All of it has been stopped and removed. make demo KEEP=1 leaves it running, for you to look around.")
	}
	return held, nil
}
