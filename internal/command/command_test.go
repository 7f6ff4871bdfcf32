package command

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddytest"
)

func TestMain(m *testing.M) {
	os.Exit(caddytest.Main(m))
}

// TestExit: answers of the API become exit statuses by their status, not by their words.
func TestExit(t *testing.T) {
	for name, c := range map[string]struct {
		code int
		err  error
		want int
	}{
		"all went well":    {0, nil, 0},
		"not ready":        {exitNotReady, nil, exitNotReady},
		"nothing changed":  {exitNothing, nil, exitNothing},
		"no such job":      {1, fmt.Errorf("wrapped: %w", &api.Error{Status: http.StatusNotFound}), exitNothing},
		"cannot be undone": {1, &api.Error{Status: http.StatusConflict}, exitNothing},
		"a mistake":        {1, &api.Error{Status: http.StatusBadRequest, Message: "HTTP 404: x"}, 1},
		"no answer":        {0, errors.New("connection refused"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			cmd := &call{out: newPrinter(&out)}
			cmd.out.line("x")
			code, err := cmd.exit(c.code, c.err)
			require.Equal(t, c.want, code)
			require.Equal(t, c.err, err)
			require.Equal(t, "x\n", out.String())
		})
	}
}

// TestTable: what a terminal is too narrow for is below its row, nothing is cut, and what comes from
// elsewhere cannot control it.
func TestTable(t *testing.T) {
	var out bytes.Buffer
	p := newPrinter(&out)
	fill := func() {
		tab := p.table("DATABASE", "DETAIL")
		tab.row("prod", "\x1b[2J a text that is longer than the terminal is wide")
		tab.row("ü", "")
		tab.print()
		require.NoError(t, p.flush())
	}
	fill()
	require.Equal(t, "DATABASE  DETAIL\nprod      �[2J a text that is longer than the terminal is wide\nü\n", out.String())
	out.Reset()
	p.width = 24
	fill()
	require.Equal(t, "DATABASE\nprod\n  DETAIL �[2J a text that is longer than the terminal is wide\nü\n", out.String())
	out.Reset()
	p.colour = true
	p.line("x\r\n\x07")
	require.NoError(t, p.flush())
	require.Equal(t, "x���\n", out.String())
}

// TestNarrowTable: no line is wider than the terminal where its cells are not, each row keeps what it
// has, and empty cells take no room.
func TestNarrowTable(t *testing.T) {
	const uuid = "3f2a9b54-6c1e-4d0c-9a7e-5b8f0f6f2a11"
	var out bytes.Buffer
	p := newPrinter(&out)
	for width, want := range map[int]string{
		85: "UUID                                  STATE  CHANNEL     METHOD     RETRY  SERVER\n" +
			uuid + "  done   root.mails  mail.send  1/5    http://a:1\n" + uuid + "  done\n",
		84: "UUID                                  STATE  CHANNEL     METHOD     RETRY\n" +
			uuid + "  done   root.mails  mail.send  1/5\n  SERVER http://a:1\n" + uuid + "  done\n",
		44: "UUID                                  STATE\n" +
			uuid + "  done\n  CHANNEL root.mails  METHOD mail.send\n  RETRY 1/5  SERVER http://a:1\n" + uuid + "  done\n",
		20: "UUID\n" + uuid + "\n  STATE done\n  CHANNEL root.mails\n  METHOD mail.send\n  RETRY 1/5\n  SERVER http://a:1\n" +
			uuid + "\n  STATE done\n",
	} {
		out.Reset()
		p.width = width
		tab := p.table("UUID", "STATE", "CHANNEL", "METHOD", "RETRY", "SERVER")
		tab.row(uuid, "done", "root.mails", "mail.send", "1/5", "http://a:1")
		tab.row(uuid, "done", "", "", "", "")
		tab.print()
		require.NoError(t, p.flush())
		require.Equal(t, want, out.String(), width)
	}
}

// TestReport: an error among the findings is the exit status 3, and anything less is 0.
func TestReport(t *testing.T) {
	found := []doctor.Finding{
		{Severity: doctor.OK, Code: "postgres", Check: "postgres", Runner: "default", Message: "it answers"},
		{Severity: doctor.Warning, Code: "rival", Check: "rival", Runner: "default", Database: "prod", Message: "a \x1b"},
	}
	var out bytes.Buffer
	code, err := report(newPrinter(&out), []doctor.Setting{{Runner: "default", Name: "channels", Value: "root:1", Source: "default"}}, found, false)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Equal(t, "RUNNER   SETTING   FROM     VALUE\ndefault  channels  default  root:1\n\nok      default: it answers\nwarning default, prod: a �\nsummary: 0 errors, 1 warning, 1 in order\n", out.String())

	out.Reset()
	found = append(found, doctor.Finding{Severity: doctor.Error, Upstream: "http://a:1"})
	code, err = report(newPrinter(&out), nil, found[2:], true)
	require.NoError(t, err)
	require.Equal(t, exitNotReady, code)
	require.JSONEq(t, `{"findings": [{"severity": "error", "code": "", "check": "", "runner": "", "upstream": "http://a:1", "message": ""}]}`, out.String())
}

// fakeApp takes the place of the jobrunner app.
type fakeApp struct {
	Names []string `json:"names"`
}

// cleaned counts the apps that were cleaned up.
var cleaned int

func init() {
	caddy.RegisterModule(fakeApp{})
}

func (fakeApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "jobrunner", New: func() caddy.Module { return new(fakeApp) }}
}

func (*fakeApp) Start() error { return nil }
func (*fakeApp) Stop() error  { return nil }
func (*fakeApp) Cleanup() error {
	cleaned++
	return nil
}

func (f *fakeApp) Subjects() (all []doctor.Subject) {
	for _, name := range f.Names {
		all = append(all, doctor.Subject{Config: runner.Config{Name: name}})
	}
	return all
}

// TestLoad: the doctor examines all runners of a configuration, or the one that is named.
func TestLoad(t *testing.T) {
	for name, c := range map[string]struct {
		config, runner string
		want           []string
		fails          string
	}{
		"all":            {`{"apps": {"jobrunner": {"names": ["a", "b"]}}}`, "", []string{"a", "b"}, ""},
		"one":            {`{"apps": {"jobrunner": {"names": ["a", "b"]}}}`, "b", []string{"b"}, ""},
		"another":        {`{"apps": {"jobrunner": {"names": ["a", "b"]}}}`, "c", nil, "there is no runner c"},
		"no app":         {`{}`, "", nil, "there is no jobrunner in the configuration"},
		"a mistake":      {`{"apps": {"jobrunner": {"names": 1}}}`, "", nil, "loading the configuration"},
		"something else": {`x`, "", nil, "reading the configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			cleaned = 0
			subjects, cleanup, err := load([]byte(c.config), c.runner)
			var names []string
			for _, s := range subjects {
				names = append(names, s.Config.Name)
			}
			require.Equal(t, c.want, names)
			if c.fails != "" {
				require.ErrorContains(t, err, c.fails)
				return
			}
			require.NoError(t, err)
			require.Zero(t, cleaned)
			cleanup()
			require.Equal(t, 1, cleaned)
		})
	}
}

// TestSeconds: an age is as exact as people want it, and no digit of it gets lost.
func TestSeconds(t *testing.T) {
	for want, age := range map[string]float64{
		"0s": 0, "4.2s": 4.21, "13s": 12.6, "1m": 59.99, "10m10s": 610, "12m": 720, "59m59s": 3599, "1h": 3600, "5h3m": 5*3600 + 185, "47h59m": 172799, "2d": 172800, "3d4h": 273600,
	} {
		require.Equal(t, want, seconds(&age))
	}
	require.Equal(t, "-", seconds(nil))
	for want, time := range map[string]float64{"0s": 0, "<1ms": .0004, "1ms": .0006, "340ms": .34, "1s": .9996, "4.2s": 4.21, "10m10s": 610} {
		require.Equal(t, want, lasted(&time))
	}
	require.Equal(t, "-", lasted(nil))
}

// TestHelp: every command says what its words mean, with examples that it accepts, and points to
// where more is said of this project.
func TestHelp(t *testing.T) {
	root := &cobra.Command{Use: "jobrunner"}
	addCommands(root)
	for _, cmd := range root.Commands() {
		require.Contains(t, helps, cmd.Name())
		for _, example := range helps[cmd.Name()].examples {
			root := &cobra.Command{Use: "jobrunner"} // a flag is given once
			addCommands(root)
			words := strings.Split(example, `"`)
			var args []string
			for i, part := range words {
				if i%2 == 1 {
					args = append(args, part)
				} else {
					args = append(args, strings.Fields(part)...)
				}
			}
			found, rest, err := root.Find(args)
			require.NoError(t, err, example)
			require.Equal(t, cmd.Name(), found.Name())
			require.NoError(t, found.ParseFlags(rest), example)
			require.NoError(t, found.Args(found, found.Flags().Args()), example)
		}
		var out bytes.Buffer
		cmd.SetOut(&out)
		require.NoError(t, cmd.Help())
		require.Contains(t, out.String(), "Examples:\n  caddy jobrunner "+cmd.Name())
		require.Contains(t, out.String(), "https://github.com/caddy-jobrunner/caddy-jobrunner")
		require.NotContains(t, out.String(), "caddyserver.com")
		for line := range strings.Lines(helps[cmd.Name()].long) {
			require.LessOrEqual(t, len(line), 88, line)
		}
	}
	for _, state := range stateNames() {
		require.Contains(t, stateWords, state)
	}
	for s := runner.DatabaseConnecting; s <= runner.DatabaseNeutralized; s++ {
		require.Contains(t, helps["databases"].long, s.String())
	}
	var out bytes.Buffer
	root = &cobra.Command{Use: "jobrunner"}
	addCommands(root)
	root.SetOut(&out)
	root.SetErr(&out)
	require.NoError(t, group(root, []string{"help", "why"}))
	require.Contains(t, out.String(), "first letters")
	require.ErrorIs(t, group(root, []string{"stauts"}), errSaid)
	require.Contains(t, out.String(), `error: there is no command "stauts", did you mean status?`)
}

// TestSeveralRunners: where there are several, each line says of which it is; where there is one, only
// with --wide.
func TestSeveralRunners(t *testing.T) {
	answers := func(runners ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			path := strings.TrimPrefix(r.URL.Path, "/jobrunner/")
			var list []string
			for _, name := range runners {
				list = append(list, fmt.Sprintf(`{"runner": %q, "database": "d", "channel": "root", "upstream": "http://a:1", "uuid": "3f2a9b54"}`, name))
			}
			_, _ = fmt.Fprintf(w, `{%q: [%s]}`, path, strings.Join(list, ", "))
		}
	}
	one, two := httptest.NewServer(answers("default")), httptest.NewServer(answers("default", "other"))
	defer one.Close()
	defer two.Close()
	for _, name := range []string{"databases", "channels", "upstreams", "tasks", "jobs"} {
		out := transcript(t, two.Listener.Addr().String(), 0, []string{name})
		require.Regexp(t, `(?s)^RUNNER .*\ndefault .*\nother `, out)
		require.NotContains(t, transcript(t, one.Listener.Addr().String(), 0, []string{name}), "RUNNER")
		require.Contains(t, transcript(t, one.Listener.Addr().String(), 0, []string{name, "--wide"}), "RUNNER")
	}
}

// TestTasksWithLimits: how far jobs are with their time limits is shown where there are limits.
func TestTasksWithLimits(t *testing.T) {
	answer := func(timeouts ...string) string {
		var list []string
		for _, timeout := range timeouts {
			list = append(list, `{"uuid": "3f2a9b54", "database": "d"`+timeout+`}`)
		}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"tasks": [%s]}`, strings.Join(list, ", "))
		}))
		defer s.Close()
		return transcript(t, s.Listener.Addr().String(), 0, []string{"tasks"})
	}
	require.NotContains(t, answer("", ""), "LIMIT")
	out := answer("", `, "timeout": {"after_seconds": 900}`, `, "timeout": {"after_seconds": 900, "stage": "stuck", "text": "why"}`)
	require.Regexp(t, `(?s)^UUID +AGE +LIMIT +PHASE .*\n3f2a9b54 +- +d\n3f2a9b54 +- +15m +d\n3f2a9b54 +- +stuck +d\n`, out)
}

// TestChannelsWithRates: when a rate that jobs wait for lets the next one start is told, at any width, and
// nothing of a rate that keeps none waiting.
func TestChannelsWithRates(t *testing.T) {
	channel := func(v string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"channels": [{"runner": "default", "channel": "root.slow", %s}]}`, v)
		}))
		defer s.Close()
		return transcript(t, s.Listener.Addr().String(), 40, []string{"channels"})
	}
	const next, none = `"next": "2100-01-02T03:04:05Z"`, "the next job"
	used := `"rate": {"line": "1/d", "available": 0, ` + next + `}`
	require.Regexp(t, `\nroot\.slow: rate 1/d is used up, and the next job starts not before 2100-01-02T03:04:05Z \(in \d+d`, channel(`"queued": 1, `+used))
	require.NotContains(t, channel(used), none, "nothing waits")
	require.NotContains(t, channel(`"queued": 1, "rate": {"line": "1/d", "available": 1, `+next+`}`), none)
	require.NotContains(t, channel(`"queued": 1, "rate": {"line": "1/d", "available": 0}`), none, "it is not known")
	const waits = `"database": "prod", "rate_waits": 2, "rate_next": "2100-01-02T03:04:05Z"`
	require.Contains(t, channel(waits), "\nprod, root.slow: the rates of databases are used up, and the next job starts not before 2100-01-02T03:04:05Z")
	require.NotContains(t, channel(`"rate_waits": 2`), none)
}

// TestManyPauses: a thousand pauses do not hide what the runner does.
func TestManyPauses(t *testing.T) {
	var out bytes.Buffer
	c := &call{out: newPrinter(&out), now: time.Now}
	v := api.Status{Runner: "default", Warnings: []string{"everything is paused"}, Pauses: []api.Pause{{Scope: "all"}}}
	for i := range 1000 {
		v.Pauses = append(v.Pauses, api.Pause{Scope: "channel", Channel: fmt.Sprintf("root.c%d", i)})
	}
	c.orders(&v)
	require.NoError(t, c.out.flush())
	require.Equal(t, ordersShown+1, strings.Count(out.String(), "\n"))
	require.NotContains(t, out.String(), "everything")
	require.Contains(t, out.String(), "default: channel root.c19 is paused; to end that: caddy jobrunner resume --channel root.c19\ndefault: 980 more like these, --json lists all\n")
}

// TestAdminOff: a configuration without an admin API is no reason to ask whoever answers at the default
// address.
func TestAdminOff(t *testing.T) {
	dir := t.TempDir()
	ask := func(text string, args ...string) error {
		file := filepath.Join(dir, "caddy.json")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		cmd := &cobra.Command{}
		for _, name := range []string{"address", "config", "adapter"} {
			cmd.Flags().String(name, "", "")
		}
		require.NoError(t, cmd.ParseFlags(append(args, "--config", file)))
		return adminOff(caddycmd.Flags{FlagSet: cmd.Flags()})
	}
	err := ask(`{"admin": {"disabled": true}}`)
	require.ErrorContains(t, err, "switches Caddy's admin API off (admin off)")
	var b bytes.Buffer
	complain(&b, err)
	require.Contains(t, b.String(), "give it a socket")
	require.NoError(t, ask(`{"admin": {"listen": "localhost:2020"}}`))
	require.NoError(t, ask(`{"apps": {}}`))
	require.NoError(t, ask(`{"admin": {"disabled": true}}`, "--address", "localhost:2019"), "another Caddy is asked")
	require.Error(t, ask(`{`))
}

// TestAddress: the address of the admin API may be copied from a browser, and what cannot be one is
// refused with how to write it, by each command.
func TestAddress(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"databases": [{"runner": "default", "database": "prod"}]}`)
	}))
	defer srv.Close()
	host := srv.Listener.Addr().String()
	for _, address := range []string{host, "http://" + host, "http://" + host + "/"} {
		require.Contains(t, transcript(t, address, 0, []string{"databases"}), "prod", address)
	}
	config := filepath.Join(t.TempDir(), "caddy.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"apps": {"jobrunner": {"names": ["a"]}}}`), 0o600))
	for address, says := range map[string]string{
		"https://" + host:            "write it as host:port\n",
		"http://" + host + "/config": "write it as host:port, without a path\n",
	} {
		for _, args := range [][]string{{"status"}, {"events"}, {"pause", "--all"}, {"doctor", "--config", config}} {
			require.Equal(t, "error: the address "+address+" of the admin API: "+says+"exit status 1\n", transcript(t, address, 0, args))
		}
	}
}

// TestFlagTwice: of two values for a flag that takes one, none is dropped without a word.
func TestFlagTwice(t *testing.T) {
	var asked string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.RequestURI()
		_, _ = fmt.Fprint(w, `{"changed": 1}`)
	}))
	defer srv.Close()
	host := srv.Listener.Addr().String()
	for args, says := range map[string]string{
		"pause --channel root.mail --channel root": `--channel is given twice, as "root.mail" and "root", and takes one value; see caddy jobrunner pause --help`,
		"resume --database a --database=b":         `--database is given twice, as "a" and "b", and takes one value; see caddy jobrunner resume --help`,
		"requeue --limit 3 --limit 4 --all":        `--limit is given twice, as "3" and "4", and takes one value; see caddy jobrunner requeue --help`,
		"status --runner a --runner b":             `--runner is given twice, as "a" and "b", and takes one value; see caddy jobrunner status --help`,
		"requeue --all -n --dry-run=false":         `--dry-run is given twice, as "true" and "false", and takes one value; see caddy jobrunner requeue --help`,
		"requeue --limit 3 --limit x --all":        `invalid argument "x" for --limit: it is no whole number; see caddy jobrunner requeue --help`,
	} {
		asked = ""
		require.Equal(t, "error: "+says+"\nexit status 1\n", transcript(t, host, 0, strings.Fields(args)))
		require.Empty(t, asked)
	}
	for _, args := range []string{
		"pause --channel root --channel root", "requeue --state failed --state done --state cancelled", "cancel --all --all",
		"history --from 24h --by channel", "databases --state ready --state held",
	} {
		asked = ""
		require.NotContains(t, transcript(t, host, 0, strings.Fields(args)), "twice", args)
		require.NotEmpty(t, asked, args)
	}
}
