package runner_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// whyCodes returns every code that an answer can have.
func whyCodes(t *testing.T) map[string]bool {
	all := map[string]bool{"unknown_state": true}
	for r := channels.Reason(1); !strings.HasPrefix(r.String(), "Reason("); r++ {
		all[r.String()] = true
	}
	// Who paused the channel is told instead, and why the database is not served.
	delete(all, channels.ReasonPaused.String())
	delete(all, channels.ReasonSuspended.String())
	for s := runner.DatabaseState(0); s.String() != "invalid"; s++ {
		all["database_"+s.String()] = true
	}
	delete(all, "database_"+runner.DatabaseReady.String()) // is no reason
	file, err := parser.ParseFile(token.NewFileSet(), "why.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Why") {
			code, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			all[code] = true
		}
		return true
	})
	return all
}

// hangingSession does not get further than a snapshot.
type hangingSession struct {
	driver.Session
	released <-chan struct{}
}

func (s *hangingSession) Snapshot(ctx context.Context, yield func(driver.Row)) error {
	select {
	case <-s.released:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Session.Snapshot(ctx, yield)
}

// hangingResync reads one snapshot and does not get further than another one.
type hangingResync struct {
	hangingSession

	read atomic.Bool
}

func (s *hangingResync) Snapshot(ctx context.Context, yield func(driver.Row)) error {
	if s.read.Swap(true) {
		return s.hangingSession.Snapshot(ctx, yield)
	}
	return s.Session.Snapshot(ctx, yield)
}

// hangingChannels cannot read what channels are configured in the database.
type hangingChannels struct{ driver.Session }

func (s *hangingChannels) Channels(ctx context.Context) ([]channels.Config, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// whyCase brings a job into a situation and returns it, and the runner to ask.
type whyCase struct {
	// says is a part of the sentence.
	says string
	do   func(b *bench) (*runner.Runner, channels.Key)
}

// later is a job whose eta comes in an hour, before all others otherwise.
func later(j *mock.Job) { j.ETA, j.Priority = time.Now().Add(time.Hour).UnixMicro(), 1 }

func inState(s channels.State) func(*mock.Job) { return func(j *mock.Job) { j.State = s } }

func inChannel(name string) func(*mock.Job) { return func(j *mock.Job) { j.Channel = name } }

// prod starts a runner for a database whose jobs run for an hour.
func (b *bench) prod(tree string, change ...func(*runner.Config)) *runner.Runner {
	b.AddDatabase("prod")
	b.SetPlan(mock.Plan{RunFor: time.Hour})
	cfg := b.config(tree)
	for _, c := range change {
		c(&cfg)
	}
	return b.start(cfg)
}

func (b *bench) control(r *runner.Runner, pauses ...runner.Pause) {
	require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: pauses}))
}

// queued asks for the last of some jobs before a pass has looked at any of them.
func queued(b *bench, jobs int) (*runner.Runner, channels.Key) {
	release := make(chan struct{})
	b.AddDatabase("other") // or a session would claim what it reads
	r := b.prod("root:1", func(cfg *runner.Config) {
		cfg.Events = func(ev runner.Event) {
			if ev.Kind == runner.EventPaused {
				<-release // the loop waits
			}
		}
	})
	go func() {
		_ = r.Control(context.Background(), runner.Controls{Pauses: []runner.Pause{{Channel: "root.x"}}})
	}()
	b.settle(100 * time.Millisecond)
	keys := b.jobs("prod", "", "a", jobs)
	b.settle(100 * time.Millisecond)
	time.AfterFunc(100*time.Millisecond, func() { close(release) }) // while it is asked
	return r, keys[jobs-1]
}

// sessions puts fakes around the sessions of a database.
func sessions(fake func(driver.Session) driver.Session) func(*runner.Config) {
	return func(cfg *runner.Config) {
		cfg.Driver = &struct {
			fakeDriver
			driver.Operator
		}{fakeDriver{Driver: cfg.Driver, session: fake}, cfg.Driver.(driver.Operator)}
	}
}

// whyCases are those in which a job waits, by code.
var whyCases = map[string]whyCase{
	"ready":  {"next scheduling pass", func(b *bench) (*runner.Runner, channels.Key) { return queued(b, 1) }},
	"behind": {"2 jobs go before it", func(b *bench) (*runner.Runner, channels.Key) { return queued(b, 3) }},
	"capacity_window": {"policy root.night lets no job of channel root.night start until Sat 1 Jan 02:00 UTC", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9", func(cfg *runner.Config) { cfg.Policies = b.window("root.night", "0 daily 00:00-02:00 UTC") })
		return r, b.one("prod", "a", func(j *mock.Job) { j.Channel = "night" })
	}},
	"rate": {"policy root.slow lets 1 job in an hour of channel root.slow start, and this one not before 2000-01-01T01:00:0", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9", func(cfg *runner.Config) { cfg.Policies = b.rate("root.slow", "1/h", 1) })
		return r, b.one("prod", "a", func(j *mock.Job) { j.Channel = "slow" })
	}},
	"min": {"the free slots of channel root are kept (min): 1 for root.alerts", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:2", func(cfg *runner.Config) {
			cfg.Channels = append(cfg.Channels, channels.Config{Name: "alerts", Min: 2})
		})
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		b.one("prod", "a", inChannel("root.alerts"))
		b.settle(time.Second)
		return r, b.one("prod", "b")
	}},
	"limit": {"database prod has 1 of at most 1 at once in channel root (policy root)", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9", func(cfg *runner.Config) {
			cfg.Policies = []policy.Policy{{Channels: []string{"root"}, Limit: &policy.Limit{Jobs: 1, Per: policy.PerDatabase}}}
		})
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		keys := b.jobs("prod", "", "a", 2)
		b.settle(time.Second)
		return r, keys[1]
	}},
	"serialized": {"job prod/a, which has the same identity key, runs (policy root)", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9", func(cfg *runner.Config) {
			cfg.Policies = []policy.Policy{{Channels: []string{"root"}, Serialize: policy.ByIdentityKey}}
		})
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		same := func(j *mock.Job) { j.Identity = 7 }
		b.one("prod", "a", same)
		b.settle(time.Second)
		return r, b.one("prod", "b", same)
	}},
	"throttled": {"throttled until", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9:throttle=60")
		keys := b.jobs("prod", "", "a", 2)
		b.settle(time.Second)
		return r, keys[1]
	}},
	"sequential_eta": {"comes first, whose eta", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9,seq:1:sequential")
		b.one("prod", "later", inChannel("seq"), later)
		return r, b.one("prod", "a", inChannel("seq"))
	}},
	"paused_by_configuration": {"channel root.p is paused by its configuration", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9,p:1", func(cfg *runner.Config) { cfg.Channels[1].Paused = true })
		return r, b.one("prod", "a", inChannel("p"))
	}},
	"paused_all": {"everything is paused by operator", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9")
		b.control(r, runner.Pause{By: "operator"})
		return r, b.one("prod", "a")
	}},
	"paused_database": {"database prod is paused by operator", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9")
		b.control(r, runner.Pause{Database: "prod", By: "operator"})
		return r, b.one("prod", "a")
	}},
	"database_waiting": {"database prod is waiting: open session to prod: connection lost: too many connections", func(b *bench) (*runner.Runner, channels.Key) {
		b.LimitConnections(5, 5)
		r := b.prod("root:9")
		return r, b.one("prod", "a")
	}},
	"database_asleep": {"database prod is asleep: it has had nothing to do since", func(b *bench) (*runner.Runner, channels.Key) {
		b.many(1)
		b.DelayStatistics(time.Hour)
		long := key("db00", "long")
		b.PlanFor(long, mock.Plan{RunFor: time.Hour})
		r := b.prod("root:9", func(cfg *runner.Config) { cfg.Connections = runner.ConnectionsLeast })
		for b.connections("db00") == 0 {
			b.settle(100 * time.Millisecond)
		}
		b.one("db00", "long") // which keeps the only connection
		for b.started(long) == 0 || b.connections("prod") > 0 {
			b.settle(100 * time.Millisecond)
		}
		require.Equal(b, 1, b.states(r)["asleep"])
		return r, b.one("prod", "a")
	}},
	"retry_delay": {"the next one follows at", func(b *bench) (*runner.Runner, channels.Key) {
		b.PlanFor(key("prod", "a"), mock.Plan{StayEnqueued: true})
		return b.prod("root:9"), b.one("prod", "a")
	}},
	"claiming": {"is being claimed", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9")
		b.Fault("prod", func(f *mock.Faults) { f.HangClaim = true })
		return r, b.jobs("prod", "", "a", 2)[1]
	}},
	"unclaiming": {"is being put back: Odoo answered without running it", func(b *bench) (*runner.Runner, channels.Key) {
		hang := make(chan struct{})
		b.PlanFor(key("prod", "a"), mock.Plan{StayEnqueued: true})
		r := b.prod("root:9", sessions(func(s driver.Session) driver.Session {
			return &fakeSession{Session: s, unclaim: func(tasks []driver.Task) []driver.Task { <-hang; return tasks }}
		}))
		b.Cleanup(func() { close(hang) })
		return r, b.one("prod", "a")
	}},
	"watched": {"is started without a request of this process", func(b *bench) (*runner.Runner, channels.Key) {
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Hour, DropConnAfter: 100 * time.Millisecond})
		return b.prod("root:9"), b.one("prod", "a")
	}},
	"taking_over": {"has just become the leader", func(b *bench) (*runner.Runner, channels.Key) {
		hang := make(chan struct{})
		b.AddDatabase("slow")
		k := key("prod", "a")
		var hangs atomic.Bool
		r := b.prod("root:9", sessions(func(s driver.Session) driver.Session {
			if !hangs.Swap(true) { // one of the two does not come to an end
				return s
			}
			return &hangingSession{s, hang}
		}))
		b.Cleanup(func() { close(hang) })
		for _, db := range []string{"prod", "slow"} {
			b.one(db, "a")
			if state, _ := b.state(r, db); state == runner.DatabaseReady {
				k = key(db, "a")
			}
		}
		return r, k
	}},
	"stopping": {"is stopping", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:1")
		keys := b.jobs("prod", "", "a", 2)
		b.settle(time.Second)
		go func() { _ = r.Stop(context.Background()) }()
		return r, keys[1]
	}},
	"no_upstream": {"no Odoo server is healthy: odoo1: refused", func(b *bench) (*runner.Runner, channels.Key) {
		b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.CheckErr, f.FailBeforeSend = errors.New("refused"), -1 })
		r := b.prod("root:9")
		b.one("prod", "first")
		b.settle(time.Minute)
		return r, b.one("prod", "a")
	}},
	"cancelled": {"was cancelled", func(b *bench) (*runner.Runner, channels.Key) {
		return b.prod("root:9"), b.one("prod", "a", inState(channels.Cancelled))
	}},
	"not_read_yet": {"has not been read yet", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9", sessions(func(s driver.Session) driver.Session {
			return &fakeSession{Session: s, wait: func(driver.Notifications) driver.Notifications { return driver.Notifications{} }}
		}))
		return r, b.one("prod", "a")
	}},
	"unknown_state": {`nobody knows what the state "sleeping" means`, func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9")
		k := b.one("prod", "a", inState(channels.Cancelled))
		b.Update(k, func(j *mock.Job) { j.RawState = "sleeping" })
		return r, k
	}},
	"running": {"is started; this process does not lead the runner, ", func(b *bench) (*runner.Runner, channels.Key) {
		b.prod("root:9")
		standby := b.start(b.config("root:9"))
		return standby, b.one("prod", "a")
	}},
	"database_connecting": {"database prod is connecting", func(b *bench) (*runner.Runner, channels.Key) {
		hang := make(chan struct{})
		r := b.prod("root:9", sessions(func(s driver.Session) driver.Session { <-hang; return s }))
		b.Cleanup(func() { close(hang) })
		return r, b.one("prod", "a")
	}},
	"database_unreachable": {"too many connections", func(b *bench) (*runner.Runner, channels.Key) {
		b.AddDatabase("prod")
		b.Fault("prod", func(f *mock.Faults) { f.OpenErr = errors.New("too many connections") })
		return b.start(b.config("root:9")), b.one("prod", "a")
	}},
	"database_undetected": {"database prod is undetected", func(b *bench) (*runner.Runner, channels.Key) {
		b.AddDatabase("prod")
		b.Undetected("prod")
		return b.start(b.config("root:9")), b.one("prod", "a")
	}},
	"database_standby": {"pid 4711", func(b *bench) (*runner.Runner, channels.Key) {
		b.AddDatabase("prod")
		b.LockHeldBy("prod", "pid 4711")
		return b.start(b.config("root:9")), b.one("prod", "a")
	}},
	"database_loading": {"database prod is loading", func(b *bench) (*runner.Runner, channels.Key) {
		hang := make(chan struct{})
		r := b.prod("root:9", sessions(func(s driver.Session) driver.Session { return &hangingSession{s, hang} }))
		b.Cleanup(func() { close(hang) })
		return r, b.one("prod", "a")
	}},
	"channels_withheld": {"the channels of database prod are not known", func(b *bench) (*runner.Runner, channels.Key) {
		hang := func(s driver.Session) driver.Session { return &hangingChannels{s} }
		r := b.prod("root:1", sessions(hang))
		keys := b.jobs("prod", "", "a", 2)
		b.settle(time.Second)
		cfg := b.perDatabase(9, "")
		sessions(hang)(&cfg)
		require.NoError(b, r.Reconfigure(cfg))
		return r, keys[1]
	}},
	"channels_reread": {"the jobs of database prod are being read anew", func(b *bench) (*runner.Runner, channels.Key) {
		hang := make(chan struct{})
		r := b.prod("root:1", sessions(func(s driver.Session) driver.Session {
			return &hangingResync{hangingSession: hangingSession{s, hang}}
		}))
		b.Cleanup(func() { close(hang) })
		for i := range channels.NamesPerDatabase {
			b.one("prod", fmt.Sprint(i), inChannel(fmt.Sprintf("c%d", i)))
		}
		k := b.one("prod", "a", inChannel("more"))
		b.settle(time.Second)
		b.control(r, runner.Pause{Channel: "other"})
		return r, k
	}},
	"database_held": {"the last requests ended without their jobs having been run (Odoo answered without running it), next attempt at 2000-01-01T00:00:0", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:30")
		b.SetPlan(mock.Plan{StayEnqueued: true})
		keys := b.jobs("prod", "", "a", 30)
		return r, keys[0]
	}},
	"database_upgrading": {"modules are marked: sale (to upgrade)", func(b *bench) (*runner.Runner, channels.Key) {
		b.AddDatabase("prod")
		b.Mark("prod", "sale (to upgrade)")
		return b.prod("root:9", func(cfg *runner.Config) { cfg.UpgradeGate = true }), b.one("prod", "a")
	}},
	"database_yielding": {"database prod is yielding", func(b *bench) (*runner.Runner, channels.Key) {
		r := b.prod("root:9")
		b.SetBusy("prod")
		b.settle(3 * time.Second)
		return r, b.one("prod", "a")
	}},
}

// overdue runs a job for a while that has a time limit of a minute, and ignores cancels.
func overdue(after time.Duration, cancel bool) func(*bench) (*runner.Runner, channels.Key) {
	return func(b *bench) (*runner.Runner, channels.Key) {
		var j journal
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), never(func(p *mock.Plan) { p.IgnoresCancel, p.IgnoresTerminate = true, true }))
		r := b.start(b.limited(&j, func(t *policy.Timeout) {
			if !cancel {
				t.Cancel, t.Grace = false, 0
			}
		}))
		k := b.one("prod", "a")
		b.settle(after)
		return r, k
	}
}

func init() {
	for code, c := range map[string]struct {
		after  time.Duration
		cancel bool
		says   string
	}{
		runner.WhyTimeoutWarned:     {50 * time.Second, true, "it has run for 51s, the time limit of policy root* is 1m0s"},
		runner.WhyTimeoutReached:    {70 * time.Second, false, "it has run for 1m11s, the time limit of policy root* is 1m0s, and this policy ends nothing"},
		runner.WhyTimeoutCancelled:  {70 * time.Second, true, "what it does in the database was cancelled, and should that not end it, its connection is closed within 5s of 2000-01-01T00:01:2"},
		runner.WhyTimeoutTerminated: {95 * time.Second, true, "its connection to the database was closed; the server has not let it go yet"},
		runner.WhyTimeoutStuck:      {110 * time.Second, true, "its connection to the database was closed; the server has not let it go; it keeps its slot until it ends, or the worker that runs it is restarted"},
	} {
		whyCases[code] = whyCase{c.says, overdue(c.after, c.cancel)}
	}
}

// TestWhyInEveryCase: each reason is given where it is the true one. TestWhy,
// TestDrains, TestVisitorsComeFirst, TestNeutralizedDatabase, TestWhyMaxCapacity, TestWhyOfSetbacks and
// TestQuarantineEndsWithARequeue have the rest.
func TestWhyInEveryCase(t *testing.T) {
	missing := whyCodes(t)
	for _, code := range []string{
		"channel_full", "failed", "sequential_failed", "eta", "done", "wait_dependencies", "paused_channel", "unknown_job",
		"database_unhealthy", "database_neutralized", "database_not_served", "standby", "no_leader", "upstreams_drained",
		"max_capacity", "quarantined", "suspected", "no_server",
	} {
		require.NotContains(t, whyCases, code)
		require.Contains(t, missing, code)
		delete(missing, code)
	}
	for code, c := range whyCases {
		require.Contains(t, missing, code)
		delete(missing, code)
		t.Run(code, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				r, k := c.do(b)
				if code != "ready" && code != "behind" {
					b.settle(500 * time.Millisecond)
				}
				w, err := r.Why(b.Context(), k)
				require.NoError(b, err)
				require.Equal(b, code, w.Code, w.Text)
				require.Contains(b, w.Text, c.says)
				require.Equal(b, code != "database_undetected", w.Found, "there are rows wherever there is the add-on")
				b.settle(time.Second) // what was about to begin has begun
			})
		})
	}
	require.Empty(t, missing, "codes that no test expects")
}

func TestWhy(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "sick")
		b.Unhealthy("sick", "it has a cold")
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		cfg := b.config("root:2,seq:1:sequential")
		r := b.start(cfg)
		b.jobs("prod", "", "a", 3)
		failed := mock.NewJob("prod", "failed")
		failed.State, failed.Channel = channels.Failed, "seq"
		b.Insert(failed)
		b.jobs("prod", "seq", "s", 1)
		b.jobs("sick", "", "c", 1)
		late := mock.NewJob("prod", "late")
		late.ETA = time.Now().Add(time.Hour).UnixMicro()
		done := mock.NewJob("prod", "done")
		done.State = channels.Done
		parent := mock.NewJob("prod", "parent")
		parent.State = channels.WaitDependencies
		b.Insert(late, done, parent)
		b.settle(5 * time.Second)
		require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: []runner.Pause{{Channel: "root.mail", By: "operator"}}}))
		b.jobs("prod", "mail.de", "m", 1)
		b.settle(time.Second)
		for uuid, want := range map[string]string{
			"a1": "running", "a3": "channel_full", "failed": "failed", "s1": "sequential_failed", "late": "eta",
			"done": "done", "parent": "wait_dependencies", "m1": "paused_channel", "nobody": "unknown_job",
		} {
			w, err := r.Why(b.Context(), key("prod", uuid))
			require.NoError(b, err)
			require.Equal(b, want, w.Code, uuid)
			require.NotEmpty(b, w.Text)
			require.Equal(b, want != "unknown_job", w.Found, uuid)
		}
		w, err := r.Why(b.Context(), key("sick", "c1"))
		require.NoError(b, err)
		require.Equal(b, "database_unhealthy", w.Code)
		require.Contains(b, w.Text, "a cold")
		w, err = r.Why(b.Context(), key("other", "a1"))
		require.NoError(b, err)
		require.Equal(b, runner.WhyNotServed, w.Code)

		// A second node stands by.
		standby := b.start(cfg)
		w, err = standby.Why(b.Context(), key("prod", "a3"))
		require.NoError(b, err)
		require.Equal(b, runner.WhyStandby, w.Code)
		w, err = standby.Why(b.Context(), key("prod", "a1"))
		require.NoError(b, err)
		require.Equal(b, "running", w.Code)
		require.Regexp(b, `^the job is started; this process does not lead the runner, .+ does: ask there$`, w.Text)
		b.Down()
		b.settle(time.Minute)
		w, err = r.Why(b.Context(), key("prod", "a3"))
		require.NoError(b, err)
		require.Equal(b, runner.WhyNoLeader, w.Code)
		require.NotEmpty(b, w.Problem)
		page, err := r.Jobs(b.Context(), runner.JobQuery{})
		require.NoError(b, err, "which databases there are is known still")
		require.Len(b, page.Problems, 2)
	})
}

// pages is a driver whose application has a page for each job.
type pages struct {
	fakeDriver
	driver.Operator
}

func (*pages) Page(site, database string, id int64) string {
	return fmt.Sprint(site, "/", database, "/", id)
}

func linker(d driver.Driver) driver.Driver {
	operator, _ := driver.AsOperator(d)
	return &pages{fakeDriver{Driver: d}, operator}
}

// TestJob: of a job, all is told that its row says, what is confidential only where that is wanted, and why it
// does not run as [runner.Runner.Why] tells it.
func TestJob(t *testing.T) {
	for _, c := range []struct {
		payloads, links bool
		site, page      string
	}{
		{true, true, "https://odoo", "https://odoo/prod/1004"},
		{false, true, "", ""},
		{false, false, "https://odoo", ""},
	} {
		inBubble(t, func(b *bench) {
			r := b.prod("root:9", func(cfg *runner.Config) {
				cfg.Payloads, cfg.Site = c.payloads, c.site
				if c.links {
					cfg.Driver = linker(cfg.Driver)
				}
			})
			b.control(r, runner.Pause{})
			k := b.one("prod", "a")
			b.settle(time.Second)
			why, err := r.Why(b.Context(), k)
			require.NoError(b, err)
			require.Nil(b, why.Record)
			job, err := r.Job(b.Context(), k)
			require.NoError(b, err)
			require.Equal(b, k, job.Record.Key)
			require.Equal(b, c.payloads, job.Record.Payload != nil)
			require.Equal(b, c.page, job.Record.Page)
			job.Record, job.Detail, why.Detail = nil, nil, nil
			require.Equal(b, why, job)

			job, err = r.Job(b.Context(), channels.Key{DB: "prod", UUID: "nothing"})
			require.NoError(b, err)
			require.False(b, job.Found)
			require.Equal(b, runner.WhyUnknownJob, job.Code)
			job, err = r.Job(b.Context(), channels.Key{DB: "nowhere", UUID: "a"})
			require.NoError(b, err)
			require.False(b, job.Found)
			require.Nil(b, job.Record)
		})
	}
}
