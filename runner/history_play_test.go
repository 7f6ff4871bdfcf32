package runner_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// play is a history that happens.
type play struct {
	*mock.World
	h     *history
	dbs   []string
	nodes []*player
	desk  *desk
	log   chronicle
	// jobs are those that must end. At most one of them has a number.
	jobs     []channels.Key
	inserted int
	// base are the generations that the databases have now.
	base map[string]generation
	// touched are the jobs that something other than the engines has changed.
	touched map[channels.Key]bool

	mu sync.Mutex // guards the following
	// wrong is the first thing that did not hold.
	wrong error
	// retired is since when a database may not be served, and was until when it was not.
	retired, was map[string]time.Time
	// swapped are the retired databases that have another generation once they are repaired.
	swapped map[string]bool
	// hidden is until when rows of a database may not have been read, because its table was locked.
	hidden map[string]time.Time
	// foreign are the jobs that workers of others run.
	foreign map[channels.Key]bool
	// disturbed is set once the lead or a lock was interrupted, so that nobody knows any more who
	// claimed what.
	disturbed bool
}

// player is a node.
type player struct {
	*play
	index    int
	cfg      runner.Config
	runner   *runner.Runner
	node     *mock.Driver
	register *exchange.Register
	refused  atomic.Bool
	panics   atomic.Bool
	// began is when its engine did; leads is since when it leads, zero if it does not, and told are the
	// databases that have told since.
	began, leads time.Time
	// deposed are the times at which it was seen to lead no more.
	deposed []time.Time
	told    map[string]bool
	// own are its last requests for jobs since it leads, and read is when all jobs of a database had been
	// read.
	own  map[channels.Key]ownRequest
	read map[string]time.Time
}

// ownRequest is when a request was sent, and when it was answered; zero if it was not.
type ownRequest struct{ sent, answered time.Time }

func newPlay(h *history) *play {
	p := &play{
		World: mock.NewWorld(), h: h, desk: &desk{}, base: map[string]generation{}, touched: map[channels.Key]bool{},
		retired: map[string]time.Time{}, swapped: map[string]bool{}, was: map[string]time.Time{}, hidden: map[string]time.Time{}, foreign: map[channels.Key]bool{},
		log: chronicle{began: time.Now()},
	}
	p.OnSend(p.sent)
	for i, g := range h.Databases {
		name := fmt.Sprintf("db%d", i)
		p.dbs = append(p.dbs, name)
		p.addDatabase(name, g)
	}
	for i := range h.Nodes {
		p.nodes = append(p.nodes, p.newPlayer(i))
	}
	return p
}

func (p *play) addDatabase(name string, g generation) {
	p.AddDatabase(name)
	p.base[name] = g
	p.SetChannels(name, channels.Config{Name: "root"}, channels.Config{Name: "root.sub", Capacity: p.h.Sub})
	p.wellAgain(name)
}

func (p *play) newPlayer(i int) *player {
	n := &player{play: p, index: i, node: p.Driver(), register: exchange.NewRegister(), told: map[string]bool{},
		own: map[channels.Key]ownRequest{}, read: map[string]time.Time{}}
	n.cfg = runner.Config{
		Name: "default", Postgres: &pgx.ConnConfig{},
		Driver: &fakeDriver{Driver: n.node, openCluster: func() error {
			if n.refused.Load() {
				return errFault
			}
			return nil
		}},
		Targets: upstreams{"odoo0", "odoo1"}, Exchanges: n.register, Handover: p.desk, Events: n.event,
		Logger: zap.New(&complaints{player: n, level: zapcore.ErrorLevel}),
	}
	if full {
		n.cfg.Logger = zap.New(&complaints{player: n, level: zapcore.DebugLevel})
	}
	if p.h.Limited {
		n.cfg.Server = upstream.Limits{MaxJobs: p.h.Root + 1} // which is never reached
	}
	if p.h.Crowded {
		n.cfg.Connections = runner.ConnectionsLeast
	}
	if p.h.Drowsy {
		n.cfg.Hibernate = &runner.Hibernate{After: 10 * time.Second}
	}
	n.channels(p.h.Trees)
	n.limited(p.h.Limited)
	return n
}

// limited gives all jobs a time limit, or none.
func (n *player) limited(yes bool) {
	n.cfg.Policies = nil
	if yes {
		n.cfg.Policies = []policy.Policy{{Channels: []string{"root*"}, Timeout: &policy.Timeout{
			After: 6 * time.Second, Warn: 3 * time.Second, Cancel: true, Grace: 4 * time.Second, Retry: n.h.Retried,
		}}}
	}
}

// channels makes the configuration one tree, or one for each database.
func (n *player) channels(trees bool) {
	n.cfg.Channels, n.cfg.DatabaseChannels = nil, nil
	if trees {
		n.cfg.DatabaseChannels = &channels.Capacities{Max: n.h.Root}
		return
	}
	n.cfg.Channels, _, _ = channels.ParseConfigs(fmt.Sprintf("root:%d,sub:%d", n.h.Root, n.h.Sub))
}

func (n *player) start() {
	r, err := runner.New(n.cfg)
	if err != nil {
		n.fail("%w", err)
		return
	}
	n.settle(1) // so that what another engine has sent was before
	n.mu.Lock()
	n.began = time.Now()
	n.mu.Unlock()
	n.runner = r
	r.Start()
}

func (n *player) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.runner.Stop(ctx); err != nil {
		n.fail("stop: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.resigns()
}

// resigns notes that the node leads no more. The caller holds mu.
func (n *player) resigns() {
	if !n.leads.IsZero() {
		n.deposed, n.leads, n.disturbed = append(n.deposed, time.Now()), time.Time{}, true
	}
	clear(n.told)
	clear(n.own)
	clear(n.read)
}

// event hears what an engine says.
func (n *player) event(ev runner.Event) {
	if n.panics.CompareAndSwap(true, false) {
		n.mu.Lock()
		n.resigns()
		n.began = time.Now().Add(1)
		n.mu.Unlock()
		panic("as the history wants it")
	}
	if full {
		n.log.add("node %d: %s %s %s %s", n.index, ev.Kind, ev.Database, ev.UUID, ev.Detail)
	}
	if ev.Kind == runner.EventJobGone && ev.Detail == "the job was deleted" {
		if row, ok := n.Row(key(ev.Database, ev.UUID)); ok {
			n.fail("%s counts as deleted, and is %s", ev.UUID, row.State)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case ev.Kind == runner.EventLeaderChanged && ev.Detail == "leading":
		n.leads = time.Now()
		clear(n.told)
	case ev.Kind == runner.EventLeaderChanged:
		n.resigns()
	case ev.Kind == runner.EventDispatched:
		n.own[key(ev.Database, ev.UUID)] = ownRequest{sent: time.Now()}
	case ev.Kind == runner.EventAnswered && ev.Outcome == driver.Answered.String():
		own := n.own[key(ev.Database, ev.UUID)]
		own.answered = time.Now()
		n.own[key(ev.Database, ev.UUID)] = own
	case ev.Kind == runner.EventResynced:
		n.read[ev.Database] = time.Now()
	case ev.Kind == runner.EventDatabaseReady:
		n.told[ev.Database] = true
	}
}

// complaints is a log that fails a history if a line in it says that something cannot be.
type complaints struct {
	*player
	level zapcore.Level
}

func (c *complaints) Enabled(l zapcore.Level) bool      { return l >= c.level }
func (c *complaints) With([]zapcore.Field) zapcore.Core { return c }
func (c *complaints) Sync() error                       { return nil }
func (c *complaints) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *complaints) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if full {
		enc := zapcore.NewMapObjectEncoder()
		for _, f := range fields {
			f.AddTo(enc)
		}
		c.log.add("node %d: %s %v", c.index, e.Message, enc.Fields)
	}
	for _, bad := range []string{"that is not served was scheduled", "cannot apply the channels", "panic in question", "panic in session", "panic in dispatch", "panic in maintenance"} {
		if strings.Contains(e.Message, bad) {
			c.fail("%s", e.Message)
		}
	}
	return nil
}

// fail notes the first thing that is wrong.
func (p *play) fail(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed(format, args...)
}

// failed is fail for those who hold mu.
func (p *play) failed(format string, args ...any) {
	if p.wrong == nil {
		p.wrong = fmt.Errorf(format, args...)
		p.log.add("WRONG: %v", p.wrong)
	}
}

func (p *play) verdict() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wrong
}

func (p *play) settle(d time.Duration) {
	<-time.After(d) // the bubble's time
	synctest.Wait()
}

// play lets it happen. It ends as soon as something is wrong.
func (p *play) play() error {
	for _, n := range p.nodes {
		n.start()
		p.settle(100 * time.Millisecond)
	}
	p.settle(time.Second)
	for i := range p.h.Steps {
		s := &p.h.Steps[i]
		p.happen(s)
		p.settle(s.Wait)
		if p.check(); p.verdict() != nil {
			break
		}
	}
	if p.verdict() == nil {
		p.end()
	}
	for _, n := range p.nodes {
		n.stop()
	}
	p.Close()
	synctest.Wait()
	if err := p.verdict(); err != nil {
		return fmt.Errorf("%w\n%s", err, &p.log)
	}
	return nil
}

// moment is a step that happens.
type moment struct {
	*play
	db   string
	node *player
	dice *rand.Rand
}

func (p *play) happen(s *historyStep) {
	m := &moment{play: p, db: p.dbs[s.DB%len(p.dbs)], node: p.nodes[s.Node%len(p.nodes)], dice: rand.New(rand.NewPCG(s.Dice, 1))}
	what, ok := historySteps[s.What]
	if !ok {
		p.fail("nonsense: %s", s.What)
		return
	}
	p.log.add("%s, %s, node %d", s.What, m.db, m.node.index)
	what.do(m)
}

// pause is mostly short.
func (m *moment) pause(mean time.Duration) time.Duration {
	return time.Duration(m.dice.ExpFloat64() * float64(mean)).Truncate(time.Millisecond)
}

// wait lets a while pass in the middle of a step.
func (m *moment) wait(mean time.Duration) { m.settle(m.pause(mean)) }

func (m *moment) one(of int) bool { return m.dice.IntN(of) == 0 }

var errDown = errors.New("down")
