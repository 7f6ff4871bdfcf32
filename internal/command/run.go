package command

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// errSaid ends a command with status 1 after its error has been printed.
var errSaid = errors.New("the error has been printed")

// run makes f the function of a command. It prints the error itself, because Caddy would write it to
// its log: as JSON where there is no terminal, and nowhere while the log is buffered.
func run(f func(cmd *cobra.Command, fl caddycmd.Flags, args []string) (int, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors = true
		status, err := f(cmd, caddycmd.Flags{FlagSet: cmd.Flags()}, args)
		if err != nil {
			complain(cmd.ErrOrStderr(), err)
		}
		switch {
		case status > 1:
			// Only Caddy can make the error from which it takes another status than 1.
			return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return status, nil })(cmd, args)
		case status == 1 || err != nil:
			return errSaid
		}
		return nil
	}
}

// hinted is an error with what to do about it.
type hinted struct {
	error
	hint string
}

// Unwrap returns the error without the hint.
func (h *hinted) Unwrap() error { return h.error }

// hint adds what to do about an error; nil stays nil.
func hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// complain prints an error, and what to do about it, in one line.
func complain(to io.Writer, err error) {
	text := oneLine(api.Plain(err.Error()))
	if h, ok := errors.AsType[*hinted](err); ok {
		text += "; " + h.hint
	} else if _, ok := errors.AsType[*api.UnreachableError](err); ok {
		text += "; is Caddy running, and with the admin API there? --address or --config name another one"
	}
	_, _ = fmt.Fprintln(to, "error: "+api.Printable(text)) // there is nothing else to say it on
}

// mistaken ends a command whose arguments or flags are wrong.
func mistaken(cmd *cobra.Command, err error) error {
	cmd.SilenceErrors = true
	complain(cmd.ErrOrStderr(), hint(err, "see %s --help", cmd.CommandPath()))
	return errSaid
}

// badValue is what the library for flags says of a value that it cannot read.
var badValue = regexp.MustCompile(`^invalid argument (".*") for "(?:-., )?(--[a-z-]+)" flag: (.*)$`)

// badFlag says what is wrong with a flag.
func badFlag(cmd *cobra.Command, err error) error {
	if twice, ok := errors.AsType[*twiceError](err); ok {
		invalid, _ := errors.AsType[*pflag.InvalidValueError](err)
		return mistaken(cmd, fmt.Errorf("--%s %w", invalid.GetFlag().Name, twice))
	}
	m := badValue.FindStringSubmatch(err.Error())
	switch {
	case m == nil:
		return mistaken(cmd, err)
	case strings.Contains(m[3], "ParseInt"):
		return mistaken(cmd, fmt.Errorf("invalid argument %s for %s: it is no whole number", m[1], m[2]))
	case strings.Contains(m[3], "ParseBool"):
		return mistaken(cmd, fmt.Errorf("invalid argument %s for %s: it is neither true nor false", m[1], m[2]))
	case strings.Contains(m[3], "duration"):
		return mistaken(cmd, fmt.Errorf("invalid argument %s for %s: it is no time such as 500ms or 2s", m[1], m[2]))
	}
	return mistaken(cmd, err)
}

// checked makes wrong arguments an error like any other.
func checked(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if args(cmd, list) == nil {
			return nil
		}
		name, takes, _ := strings.Cut(cmd.Use, " ")
		if takes == "" {
			takes = "no arguments"
		}
		return mistaken(cmd, fmt.Errorf("%s takes %s", name, takes))
	}
}

// group is the command without a sub-command: it lists them, and says which one is meant by a name
// that is none.
func group(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && args[0] == "help" {
		args = args[1:]
		if sub, _, err := cmd.Find(args); err == nil {
			return sub.Help()
		}
	}
	if len(args) == 0 {
		return cmd.Help()
	}
	cmd.SuggestionsMinimumDistance = 2
	text := fmt.Sprintf("there is no command %q", args[0])
	if list := cmd.SuggestionsFor(args[0]); len(list) > 0 {
		text += ", did you mean " + strings.Join(list, " or ") + "?"
	}
	return mistaken(cmd, errors.New(text))
}
