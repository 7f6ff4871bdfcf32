package jobrunner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"regexp"
	"strconv"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// Exit statuses of the commands beyond 0 (it went well) and 1 (it did not).
const (
	exitNotReady = 3 // the runner cannot do its work now
	exitNothing  = 4 // there is no such job or thing, or nothing was changed
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "jobrunner",
		Usage: "<command>",
		Short: "Shows and controls the job runners of a running Caddy",
		Long: `
Shows and controls the job runners of a Caddy that runs, through its admin API.

Exit statuses: 0 all went well; 1 it did not, for example because Caddy cannot be
reached; 3 the runner is not ready (status); 4 there is no such job, or nothing was
changed.`,
		CobraFunc: jobrunnerCommand,
	})
}

func jobrunnerCommand(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.String("address", "", "Address of Caddy's admin API, if not the default or the one in the configuration")
	f.StringP("config", "c", "", "Configuration file: the doctor examines it, the others take the address from it")
	f.StringP("adapter", "a", "", "Name of the adapter of the configuration file")
	f.String("runner", "", "Name of the runner; needed for actions if there are several")
	f.Bool("json", false, "Print the answer as JSON")
	cmd.AddCommand(showCommands()...)
	cmd.AddCommand(whyCommand(), jobsCommand(), eventsCommand())
	cmd.AddCommand(controlCommands()...)
	cmd.AddCommand(changeCommands()...)
	cmd.AddCommand(doctorCommand())
}

// sub makes a sub-command. What f returns is the exit status.
func sub(use, short string, args cobra.PositionalArgs, f func(c *client) (int, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
				c, err := newClient(cmd, fl, args)
				if err != nil {
					return 1, err
				}
				return f(c)
			})(cmd, args)
		},
	}
}

// client is one run of a sub-command.
type client struct {
	flags   caddycmd.Flags
	args    []string
	address string
	out     *printer
}

func newClient(cmd *cobra.Command, fl caddycmd.Flags, args []string) (*client, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("finding the address of the admin API: %w", err)
	}
	return &client{flags: fl, args: args, address: address, out: newPrinter(cmd.OutOrStdout())}, nil
}

func (c *client) json() bool { return c.flags.Bool("json") }

// refusal is an answer of the API that is an error.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

var refusals = regexp.MustCompile(`(?s)HTTP (\d+): (.*)`)

// refused finds the API's answer in an error of Caddy's client.
func refused(err error) error {
	found := refusals.FindStringSubmatch(err.Error())
	if found == nil {
		return err
	}
	status, convErr := strconv.Atoi(found[1])
	if convErr != nil {
		return err
	}
	var body struct {
		Error    string   `json:"error"`
		Problems []string `json:"problems"`
	}
	message := strings.TrimSpace(found[2])
	if json.Unmarshal([]byte(message), &body) == nil && body.Error != "" {
		message = body.Error
	}
	if status == http.StatusNotFound && strings.HasPrefix(message, "404 ") {
		message = "this Caddy has no jobrunner module"
	}
	return &refusal{status, message}
}

// open sends a request and returns the answer's body.
func (c *client) open(method, path string, q url.Values, body any) (io.ReadCloser, error) {
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(raw)
	}
	uri := "/jobrunner/" + path
	if len(q) > 0 {
		uri += "?" + q.Encode()
	}
	res, err := caddycmd.AdminAPIRequest(c.address, method, uri, nil, reader)
	if err != nil {
		return nil, refused(err)
	}
	return res.Body, nil
}

// call sends a request and decodes the answer, or prints it if that is wanted.
func (c *client) call(method, path string, q url.Values, body, into any) (printed bool, err error) {
	res, err := c.open(method, path, q, body)
	if err != nil {
		return false, err
	}
	defer res.Close()
	raw, err := io.ReadAll(res)
	if err != nil {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	if c.json() {
		c.out.raw(raw)
		return true, nil
	}
	return false, nil
}

// query returns the parameters that every question has.
func (c *client) query() url.Values {
	q := url.Values{}
	if name := c.flags.String("runner"); name != "" {
		q.Set("runner", name)
	}
	return q
}

// exit turns a refusal into an exit status.
func exit(err error) (int, error) {
	var r *refusal
	if errors.As(err, &r) && (r.status == http.StatusNotFound || r.status == http.StatusConflict) {
		return exitNothing, err
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
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

// action is the body of every action.
func (c *client) action() map[string]any {
	body := map[string]any{"by": myself()}
	for _, name := range []string{"runner", "note", "by"} {
		if fl := c.flags.Lookup(name); fl != nil && fl.Value.String() != "" {
			body[name] = fl.Value.String()
		}
	}
	return body
}

// stateNames are the states of jobs, for completion.
func stateNames() []string {
	var names []string
	for s := channels.WaitDependencies; s <= channels.Failed; s++ {
		names = append(names, s.String())
	}
	return names
}
