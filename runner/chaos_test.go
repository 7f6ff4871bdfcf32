package runner_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
)

// chaosSeeds is the number of runs. The engine's own jitter is random too, so a
// seed repeats the faults and not their every consequence.
const chaosSeeds = 30

// Whatever goes wrong, for as long as it likes: when it is over, every job ends,
// none has run twice at once, no channel was ever above its capacity, and
// nothing is left behind.
func TestChaos(t *testing.T) {
	for seed := range uint64(chaosSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				c := &chaos{bench: b, rand: rand.New(rand.NewPCG(seed, 20)), modes: seed%3 != 0}
				c.run()
			})
		})
	}
}

// chaos is one run with its dice.
type chaos struct {
	*bench
	rand *rand.Rand
	// modes is set if the configuration changes between one channel tree and one
	// for each database.
	modes    bool
	cfg      [2]runner.Config
	runners  [2]*runner.Runner
	dbs      []string
	jobs     []channels.Key
	inserted int
}

const (
	chaosRoot = 5
	chaosSub  = 2
)

func (c *chaos) run() {
	c.dbs = []string{"one", "two", "three"}[:1+c.rand.IntN(3)]
	c.AddDatabase(c.dbs...)
	for _, db := range c.dbs {
		c.SetChannels(db, channels.Config{Name: "root"}, channels.Config{Name: "root.sub", Capacity: chaosSub})
	}
	ups := upstreams{"odoo1", "odoo2"}
	for i := range c.cfg {
		c.cfg[i] = c.config(fmt.Sprintf("root:%d,sub:%d", chaosRoot, chaosSub))
		c.cfg[i].Targets = ups
		c.cfg[i].Exchanges = exchange.NewRegister()
		c.runners[i] = c.start(c.mode(c.cfg[i]))
	}
	for range 60 + c.rand.IntN(60) {
		c.step()
		c.settle(c.pause())
	}
	c.heal()
	// The longest that anything takes: a job that runs, dies, and is rescued,
	// and the pauses that have grown meanwhile.
	c.settle(30 * time.Minute)
	c.check()
}

// pause is mostly short.
func (c *chaos) pause() time.Duration {
	return time.Duration(c.rand.ExpFloat64() * float64(2*time.Second))
}

// step does something that happens.
func (c *chaos) step() {
	db := c.dbs[c.rand.IntN(len(c.dbs))]
	up := fmt.Sprintf("odoo%d", 1+c.rand.IntN(2))
	what := c.rand.IntN(20)
	if c.modes && (c.rand.IntN(4) == 0 || what == 1 || what == 2 || what == 14) {
		// In the place of what changes the leader: a new one waits only so long for
		// databases that do not tell what they run, so under load it may start more.
		c.change(db)
		return
	}
	switch what {
	case 0:
		c.LoseSession(db)
	case 1:
		c.LoseClusters()
	case 2:
		c.Down()
		c.settle(c.pause() * 3)
		c.Up()
	case 3:
		c.Fault(db, func(f *mock.Faults) { f.LoseAfterClaim = true })
	case 4:
		c.fault(db, func(f *mock.Faults) { f.HangClaim = true })
	case 5:
		c.fault(db, func(f *mock.Faults) { f.SnapshotErr, f.SnapshotErrAfter = errFault, c.rand.IntN(5) })
	case 6:
		c.fault(db, func(f *mock.Faults) { f.ReadErr = errFault })
	case 7:
		c.fault(db, func(f *mock.Faults) { f.Deaf = true })
	case 8:
		c.fault(db, func(f *mock.Faults) { f.Frozen = true })
	case 9:
		c.fault(db, func(f *mock.Faults) { f.ClaimErr, f.InspectErr, f.RescueErr = errFault, errFault, errFault })
	case 10:
		c.SetBusy(db)
		c.settle(c.pause())
		c.SetBusy()
	case 11:
		c.UpstreamFault(up, func(f *mock.UpstreamFaults) { f.FailBeforeSend, f.CheckErr = -1, errors.New("down") })
	case 12:
		c.UpstreamFault(up, func(f *mock.UpstreamFaults) { f.RefuseN = 1 + c.rand.IntN(3) })
	case 13:
		c.UpstreamFault(up, func(f *mock.UpstreamFaults) { *f = mock.UpstreamFaults{} })
	case 14:
		i := c.rand.IntN(2)
		c.stop(c.runners[i])
		c.settle(c.pause())
		c.runners[i] = c.start(c.mode(c.cfg[i]))
	case 15:
		if err := c.runners[c.rand.IntN(2)].Reconfigure(c.mode(c.cfg[c.rand.IntN(2)])); err != nil {
			c.Error(err)
		}
	default:
		for range 1 + c.rand.IntN(5) {
			c.insert(db)
		}
	}
}

// mode makes a configuration one of either kind.
func (c *chaos) mode(cfg runner.Config) runner.Config {
	if c.modes && c.rand.IntN(2) == 0 {
		cfg.Channels = nil
		cfg.DatabaseChannels = &channels.Capacities{Max: chaosRoot}
	}
	return cfg
}

// change does what happens with channels that stand in databases.
func (c *chaos) change(db string) {
	switch c.rand.IntN(12) {
	case 0:
		c.fault(db, func(f *mock.Faults) { f.ChannelsErr = errFault })
	case 1:
		c.fault(db, func(f *mock.Faults) { f.ChannelsErr = fmt.Errorf("%w: %w", driver.ErrChannels, errFault) })
	case 2:
		c.SetChannels(db, channels.Config{Name: "root.sub", Sequential: true})
		c.settle(c.pause())
		c.SetChannels(db, channels.Config{Name: "root", Capacity: c.rand.IntN(9)}, channels.Config{Name: "root.sub", Capacity: chaosSub})
	case 3:
		c.Neutralized(db)
		c.LoseSession(db)
		c.settle(c.pause() * 3)
		c.Fault(db, func(f *mock.Faults) { *f = mock.Faults{} })
	case 4:
		c.DropDatabase(db)
		c.jobs = slices.DeleteFunc(c.jobs, func(k channels.Key) bool { return k.DB == db })
		c.settle(c.pause() * 10)
		c.AddDatabase(db)
		c.SetChannels(db, channels.Config{Name: "root"}, channels.Config{Name: "root.sub", Capacity: chaosSub})
	default:
		for range 10 {
			c.insert(db)
		}
		if err := c.runners[c.rand.IntN(2)].Reconfigure(c.mode(c.cfg[c.rand.IntN(2)])); err != nil {
			c.Error(err)
		}
	}
}

// fault is something that is wrong with a database for a while.
func (c *chaos) fault(db string, change func(*mock.Faults)) {
	c.Fault(db, change)
	c.settle(c.pause() * 3)
	c.Fault(db, func(f *mock.Faults) { *f = mock.Faults{} })
}

// insert adds a job of which anything can become.
func (c *chaos) insert(db string) {
	k := key(db, fmt.Sprintf("job%d", c.inserted))
	c.inserted++
	c.jobs = append(c.jobs, k)
	for range c.rand.IntN(3) {
		c.PlanFor(k, c.plan())
	}
	c.PlanFor(k, mock.Plan{RunFor: c.pause() / 2})
	c.one(db, k.UUID, func(j *mock.Job) {
		j.Priority = int32(c.rand.IntN(3))
		j.MaxRetries = 0
		if c.rand.IntN(2) == 0 {
			j.Channel = "sub"
		}
		if c.rand.IntN(5) == 0 {
			j.ETA = time.Now().Add(c.pause() * 5).UnixMicro()
		}
	})
}

// plan is one request that may go wrong.
func (c *chaos) plan() mock.Plan {
	p := mock.Plan{StartAfter: c.pause() / 4, RunFor: c.pause(), HoldAnswer: c.pause() / 4}
	switch c.rand.IntN(8) {
	case 0:
		p.FailBeforeSend = true
	case 1:
		p.Refuse = []int{http.StatusServiceUnavailable, http.StatusSeeOther}[c.rand.IntN(2)]
	case 2:
		p.StayEnqueued = true
	case 3:
		// Not before the job has started, or the request stays in a backlog
		// that the engine cannot see.
		p.StartAfter, p.DropConnAfter = 0, 1+c.pause()/2
	case 4:
		p.Crash = true
	case 5:
		// Answered at once: while one node waits for the answer, another that
		// leads meanwhile sees nothing but a pending job.
		p.Ends, p.Then, p.HoldAnswer = channels.Pending, func(j *mock.Job) { j.Retry++ }, 0
	case 6:
		p.Ends, p.Status = channels.Failed, http.StatusInternalServerError
	}
	return p
}

// heal puts everything right.
func (c *chaos) heal() {
	c.Up()
	c.SetBusy()
	for _, db := range c.dbs {
		c.Fault(db, func(f *mock.Faults) { *f = mock.Faults{} })
	}
	for _, up := range []string{"odoo1", "odoo2"} {
		c.UpstreamFault(up, func(f *mock.UpstreamFaults) { *f = mock.UpstreamFaults{} })
	}
}

func (c *chaos) check() {
	for _, k := range c.jobs {
		row, ok := c.Row(k)
		require.True(c, ok)
		require.True(c, row.State.Finished(), "%s is %s after %d requests", k, row.State, len(c.RunsOf(k)))
	}
	leaders := 0
	for _, r := range c.runners {
		if c.status(r).Leader {
			leaders++
		}
		c.requireIdleExceptFailed(r)
	}
	require.Equal(c, 1, leaders)
	// A request that broke is not open, but its job may run on, so what ran is
	// counted and not what was open.
	require.LessOrEqual(c, c.mostRunning(nil), chaosRoot)
	if !c.modes {
		require.LessOrEqual(c, c.mostRunning(mock.InChannel("root.sub")), chaosSub)
	}
	for _, db := range c.dbs {
		require.LessOrEqual(c, c.mostRunning(func(r mock.Run) bool {
			return r.Job.DB == db && mock.InChannel("root.sub")(r)
		}), chaosSub)
	}
}

func (c *chaos) requireIdleExceptFailed(r *runner.Runner) {
	c.Helper()
	st := c.status(r)
	require.Zero(c, st.Claiming+st.Open+st.Watched+st.Running, "tasks left: %+v", st)
	for _, ch := range st.Channels {
		require.Zero(c, ch.Running+ch.Queued, "%s", ch)
	}
	for _, up := range st.Upstreams {
		require.True(c, up.Up)
		require.Zero(c, up.InFlight)
	}
}

// mostRunning returns the largest number of jobs that were executed at once.
func (c *chaos) mostRunning(match func(mock.Run) bool) int {
	most := 0
	runs := c.Runs()
	for _, r := range runs {
		if r.Started.IsZero() || match != nil && !match(r) {
			continue
		}
		n := 0
		for _, o := range runs {
			if (match == nil || match(o)) && !o.Started.IsZero() && !o.Started.After(r.Started) && o.Ended.After(r.Started) {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
