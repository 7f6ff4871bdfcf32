package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// What `go test` says to Gremlins with its exit status.
const (
	exitLived   = 0
	exitKilled  = 1
	exitInvalid = 2
	// exitBroken is for Gremlins a mutant that lived, so that no failure of ours counts as a kill.
	exitBroken = 3
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "mutants: %v\n", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	if len(args) == 0 {
		return exitBroken, errors.New("prepare or judge?")
	}
	flags := flag.NewFlagSet("mutants "+args[0], flag.ContinueOnError)
	b := bench{patience: 3 * time.Second}
	flags.StringVar(&b.Root, "root", ".", "the folder of the module")
	flags.StringVar(&b.Work, "work", "", "the folder for binaries, notes and verdicts of the package")
	flags.StringVar(&b.Package, "package", "", "the package that is broken, relative to root")
	flags.StringVar(&b.Tags, "tags", "", "build tags")
	flags.StringVar(&b.Go, "go", "go", "the go command")
	judges := flags.String("judges", "", "the packages whose tests judge, separated by spaces; the first is the package itself")
	only := flags.String("run", "", "use only the tests that this regular expression matches")
	skip := flags.String("skip", "", "leave out the tests that this regular expression matches")
	flags.DurationVar(&b.longest, "longest", time.Minute, "leave out tests that take longer")
	if err := flags.Parse(args[1:]); err != nil {
		return exitBroken, fmt.Errorf("reading the arguments: %w", err)
	}
	b.Judges = strings.Fields(*judges)
	var err error
	if b.only, err = regexp.Compile(*only); err != nil {
		return exitBroken, fmt.Errorf("reading -run: %w", err)
	}
	if *skip != "" {
		if b.skip, err = regexp.Compile(*skip); err != nil {
			return exitBroken, fmt.Errorf("reading -skip: %w", err)
		}
	}
	switch args[0] {
	case "prepare":
		if err := b.prepare(); err != nil {
			return exitBroken, fmt.Errorf("preparing %s: %w", b.Package, err)
		}
		return exitLived, nil
	case "judge":
		dir, err := os.Getwd()
		if err != nil {
			return exitBroken, fmt.Errorf("finding the mutant: %w", err)
		}
		return b.judge(dir)
	}
	return exitBroken, fmt.Errorf("unknown command %q", args[0])
}
