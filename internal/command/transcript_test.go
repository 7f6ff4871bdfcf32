package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// refused is what the driver of PostgreSQL says when it cannot connect.
const refused = "connect to postgres: connection lost: failed to connect to `user=odoo database=postgres`:\n" +
	"\t10.0.0.9:5432 (db): dial error: dial tcp 10.0.0.9:5432: connect: connection refused\n" +
	"\t10.0.0.9:5432 (db): dial error: dial tcp 10.0.0.9:5432: connect: connection refused"

// The jobs of every scene: one that runs, one that failed, and one that waits.
const (
	running = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed"
	failed  = "3f2a9b54-6c1e-4d0c-9a7e-5b8f0f6f2a11"
	pending = "3f2b0d1c-77aa-4c1b-9d53-6f2f1c0a7e11"
)

// scene is a runner in some state.
type scene struct {
	fakerunner.Engine
	// why is what it says of the job that waits.
	why string
	// down is why no database can be asked.
	down error
}

func (s *scene) Tasks(context.Context) ([]runner.TaskStatus, error) {
	if s.Says.Open == 0 {
		return nil, nil
	}
	return []runner.TaskStatus{{
		Key: channels.Key{DB: "prod", UUID: running}, Phase: "open", Channel: "root.mail", Model: "mail.mail", Method: "send",
		Upstream: "http://10.0.0.5:8069", Since: time.Now().Add(-610 * time.Second),
	}}, nil
}

func (s *scene) Jobs(_ context.Context, q runner.JobQuery) (p runner.JobPage, err error) {
	if s.down != nil {
		for _, name := range []string{"a", "b", "c", "d"} {
			p.Problems = append(p.Problems, name+": "+s.down.Error())
		}
		return p, nil
	}
	for i, uuid := range []string{failed, pending} {
		d := driver.Detail{
			Row: driver.Row{
				Job: channels.Job{Key: channels.Key{DB: "prod", UUID: uuid}, Channel: "root.mail", Created: time.Now().Add(-time.Duration(i+1) * 26 * time.Hour).UnixMicro()}, Retry: 1,
				RawState: []string{"failed", "pending"}[i], State: []channels.State{channels.Failed, channels.Pending}[i],
			},
			Model: "mail.mail", Method: "send", MaxRetries: 5, Exception: []string{"odoo.exceptions.ValidationError\x1b[2J", ""}[i],
		}
		if strings.HasPrefix(uuid, q.Prefix) && (len(q.UUIDs) == 0 || slices.Contains(q.UUIDs, uuid)) && (len(q.States) == 0 || slices.Contains(q.States, d.State)) {
			p.Jobs = append(p.Jobs, d)
		}
	}
	if len(p.Jobs) > q.Limit {
		p.Jobs, p.Next = p.Jobs[:q.Limit], "MSBwcm9k"
	}
	return p, nil
}

// Job adds a record to what Why says.
func (s *scene) Job(ctx context.Context, key channels.Key) (runner.Why, error) {
	w, err := s.Why(ctx, key)
	if w.Detail != nil {
		hour := time.Now().Add(-time.Hour)
		w.Record = &driver.Record{
			Detail: *w.Detail, Message: "no address\n\x1b[2Jat all", Ran: 1500 * time.Millisecond, Worker: 4711, Page: "https://odoo.example.com/web?db=prod#id=7", Company: 1, User: 2, Graph: "g-1",
			Relatives: []driver.Relative{{UUID: running, State: "done", Model: "mail.mail", Method: "prepare"}, {UUID: "gone", Child: true}}, MoreRelatives: 3,
			Payload: &driver.Payload{
				Arguments: driver.Text{Text: `["a\u0041"]`, Bytes: 11}, Traceback: driver.Text{Text: "Traceback:\n  line\u202e 7\n", Bytes: 1 << 20},
			},
		}
		w.Record.Started = hour
	}
	return w, err
}

func (s *scene) Why(ctx context.Context, key channels.Key) (runner.Why, error) {
	page, err := s.Jobs(ctx, runner.JobQuery{Filter: driver.Filter{UUIDs: []string{key.UUID}}, Limit: 1})
	w := runner.Why{Key: key, Code: "behind", Text: s.why}
	switch {
	case len(page.Problems) > 0:
		w.Found, w.Problem = true, page.Problems[0]
	case len(page.Jobs) == 0:
		w.Code, w.Text = runner.WhyUnknownJob, "there is no job "+key.UUID+" in database "+key.DB
	default:
		w.Found, w.Detail = true, &page.Jobs[0]
	}
	return w, err
}

func (s *scene) Change(ctx context.Context, c runner.JobChange) (r runner.ChangeResult, err error) {
	page, err := s.Jobs(ctx, runner.JobQuery{Filter: c.Filter, Limit: 100})
	for i := range page.Jobs {
		if c.Action.Permits(page.Jobs[i].State) {
			r.Jobs = append(r.Jobs, page.Jobs[i].Key)
		}
	}
	r.Changed, r.Problems = len(r.Jobs), page.Problems
	return r, err
}

func (s *scene) Resync(context.Context, string) (int, error) { return len(s.Says.Databases), nil }

// scenes are runners in good and bad states, at one moment.
func scenes(now time.Time) map[string]*scene {
	fresh := func(name string, state runner.DatabaseState) runner.DatabaseStatus {
		return runner.DatabaseStatus{Name: name, State: state, Connected: now.Add(-time.Hour), Heard: now}
	}
	up := []runner.UpstreamStatus{{Name: "http://10.0.0.5:8069", Up: true, InFlight: 1}}
	good := runner.Status{
		Leader: true, LeaderKnown: true, Open: 1, Databases: []runner.DatabaseStatus{fresh("prod", runner.DatabaseReady)}, Upstreams: up,
		Channels: []runner.ChannelStatus{{Status: channels.Status{FullName: "root", Configured: true, Capacity: 4, Running: 1}}},
		Counts:   []channels.Count{{DB: "prod", Channel: "root", Started: 1}},
	}
	held := good
	held.Databases = []runner.DatabaseStatus{fresh("prod", runner.DatabaseHeld)}
	held.Databases[0].Detail, held.Databases[0].Pending = "the last requests ended without their jobs having been run", 12
	held.Counts = []channels.Count{{DB: "prod", Channel: "root", Pending: 12}}
	part := good
	part.Databases = append([]runner.DatabaseStatus{{Name: "lost", State: runner.DatabaseUnreachable, Detail: strings.ReplaceAll(refused, "postgres", "lost"), JobsUnknown: true}}, good.Databases...)
	down := good
	down.Upstreams = []runner.UpstreamStatus{{Name: "http://10.0.0.5:8069", Reason: "connection refused"}}
	paused := good
	paused.Controls = runner.Controls{Pauses: []runner.Pause{{Since: now.Add(-time.Hour), By: `"ana" (127.0.0.1:9)`, Note: "upgrade"}}}
	many := good
	many.Databases = nil
	for i := range 300 {
		many.Databases = append(many.Databases, fresh(fmt.Sprintf("customer%03d", i), runner.DatabaseReady))
	}
	full := good
	full.Upstreams = []runner.UpstreamStatus{{Name: "http://10.0.0.5:8069", Up: true, InFlight: 5, Limits: upstream.Limits{Workers: 8, MaxJobs: 5, Reserve: 2}, Full: "5 of at most 5 jobs"}}
	idle := []runner.ChannelStatus{{Status: channels.Status{FullName: "root", Configured: true, Capacity: 4}}}
	as := func(st runner.Status, why string) *scene {
		return &scene{Engine: fakerunner.Engine{Says: st}, why: why}
	}
	lost := as(runner.Status{LeaderDetail: refused, Upstreams: up}, "no process leads the runner: "+refused)
	lost.down = errors.New(refused)
	return map[string]*scene{
		"good":            as(good, "channel root.mail is full: 2 of 2 slots are taken"),
		"held":            as(held, "database prod is held: the last requests ended without their jobs having been run"),
		"one of two lost": as(part, "3 jobs go before it in channel root.mail"),
		"no server":       as(down, "no Odoo server is healthy: http://10.0.0.5:8069: connection refused"),
		"full server":     as(full, "no Odoo server takes another job now: http://10.0.0.5:8069: 5 of at most 5 jobs"),
		"paused":          as(paused, `everything is paused by "ana" (127.0.0.1:9) since 1999-12-31T23:00:00Z (upgrade)`),
		"300 databases":   as(many, "3 jobs go before it in channel root.mail"),
		"no database":     as(runner.Status{Leader: true, LeaderKnown: true, Upstreams: up}, "database prod is not among those that this runner serves"),
		"PostgreSQL down": lost,
		"stand-by": as(runner.Status{LeaderKnown: true, LeaderDetail: "process 77 from 10.0.0.2, application caddy-jobrunner", Upstreams: up, Channels: idle},
			"this process does not lead the runner, process 77 from 10.0.0.2, application caddy-jobrunner does: ask there"),
	}
}

// shown are the commands of a transcript.
var shown = [][]string{
	{"status"}, {"databases", "--limit", "5"}, {"channels"}, {"upstreams"}, {"tasks"}, {"jobs"}, {"jobs", "--state", "failed", "--limit", "1", "--wide"},
	{"why", "3f2b"}, {"why", "prod", pending}, {"why", "3f2"}, {"why", "prod", "ffff"}, {"job", "3f2a"}, {"job", "prod", "ffff"},
	{"pause", "--channel", "mail", "--for", "30m", "--by", "ana", "--note", "lunch"}, {"status"}, {"resume", "--channel", "mail"}, {"resume", "--channel", "mail"},
	{"drain", "10.0.0.5:8069", "--by", "ana"}, {"status"}, {"upstreams"}, {"undrain", "10.0.0.5:8069"}, {"drain", "http://nowhere:1"},
	{"requeue", "--database", "prod", "3f2a"}, {"cancel", "--state", "failed", "--dry-run"}, {"set-done"}, {"postpone", "--state", "pending", "--for", "2h"},
	{"postpone", "--all", "--for", "soon"}, {"resync"}, {"top", "--once"}, {"top", "--json"}, {"top", "--interval", "1ms"}, {"jobs", "--state", "sleeping"}, {"jobs", "--limit", "many"}, {"status", "now"},
}

// adminServer answers as Caddy's admin endpoint does, to anyone.
func adminServer(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	for _, route := range (admin.API{}).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			r.RemoteAddr = "127.0.0.1:9"
			var refused caddy.APIError
			if err := route.Handler.ServeHTTP(w, r); errors.As(err, &refused) {
				w.WriteHeader(refused.HTTPStatus)
				_, _ = fmt.Fprintf(w, `{"error":%q}`, refused.Message)
			}
		})
	}
	return httptest.NewServer(mux)
}

// TestTranscripts: what people see, at the widths of terminals and in a pipe. With UPDATE set in the
// environment, the files are written anew, for a person to read.
func TestTranscripts(t *testing.T) {
	for name := range scenes(time.Now()) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // in whose bubble the time stands still
				fakerunner.Run(t, "default", scenes(time.Now())[name], zap.NewNop())
				srv := adminServer(t)
				defer srv.Close()
				checkTranscript(t, name, srv.Listener.Addr().String(), []int{0, 60, 100, 160}, shown)
			})
		})
	}
	t.Run("no Caddy", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		checkTranscript(t, "no Caddy", l.Addr().String(), []int{0, 60}, append([][]string{{"events"}}, shown...))
	})
}

// notForPeople is what belongs into no transcript: JSON, types of Go, halves of a uuid, and what
// controls a terminal.
var notForPeople = regexp.MustCompile(`\{"|map\[|%!|\[\]|0x[0-9a-f]{6}|<nil>|context\.|\*[a-z]+\.|[0-9a-f]{8}(-[0-9a-f]*)?…|\x1b|0001-01-01`)

// checkTranscript compares a transcript with the one that a person has read.
func checkTranscript(t *testing.T, name, address string, widths []int, commands [][]string) {
	t.Helper()
	for _, width := range widths {
		var all bytes.Buffer
		for _, args := range commands {
			if width > 0 && slices.Contains([]string{"pause", "resume", "drain", "undrain", "requeue", "cancel", "set-done", "postpone", "resync"}, args[0]) {
				continue // lines, which are the same at each width
			}
			fmt.Fprintf(&all, "$ caddy jobrunner %s\n%s\n", strings.Join(args, " "), transcript(t, address, width, args))
		}
		compare(t, fmt.Sprintf("%s-%d.txt", strings.ReplaceAll(name, " ", "-"), width), strings.ReplaceAll(all.String(), address, "localhost:2019"))
	}
}

// compare compares what was said with a file that a person has read, and looks for what is not for people.
func compare(t *testing.T, name, said string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	require.Empty(t, notForPeople.FindAllString(said, -1), said)
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(said), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), said, file)
}

// status is how Caddy's error says which one a command ends with.
var status = regexp.MustCompile(`^exiting with status (\d+)$`)

// transcript runs a command and returns what it prints, with its exit status.
func transcript(t *testing.T, address string, width int, args []string) string {
	t.Helper()
	before := terminal
	defer func() { terminal = before }()
	terminal = func(io.Writer) (int, bool) { return width, false }
	jobrunner := &cobra.Command{Use: "jobrunner", Args: cobra.ArbitraryArgs}
	addCommands(jobrunner)
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	root.AddCommand(jobrunner)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(slices.Concat([]string{"jobrunner"}, args, []string{"--address", address}))
	code := "0"
	if err := root.ExecuteContext(t.Context()); errors.Is(err, errSaid) {
		code = "1"
	} else if err != nil {
		m := status.FindStringSubmatch(err.Error())
		require.NotNil(t, m, err)
		code = m[1]
	}
	fmt.Fprintf(&out, "exit status %s\n", code)
	return out.String()
}

// TestReadyIsPlain: what a probe shows of a PostgreSQL that is down is one line, with what to do.
func TestReadyIsPlain(t *testing.T) {
	fakerunner.Run(t, "default", scenes(time.Now())["PostgreSQL down"], zap.NewNop())
	srv := adminServer(t)
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL + "/jobrunner/ready")
	require.NoError(t, err)
	defer res.Body.Close()
	var ready api.Readiness
	require.NoError(t, json.NewDecoder(res.Body).Decode(&ready))
	require.Equal(t, []string{
		"runner default: no leader is known: PostgreSQL at 10.0.0.9:5432 unreachable: connection refused; " +
			"check that PostgreSQL runs, and postgres, postgres_password and pg_hba.conf",
	}, ready.Problems)
}
