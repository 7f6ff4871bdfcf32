package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
)

// doctorCommand is the sub-command doctor.
func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Checks a set-up and says what to do about what is wrong with it",
		Long: `
Loads a configuration without running it, connects to PostgreSQL and to the Odoo
servers itself, and looks for everything that would keep jobs from running. It takes
no locks and changes nothing; the servers are asked for a job that does not exist, and
the Caddy that runs, if there is one, which databases another runner serves.

Exit statuses: 0 nothing is wrong, or there are only warnings; 1 the configuration
cannot be loaded; 3 something is wrong.`,
		Args: checked(cobra.NoArgs), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: run(func(cmd *cobra.Command, fl caddycmd.Flags, _ []string) (int, error) {
			caddy.BufferedLog() // keeps the loading of the configuration off the terminal
			raw, file, err := readConfig(fl.String("config"), fl.String("adapter"))
			if err != nil {
				return 1, err
			}
			subjects, cleanup, err := load(raw, fl.String("runner"))
			if err != nil {
				return 1, unexamined(err, file)
			}
			defer cleanup()
			if err := askRunning(cmd.Context(), fl, raw, file, subjects); err != nil {
				return 1, err
			}
			return report(newPrinter(cmd.OutOrStdout()), doctor.Settings(subjects), doctor.Examine(cmd.Context(), subjects), fl.Bool("json"))
		}),
	}
}

// runningTimeout bounds the questions to the Caddy that runs. Often there is none yet.
const runningTimeout = 5 * time.Second

// askRunning asks the Caddy that runs which databases another runner serves: PostgreSQL tells that a
// Caddy has the lock of one, and not which. Without an answer nothing is known, and of very many
// databases those are that one answer has.
func askRunning(ctx context.Context, fl caddycmd.Flags, raw []byte, file string, subjects []doctor.Subject) error {
	var cfg caddy.Config
	if fl.String("address") == "" && json.Unmarshal(raw, &cfg) == nil && cfg.Admin != nil && cfg.Admin.Disabled {
		return nil // another Caddy may answer at the default address
	}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), raw, file, fl.String("adapter"))
	if err != nil {
		return fmt.Errorf("finding the address of the admin API: %w", err)
	}
	client, err := api.NewClient(address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, runningTimeout)
	defer cancel()
	for i := range subjects {
		q := api.ListQuery{Runner: subjects[i].Config.Name, States: []string{"standby"}}
		doc, err := client.Databases(ctx, q)
		if err != nil {
			continue
		}
		for j := range doc.Databases {
			subjects[i].Standby = append(subjects[i].Standby, doc.Databases[j].Database)
		}
	}
	return nil
}

// unexamined adds to the reason why a configuration could not be loaded which one it was, and that
// Caddy's user may read what this one may not.
func unexamined(err error, file string) error {
	if strings.Contains(err.Error(), "permission denied") {
		return hint(err, "%s was examined: try it as the user that Caddy runs as, with sudo -u caddy", file)
	}
	return hint(err, "%s was examined", file)
}

// readConfig reads a configuration as Caddy does, which looks for a Caddyfile in the current folder
// if none is named. It says which file it was.
func readConfig(name, adapter string) (raw []byte, file string, err error) {
	raw, file, _, err = caddycmd.LoadConfig(name, adapter)
	switch {
	case err != nil:
		return nil, "", unloaded(err)
	case len(raw) == 0:
		return nil, "", hint(errors.New("there is no configuration: no Caddyfile is in the current folder"), "name one with --config")
	}
	return raw, file, nil
}

// loading is what Caddy says about its own way to a mistake in the configuration.
var loading = strings.NewReplacer("adapting config using caddyfile: ", "", "parsing caddyfile tokens for 'jobrunner': ", "",
	"loading jobrunner app module: ", "", "provision jobrunner: ", "", "validate jobrunner: ", "", "reading config from file: ", "")

// unloaded says why a configuration cannot be loaded.
func unloaded(err error) error {
	return errors.New("loading the configuration: " + loading.Replace(err.Error()))
}

// load loads a configuration without running it and returns its runners; all of them if name is empty.
// They can be used until cleanup is called.
func load(raw []byte, name string) (subjects []doctor.Subject, cleanup func(), err error) {
	var cfg *caddy.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, nil, fmt.Errorf("reading the configuration: %w", err)
	}
	cfg.Logging = silent()
	provisioned, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return nil, nil, unloaded(err)
	}
	app, err := provisioned.AppIfConfigured("jobrunner")
	if err != nil {
		return nil, nil, errors.New("there is no jobrunner in the configuration: the global options of the Caddyfile need a jobrunner block")
	}
	source, ok := app.(doctor.Source)
	if !ok {
		return nil, nil, fmt.Errorf("the jobrunner app is a %T", app)
	}
	cleanup = func() {
		if c, ok := app.(caddy.CleanerUpper); ok {
			_ = c.Cleanup() // the process ends
		}
	}
	subjects = source.Subjects()
	if name == "" {
		return subjects, cleanup, nil
	}
	subjects = slices.DeleteFunc(subjects, func(s doctor.Subject) bool { return s.Config.Name != name })
	if len(subjects) == 0 {
		cleanup()
		return nil, nil, fmt.Errorf("there is no runner %s in the configuration", name)
	}
	return subjects, cleanup, nil
}

// silent is a configuration of logs that writes nothing anywhere. The one of the
// file names log files of the Caddy that runs, and the doctor tells what it finds
// in its own words.
func silent() *caddy.Logging {
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}},
	}}
}

// report prints settings and findings, and returns the exit status.
func report(out *printer, settings []doctor.Setting, found []doctor.Finding, asJSON bool) (int, error) {
	status := 0
	if slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.Severity == doctor.Error }) {
		status = exitNotReady
	}
	for i := range found {
		found[i].Message = api.Plain(found[i].Message)
	}
	if asJSON {
		doc := map[string]any{"findings": found}
		if len(settings) > 0 {
			doc["settings"] = settings
		}
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetIndent("", "  ")
		if err := enc.Encode(doc); err != nil {
			return 1, fmt.Errorf("writing the findings: %w", err)
		}
		out.raw(text.Bytes())
	} else {
		printFindings(out, settings, found)
	}
	if err := out.flush(); err != nil {
		return 1, err
	}
	return status, nil
}

// printFindings prints what was examined, what was found, and how much of that is wrong.
func printFindings(out *printer, settings []doctor.Setting, found []doctor.Finding) {
	if len(settings) > 0 {
		t := out.table("RUNNER", "SETTING", "FROM", "VALUE")
		t.runsOn = true
		for _, s := range settings {
			t.row(s.Runner, s.Name, s.Source, s.Value)
		}
		t.print()
		out.line("")
	}
	count := make(map[doctor.Severity]int)
	for _, f := range found {
		count[f.Severity]++
		where := slices.DeleteFunc([]string{f.Runner, f.Database, f.Upstream}, func(s string) bool { return s == "" })
		out.line("%-8s%s: %s", f.Severity, strings.Join(where, ", "), strings.Join(strings.Fields(f.Message), " "))
	}
	if len(found) > 0 {
		out.line("summary: %s, %s, %d in order", plural(count[doctor.Error], "error"), plural(count[doctor.Warning], "warning"), count[doctor.OK])
	}
}

// plural writes "1 error" and "2 errors".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
