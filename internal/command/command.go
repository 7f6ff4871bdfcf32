// Package command is the sub-command jobrunner of caddy: it shows and controls the runners of a Caddy
// that runs, through the admin API, and examines a configuration (doctor).
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// Exit statuses of the commands beyond 0 (it went well) and 1 (it did not).
const (
	exitNotReady = 3 // the runner cannot do its work now
	exitDegraded = 5 // it does a part of it only
	exitNothing  = 4 // there is no such job or thing, or nothing was changed
)

// New returns the command. It has to be registered with [caddycmd.RegisterCommand] in an init function.
func New() caddycmd.Command {
	return caddycmd.Command{
		Name:  "jobrunner",
		Usage: "<command>",
		Short: "Shows and controls the job runners of a running Caddy",
		Long: `
Shows and controls the job runners of a Caddy that runs, through its admin API.

Exit statuses: 0 all went well; 1 it did not, for example because Caddy cannot be
reached; 3 the runner is not ready (status), or something is wrong (doctor); 4 there
is no such job, or nothing was changed; 5 the runner is degraded (status).`,
		CobraFunc: addCommands,
	}
}

// helpTemplate shows help without the footer of Caddy's own, which points to Caddy's documentation.
const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}
Documentation: docs/operations.md in https://github.com/caddy-jobrunner/caddy-jobrunner
`

func addCommands(cmd *cobra.Command) {
	cmd.RunE = group
	cmd.SetHelpTemplate(helpTemplate)
	cmd.SetFlagErrorFunc(badFlag)
	f := cmd.PersistentFlags()
	f.String("address", "", "Address of Caddy's admin API, if not the default or the one in the configuration")
	f.StringP("config", "c", "", "Configuration file: the doctor examines it, the others take the address from it")
	f.StringP("adapter", "a", "", "Name of the adapter of the configuration file")
	f.String("runner", "", "Name of the runner; needed for actions if there are several")
	f.Bool("json", false, "Print the answer as JSON")
	cmd.AddCommand(showCommands()...)
	cmd.AddCommand(whyCommand(), jobsCommand(), jobCommand(), eventsCommand(), topCommand(), historyCommand(), simulateCommand(), forecastCommand())
	cmd.AddCommand(controlCommands()...)
	cmd.AddCommand(changeCommands()...)
	cmd.AddCommand(doctorCommand())
	for _, sub := range cmd.Commands() {
		completeFlags(sub)
		describe(sub)
		onlyOnce(sub)
	}
	onlyOnce(cmd)
	_ = cmd.RegisterFlagCompletionFunc("runner", offer(runnerNames)) // fails only for a flag that does not exist
}

// sub makes a sub-command that asks the admin API. What f returns is the exit status.
func sub(use, short string, args cobra.PositionalArgs, f func(c *call) (int, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: checked(args), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: run(func(cmd *cobra.Command, fl caddycmd.Flags, args []string) (int, error) {
			c, err := newCall(cmd, fl, args)
			if err != nil {
				return 1, err
			}
			return c.exit(f(c))
		}),
	}
}

// call is one run of a sub-command.
type call struct {
	ctx    context.Context //nolint:containedctx // the life of the command
	flags  caddycmd.Flags
	args   []string
	runner string
	// api prints every answer as it came with --json; quiet does not.
	api, quiet *api.Client
	out        *printer
	// keys is where keys are read from.
	keys io.Reader
	now  func() time.Time
}

func newCall(cmd *cobra.Command, fl caddycmd.Flags, args []string) (*call, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("finding the address of the admin API: %w", err)
	}
	if err := adminOff(fl); err != nil {
		return nil, err
	}
	c := &call{ctx: cmd.Context(), flags: fl, args: args, runner: fl.String("runner"), out: newPrinter(cmd.OutOrStdout()), keys: cmd.InOrStdin(), now: time.Now}
	if c.wide() {
		c.out.width = 0
	}
	if c.api, err = api.NewClient(address); err != nil {
		return nil, err
	}
	if c.quiet, err = api.NewClient(address); err != nil {
		return nil, err
	}
	if c.json() {
		c.api.OnAnswer = c.out.raw
	}
	return c, nil
}

// adminOff says that the configuration that is to name the admin API switches it off: Caddy would use
// the default address, where another Caddy may answer.
func adminOff(fl caddycmd.Flags) error {
	if fl.String("address") != "" || fl.String("config") == "" {
		return nil
	}
	raw, file, err := readConfig(fl.String("config"), fl.String("adapter"))
	if err != nil {
		return err
	}
	var cfg struct {
		Admin struct {
			Disabled bool `json:"disabled"`
		} `json:"admin"`
	}
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if cfg.Admin.Disabled {
		return hint(fmt.Errorf("%s switches Caddy's admin API off (admin off), and this command asks it", file),
			"remove admin off, or give it a socket: admin unix//run/caddy/admin.sock")
	}
	return nil
}

func (c *call) json() bool { return c.flags.Bool("json") }

// exit writes what has been collected. It turns an answer that there is no such thing, or that it
// cannot be changed, into the exit status for that.
func (c *call) exit(code int, err error) (int, error) {
	var refused *api.Error
	switch {
	case errors.As(err, &refused) && (refused.Status == http.StatusNotFound || refused.Status == http.StatusConflict):
		code = exitNothing
	case err != nil:
		code = 1
	}
	if failed := c.out.flush(); failed != nil && err == nil {
		return 1, failed
	}
	return code, err
}

// wideFlag adds the flag by which each row is one line.
func wideFlag(cmd *cobra.Command) {
	cmd.Flags().Bool("wide", false, "Show each row in one line, with its runner, however wide that is")
}

// wide reports whether each row is to be one line.
func (c *call) wide() bool { return c.flags.Lookup("wide") != nil && c.flags.Bool("wide") }

// warn prints what an answer warns of, if it does.
func (c *call) warn(warning string) {
	if warning != "" {
		c.out.line("%s", warning)
	}
}

// text returns the value of a flag, empty for one that the sub-command does not have.
func (c *call) text(flag string) string {
	if fl := c.flags.Lookup(flag); fl != nil {
		return fl.Value.String()
	}
	return ""
}

// actor is the part of a request that all actions have.
func (c *call) actor() api.Actor {
	by := c.text("by")
	if by == "" {
		by = myself()
	}
	return api.Actor{Runner: c.runner, By: by, Note: c.text("note")}
}

// myself names the user for the API.
func myself() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil && name != "" {
		name += "@" + host
	}
	return name
}

// stateNames are the states of jobs, for completion.
func stateNames() []string {
	var names []string
	for s := channels.WaitDependencies; s <= channels.Failed; s++ {
		names = append(names, s.String())
	}
	return names
}
