package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/dashboard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// soon is within which every surface tells of an outage.
const soon = 15 * time.Second

// outage is one way in which nothing can run, and what says so.
type outage struct {
	cause, why string
	state      runner.Health
	// says is a part of what status prints, what ready answers and what the dashboard shows. With in,
	// it is what that command prints, and data what the dashboard is told.
	says, in, data string
	// metric is a sample that stands for it, and alerts are all rules of a state, and not of a rate,
	// that become true.
	metric string
	alerts []string
	do     func(s *site)
}

// outages are the rows of the table in docs/operations.md.
var outages = []outage{
	{
		cause: "PostgreSQL is down, or refuses the role", why: "no_leader", state: runner.NotReady, says: "no leader is known: ",
		metric: `leader_known 0`, alerts: []string{"JobrunnerNoLeader", "JobrunnerNotReady", "JobrunnerSessionDeaf"},
		do: func(s *site) { s.start(); s.world.Down() },
	},
	{
		cause: "the runner takes over (for 5 s at most)", why: "taking_over", state: runner.NotReady, says: "it is taking over",
		metric: `state{state="not_ready"} 1`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerNotReady", "JobrunnerSessionDeaf"},
		do: func(s *site) {
			s.world.AddDatabase("slow")
			s.world.Fault("slow", func(f *mock.Faults) { f.Frozen = true })
			s.start()
		},
	},
	{
		cause: "another process leads, and this one stands by", why: "standby", state: runner.Ready, says: "another: ", data: `"leader_detail":"pid`,
		metric: `leader 0`, alerts: []string{"JobrunnerNoLeader"},
		do: func(s *site) { s.busy(); s.rival(); s.start() },
	},
	{
		cause: "no Odoo server is known", why: "no_upstream", state: runner.NotReady, says: "no Odoo server is healthy",
		metric: `state{state="not_ready"} 1`, alerts: []string{"JobrunnerNotReady"},
		do: func(s *site) { s.servers = nil; s.start() },
	},
	{
		cause: "no Odoo server is up", why: "no_upstream", state: runner.NotReady, says: "no Odoo server is healthy: odoo1 takes no jobs: refused",
		metric: `upstream_up{upstream="odoo1"} 0`, alerts: []string{"JobrunnerNoUpstream", "JobrunnerNotReady", "JobrunnerUpstreamDown"},
		do: func(s *site) { s.serverDown(); s.start() },
	},
	{
		cause: "every Odoo server is drained", why: "upstreams_drained", state: runner.NotReady, says: "odoo1 is being drained by ana",
		metric: `upstream_drained{upstream="odoo1"} 1`, alerts: []string{"JobrunnerNotReady"},
		do: func(s *site) {
			s.start()
			s.order(func(c runner.Controls) runner.Controls {
				return c.WithDrain(runner.Drain{Upstream: "odoo1", By: "ana"})
			})
		},
	},
	{
		cause: "a database accepts no connection", why: "database_unreachable", state: runner.NotReady, says: "database prod has no fresh session, it is unreachable: ",
		metric: `session_connected{database="prod"} 0`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerNotReady", "JobrunnerSessionDeaf"},
		do: func(s *site) {
			s.fault(func(f *mock.Faults) { f.OpenErr = errors.New("too many connections") })
			s.start()
		},
	},
	{
		cause: "no connection to PostgreSQL is free for the only database", why: "database_waiting", state: runner.NotReady, says: "database prod waits for a connection: ",
		metric: `databases{state="waiting"} 1`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerNotReady", "JobrunnerSessionDeaf"},
		do: func(s *site) { s.world.LimitConnections(5, 5); s.start() },
	},
	{
		cause: "its jobs cannot be read", why: "database_unreachable", state: runner.NotReady, says: "it is unreachable: ",
		metric: `database_served{database="prod"} 0`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerNotReady", "JobrunnerSessionDeaf"},
		do: func(s *site) { s.fault(func(f *mock.Faults) { f.SnapshotErr = driver.ErrLost }); s.start() },
	},
	{
		cause: "its trigger is missing, or rights, or a pooler is between", why: "database_unhealthy", state: runner.NotReady, says: "database prod runs no jobs: the trigger queue_job_notify is missing",
		metric: `database_served{database="prod"} 0`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerNotReady", "JobrunnerSessionDeaf"},
		do: func(s *site) { s.world.Unhealthy("prod", "the trigger queue_job_notify is missing"); s.start() },
	},
	{
		cause: "Odoo answers without running jobs: login page, `dbfilter`, no add-on", why: "database_held", state: runner.NotReady, says: "database prod is held back: the last requests ended without their jobs having been run",
		metric: `databases{state="held"} 1`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerNotReady"},
		do: func(s *site) { s.world.SetPlan(mock.Plan{StayEnqueued: true}); s.start() },
	},
	{
		cause: "another runner serves the database", why: "database_standby", state: runner.NotReady, says: "database prod is served by another runner: odoo-14",
		metric: `databases{state="standby"} 1`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerNotReady"},
		do: func(s *site) { s.world.LockHeldBy("prod", "odoo-14"); s.start() },
	},
	{
		cause: "the only database is a neutralized copy", why: "database_neutralized", state: runner.Degraded, says: "the databases are neutralized copies",
		metric: `databases{state="neutralized"} 1`, alerts: []string{"JobrunnerDegraded"},
		do: func(s *site) { s.world.Neutralized("prod"); s.start() },
	},
	{
		cause: "modules of the only database are marked for an upgrade (`upgrade_gate`)", why: "database_upgrading", state: runner.Degraded, says: "database prod starts no jobs, because it has been under an upgrade since ",
		metric: `databases{state="upgrading"} 1`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerDegraded", "JobrunnerUpgradeForgotten"},
		do: func(s *site) { s.upgrade(); s.start() },
	},
	{
		cause: "the same, for more than an hour", why: "database_upgrading", state: runner.NotReady, says: "finish the upgrade, or cancel it in Apps",
		metric: `databases{state="upgrading"} 1`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerNotReady", "JobrunnerUpgradeForgotten"},
		do: func(s *site) { s.upgrade(); s.start(); s.settle(time.Hour) },
	},
	{
		cause: "no database is found", why: "database_not_served", state: runner.NotReady, says: "no database is found: check databases, and the role",
		metric: `state{state="not_ready"} 1`, alerts: []string{"JobrunnerNotReady"},
		do: func(s *site) { s.world.DropDatabase("prod"); s.start() },
	},
	{
		cause: "none has `queue_job`", why: "database_undetected", state: runner.NotReady, says: "queue_job is installed in none of those that are found",
		metric: `databases{state="undetected"} 1`, alerts: []string{"JobrunnerNotReady"},
		do: func(s *site) { s.world.Undetected("prod"); s.start() },
	},
	{
		cause: "the only database is being dropped, renamed or copied", why: "database_yielding", state: runner.NotReady, says: "being dropped, renamed or copied: prod",
		metric: `databases{state="yielding"} 1`, alerts: []string{"JobrunnerNotReady"},
		do: func(s *site) { s.start(); s.world.SetBusy("prod"); s.settle(3 * time.Second) },
	},
	{
		cause: "everything is paused", why: "paused_all", state: runner.Degraded, says: "everything is paused by ana",
		metric: `pauses{scope="all"} 1`, alerts: []string{"JobrunnerDegraded", "JobrunnerPausedLong"},
		do: func(s *site) { s.start(); s.pause(runner.Pause{By: "ana"}) },
	},
	{
		cause: "the only database is paused", why: "paused_database", state: runner.Degraded, says: "database prod is paused by ana",
		metric: `pauses{scope="database"} 1`, alerts: []string{"JobrunnerDegraded", "JobrunnerPausedLong"},
		do: func(s *site) { s.start(); s.pause(runner.Pause{Database: "prod", By: "ana"}) },
	},
	{
		cause: "channel root is paused", why: "paused_channel", state: runner.Degraded, says: "channel root is paused by ana",
		metric: `channel_paused{channel="root"} 1`, alerts: []string{"JobrunnerDegraded", "JobrunnerPausedLong"},
		do: func(s *site) { s.start(); s.pause(runner.Pause{Channel: "root", By: "ana"}) },
	},
	{
		cause: "another channel is paused: the others run", why: "paused_channel", state: runner.Ready, says: "channel root.mail is paused by ana", data: `"channel":"root.mail"`,
		metric: `channel_paused{channel="root.mail"} 1`, alerts: []string{"JobrunnerPausedLong"},
		do: func(s *site) { s.channel = "mail"; s.start(); s.pause(runner.Pause{Channel: "root.mail", By: "ana"}) },
	},
	{
		cause: "root is paused by the configuration", why: "paused_by_configuration", state: runner.Degraded, says: "no job runs: channel root is paused by its configuration",
		metric: `channel_paused{channel="root"} 1`, alerts: []string{"JobrunnerDegraded"},
		do: func(s *site) { s.config.Channels[0].Paused = true; s.start() },
	},
	{
		cause: "`max_capacity` is 0", why: "paused_by_configuration", state: runner.Degraded, says: "no job runs: max_capacity is 0",
		metric: `max_capacity 0`, alerts: []string{"JobrunnerDegraded"},
		do: func(s *site) { s.config.Channels, s.config.DatabaseChannels = nil, new(channels.Capacities); s.start() },
	},
	{
		cause: "a failed job stops a sequential channel: the others run", why: "sequential_failed", state: runner.Ready, says: "stopped by a failed job", in: "channels", data: `"sequential":true`,
		metric: `channel_blocked{channel="root.seq"} 1`, alerts: []string{"JobrunnerChannelBlocked"},
		do: func(s *site) {
			s.channel = "seq"
			failed := mock.NewJob("prod", failed)
			failed.State, failed.Channel, failed.Priority = channels.Failed, "seq", 1
			s.world.Insert(failed)
			s.start()
		},
	},
	{
		cause: "all slots are taken by jobs that do not end", why: "channel_full", state: runner.Ready, says: "root 4 4 1", in: "channels", data: `"queued":1`,
		metric: `channel_running{channel="root"} 4`,
		do: func(s *site) {
			s.busy()
			s.start()
		},
	},
	{
		cause: "a policy lets nothing start at this time", why: "capacity_window", state: runner.Ready, says: "window 0 daily 00:00-24:00 UTC", in: "channels", data: `"window":{"capacity":0`,
		metric: `channel_limited{by="window",channel="root"} 1`,
		do: func(s *site) {
			always := channels.Window{Days: 1<<7 - 1, To: 24 * 60, Zone: time.UTC}
			s.config.Policies = []policy.Policy{{Channels: []string{"root"}, Capacity: []channels.Window{always}}}
			s.start()
		},
	},
	{
		cause: "a policy lets one job start in a day", why: "rate", state: runner.Ready, says: "rate 1/d", in: "channels", data: `"rate":{"line":"1/d","available":0`,
		metric: `channel_limited{by="rate",channel="root"} 1`,
		do: func(s *site) {
			s.config.Policies = []policy.Policy{{Channels: []string{"root"}, Rate: &channels.Rate{Starts: 1, Period: 24 * time.Hour}}}
			s.start()
		},
	},
	{
		cause: "one of two Odoo servers is down: the other runs jobs", why: "running", state: runner.Degraded, says: "Odoo server odoo1 takes no jobs: refused",
		metric: `upstream_up{upstream="odoo1"} 0`, alerts: []string{"JobrunnerDegraded", "JobrunnerUpstreamDown"},
		do: func(s *site) {
			s.servers = append(s.servers, driver.Upstream{Name: "odoo2"})
			s.world.SetPlan(mock.Plan{RunFor: time.Hour})
			s.serverDown()
			s.start()
		},
	},
	{
		cause: "one of two databases is not served: the other is", why: "database_unreachable", state: runner.Degraded, says: "1 of 2 databases served",
		metric: `database_served{database="prod"} 0`, alerts: []string{"JobrunnerDatabaseNotServed", "JobrunnerDegraded", "JobrunnerSessionDeaf"},
		do: func(s *site) {
			s.world.AddDatabase("other")
			s.fault(func(f *mock.Faults) { f.OpenErr = errors.New("too many connections") })
			s.start()
		},
	},
}

// site is a runner at work, with everything that tells of it.
type site struct {
	*testing.T
	world   *mock.World
	config  runner.Config
	servers servers
	channel string
	// dir is where its orders are kept.
	dir, address string
	page         *dashboard.Handler
}

// servers is a fixed set of servers; without any, it cannot tell.
type servers []driver.Upstream

func (s *servers) Upstreams(context.Context) ([]driver.Upstream, error) {
	if len(*s) == 0 {
		return nil, errors.New("no such host")
	}
	return *s, nil
}

// newSite makes a site with one database, one server and four slots.
func newSite(t *testing.T, dir string) *site {
	t.Helper()
	s := &site{T: t, dir: dir, world: mock.NewWorld(), servers: servers{{Name: "odoo1"}}}
	t.Cleanup(s.world.Close)
	s.world.AddDatabase("prod")
	cfgs, _, err := channels.ParseConfigs("root:4,mail:1,seq:1:sequential")
	require.NoError(t, err)
	s.config = runner.Config{
		Name: "default", Postgres: &pgx.ConnConfig{}, Driver: s.world.Driver(), Targets: &s.servers, Channels: cfgs, Logger: zap.NewNop(),
	}
	s.page = new(dashboard.Handler)
	require.NoError(t, s.page.Provision(caddy.Context{}))
	return s
}

// start starts it, and inserts ten jobs that have something to wait for.
func (s *site) start() {
	sup, err := supervisor.Acquire()
	require.NoError(s, err)
	g := &supervisor.Generation{Logger: zap.NewNop(), Runners: map[string]*supervisor.Member{"default": {
		Config:  s.config,
		New:     func(cfg runner.Config) (supervisor.Engine, error) { return runner.New(cfg) },
		Storage: &certmagic.FileStorage{Path: s.dir},
	}}}
	sup.Push(g)
	s.Cleanup(func() {
		sup.Withdraw(g)
		require.NoError(s, supervisor.Release())
	})
	s.settle(time.Second)
}

// busy inserts jobs for all four slots, which run for an hour.
func (s *site) busy() {
	s.world.SetPlan(mock.Plan{RunFor: time.Hour})
	for i := range 4 {
		s.world.Insert(mock.NewJob("prod", fmt.Sprint("busy", i)))
	}
}

// settle lets time pass.
func (s *site) settle(d time.Duration) {
	<-time.After(d) // the bubble's time
	synctest.Wait()
}

// rival starts another runner of the same databases, which leads from then on.
func (s *site) rival() {
	cfg := s.config
	cfg.Driver = s.world.Driver()
	r, err := runner.New(cfg)
	require.NoError(s, err)
	r.Start()
	s.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = r.Stop(ctx)
	})
	s.settle(time.Second)
}

func (s *site) serverDown() {
	s.world.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.CheckErr, f.FailBeforeSend = errors.New("refused"), -1 })
}

func (s *site) fault(f func(*mock.Faults)) { s.world.Fault("prod", f) }

// upgrade marks a module.
func (s *site) upgrade() {
	s.config.UpgradeGate = true
	s.world.Mark("prod", "sale (to upgrade)")
}

func (s *site) order(f func(runner.Controls) runner.Controls) {
	all := supervisor.Runners(s.Context())
	_, err := all["default"].Order(s.Context(), f)
	require.NoError(s, err)
}

func (s *site) pause(p runner.Pause) {
	s.order(func(c runner.Controls) runner.Controls { return c.WithPause(p) })
}

// get returns what a path of the admin API answers.
func (s *site) get(path string) (int, string) {
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, "http://"+s.address+"/jobrunner/"+path, nil)
	require.NoError(s, err)
	req.Close = true
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	require.NoError(s, err)
	defer res.Body.Close()
	var doc json.RawMessage
	require.NoError(s, json.NewDecoder(res.Body).Decode(&doc))
	return res.StatusCode, string(doc)
}

// shown is what the dashboard is told.
func (s *site) shown() string {
	w := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/jobrunner/data", nil)
	require.NoError(s, s.page.ServeHTTP(w, req, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })))
	return w.Body.String()
}

// TestNothingRuns: each way in which nothing can run is named by every surface within 15 s.
func TestNothingRuns(t *testing.T) {
	rules, dir := readRules(t), t.TempDir()
	for i, o := range outages {
		t.Run(o.cause, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, filepath.Join(dir, strconv.Itoa(i)))
				o.do(s)
				job := mock.NewJob("prod", pending)
				job.Channel = s.channel
				if o.why != "database_not_served" {
					s.world.Insert(job)
					for i := range 3 * 4 {
						if o.why == "database_held" {
							s.world.Insert(mock.NewJob("prod", fmt.Sprint("more", i)))
						}
					}
				}
				begin := time.Now()
				var least []string
				for time.Since(begin) <= soon {
					missing := o.missing(s, rules)
					if len(missing) == 0 {
						return
					}
					if least == nil || len(missing) < len(least) {
						least = missing
					}
					s.settle(500 * time.Millisecond)
				}
				require.Empty(t, least, "not said within %s", soon)
			})
		})
	}
}

var exitStatus = map[runner.Health]int{runner.Ready: 0, runner.Degraded: exitDegraded, runner.NotReady: exitNotReady}

// readyStatus is what GET /jobrunner/ready answers with.
func readyStatus(h runner.Health) int {
	if h == runner.NotReady {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}

// missing is what does not say so yet.
func (o *outage) missing(s *site, rules []rule) (list []string) {
	srv := adminServer(s.T) // while it listens, the time of the bubble stands still
	defer srv.Close()
	s.address = srv.Listener.Addr().String()
	check := func(what, said string, wanted ...string) {
		for _, w := range wanted {
			if !strings.Contains(said, w) {
				list = append(list, fmt.Sprintf("%s: no %q in: %s", what, w, said))
			}
		}
	}
	said := transcript(s.T, s.address, 0, []string{"status"})
	check("status", said, strings.ReplaceAll(o.state.String(), "_", " "), fmt.Sprintf("exit status %d", exitStatus[o.state]))
	if o.in != "" {
		said = transcript(s.T, s.address, 0, []string{o.in})
	}
	check("the cause", strings.Join(strings.Fields(said), " "), strings.TrimSpace(o.says))
	said = transcript(s.T, s.address, 0, []string{"why", "prod", pending, "--json"})
	switch o.why {
	case "database_not_served":
		check("why", said, "not among those", "exit status 4")
	case "database_undetected": // where no row can be read
		check("why", said, "database prod is undetected")
	default:
		check("why", said, `"why":"`+o.why+`"`)
	}
	code, body := s.get("ready")
	if code != readyStatus(o.state) {
		list = append(list, fmt.Sprintf("ready answers %d", code))
	}
	check("ready", body, `"state":"`+o.state.String()+`"`)
	data := s.shown()
	check("dashboard", data, `"state":"`+o.state.String()+`"`)
	if o.data != "" {
		check("dashboard", data, o.data)
	} else {
		check("ready", body, o.says)
		check("dashboard", data, strings.TrimSuffix(o.says, ": "))
	}
	samples := scrape(s.T)
	metric, value, _ := strings.Cut(o.metric, " ")
	if want, _ := strconv.ParseFloat(value, 64); !selector("caddy_jobrunner_"+metric).holds(samples, want) {
		list = append(list, "no metric "+o.metric)
	}
	if fire := firing(s.T, rules, samples); !slices.Equal(fire, o.alerts) && len(fire)+len(o.alerts) > 0 {
		list = append(list, fmt.Sprintf("alerts: %v", fire))
	}
	return list
}

// TestNothingRunsIsDocumented: the table in docs/operations.md is the one that is tested.
func TestNothingRunsIsDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("| Nothing runs because | `why` says | State | `status` | `ready` | The cause is in | Metric | Alerts |\n|---|---|---|---|---|---|---|---|\n")
	code := func(s string) string { return "`" + s + "`" }
	for _, o := range outages {
		in := code(cmp.Or(o.in, "status"))
		alerts := "none"
		if len(o.alerts) > 0 {
			alerts = "`" + strings.Join(o.alerts, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %d | %s: \"%s\" | %s | %s |\n", o.cause, code(o.why), code(o.state.String()),
			exitStatus[o.state], readyStatus(o.state), in, strings.TrimSpace(strings.Join(strings.Fields(o.says), " ")), code(o.metric), alerts)
	}
	b.WriteString("\n")
	file := filepath.FromSlash("../../docs/operations.md")
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	const begin, end = "<!-- What TestNothingRuns tests. -->\n\n", "<!-- -->\n"
	before, rest, ok := strings.Cut(string(raw), begin)
	require.True(t, ok)
	table, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(file, []byte(before+begin+b.String()+end+after), 0o600))
		return
	}
	require.Equal(t, b.String(), table)
}
