// Package alerts hands events of the runners that people may want to hear of on to Caddy's events app.
package alerts

import (
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// alertWindow is how long events of one kind about one thing are gathered
	// after the first of them has been handed on.
	alertWindow = 10 * time.Second
	// alertGroups bounds what is gathered at the same time, and alertQueue what
	// waits for slow handlers.
	alertGroups = 1000
	alertQueue  = 1000
)

// alertKinds are the events that Caddy's events app hears of, as
// "jobrunner.<kind>". Those of single jobs that go well are not among them.
var alertKinds = map[runner.EventKind]bool{
	runner.EventJobFailed: true, runner.EventJobRescued: true, runner.EventJobNotRun: true,
	runner.EventLeaderChanged: true, runner.EventDatabaseReady: true, runner.EventDatabaseUnhealthy: true,
	runner.EventDatabaseLost: true, runner.EventDatabaseHeld: true, runner.EventDatabaseUpgrading: true, runner.EventUpstreamUp: true,
	runner.EventUpstreamUnhealthy: true, runner.EventUpstreamDrained: true, runner.EventUpstreamUndrained: true,
	runner.EventTimeoutWarned: true, runner.EventTimeoutReached: true, runner.EventTimeoutCancelled: true,
	runner.EventTimeoutTerminated: true, runner.EventTimeoutStuck: true,
	runner.EventDependentsReleased: true,
	runner.EventJobQuarantined:     true, runner.EventChannelBlocked: true, runner.EventResyncRepaired: true, runner.EventPaused: true, runner.EventResumed: true,
	runner.EventObjectiveBurns: true, runner.EventObjectiveKept: true,
}

// process hands the events of this process on. It is global because a reload must not make it forget
// what it has told already.
var process = alerter{groups: make(map[alertKey]*alertGroup), emit: emitAlerts}

// alertKey is what events have in common that are gathered.
type alertKey struct {
	kind                                        runner.EventKind
	runner, database, channel, upstream, policy string
}

// alertGroup is the events of one key within a window.
type alertGroup struct {
	last  runner.Event
	count int
}

// alerter emits the first event of a key at once, those that follow within a
// window as one, and does all that in a goroutine of its own that lives as long
// as there is something to do: handlers may block.
type alerter struct {
	emit func(groups []alertGroup, lost int)

	mu     sync.Mutex // guards the following
	groups map[alertKey]*alertGroup
	queue  []alertGroup
	busy   bool
	// lost counts what was dropped because the handlers are too slow.
	lost int
}

// forceInterval is the time between two looks whether a configuration is in force.
const forceInterval = 50 * time.Millisecond

// Emitter returns the function by which a configuration emits events. Which apps there are is known when
// all modules have been provisioned, so it asks later. It waits until the configuration is in force, or
// ends: Caddy's apps start in any order, and until then the events app may still be noting who wants to
// hear of what, which must not happen while it is asked.
func Emitter(ctx caddy.Context) func(string, map[string]any) {
	return func(name string, data map[string]any) {
		app, err := ctx.AppIfConfigured("events")
		if err != nil {
			return // no one listens
		}
		events, ok := app.(*caddyevents.App)
		if ok && inForce(ctx, events) && events.ShouldEmit(name) {
			events.Emit(ctx, name, data)
		}
	}
}

// inForce waits until an events app is that of the configuration in force. It reports false if its own
// configuration has ended.
func inForce(ctx caddy.Context, events *caddyevents.App) bool {
	for {
		if app, err := caddy.ActiveContext().AppIfConfigured("events"); err == nil && app == any(events) {
			return true
		}
		select {
		case <-time.After(forceInterval):
		case <-ctx.Done():
			return false
		}
	}
}

// Observe hands an event on if it is one of those, soon. It does not block.
func Observe(ev runner.Event) { process.publish(ev) }

func (a *alerter) publish(ev runner.Event) {
	if !alertKinds[ev.Kind] {
		return
	}
	key := alertKey{ev.Kind, ev.Runner, ev.Database, ev.Channel, ev.Upstream, ev.Policy}
	a.mu.Lock()
	defer a.mu.Unlock()
	if g := a.groups[key]; g != nil {
		g.last = ev
		g.count += max(ev.Count, 1)
		return
	}
	if len(a.groups) < alertGroups {
		a.groups[key] = new(alertGroup)
		time.AfterFunc(alertWindow, func() { a.close(key) })
	}
	a.enqueue(alertGroup{last: ev, count: max(ev.Count, 1)})
}

// close ends the window of a key. While events go on, it begins anew.
func (a *alerter) close(key alertKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.groups[key]
	if g == nil || g.count == 0 {
		delete(a.groups, key)
		return
	}
	a.enqueue(*g)
	g.count = 0
	time.AfterFunc(alertWindow, func() { a.close(key) })
}

// enqueue leaves a group for the goroutine; the caller holds mu.
func (a *alerter) enqueue(g alertGroup) {
	if len(a.queue) >= alertQueue {
		a.lost++
		return
	}
	a.queue = append(a.queue, g)
	if !a.busy {
		a.busy = true
		go a.work()
	}
}

// work emits until nothing is left.
func (a *alerter) work() {
	for {
		a.mu.Lock()
		queue, lost := a.queue, a.lost
		a.queue, a.lost = nil, 0
		if len(queue) == 0 {
			a.busy = false
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		a.emit(queue, lost)
	}
}

// emitAlerts hands groups on to the events app of the configuration in force.
func emitAlerts(groups []alertGroup, lost int) {
	gen := supervisor.Current()
	if gen == nil || gen.Emit == nil {
		return
	}
	for i := range groups {
		g := &groups[i]
		err := guard.Call(func() error {
			gen.Emit("jobrunner."+string(g.last.Kind), g.data())
			return nil
		})
		if err != nil {
			gen.Logger.Error("emitting an event", zap.Error(err))
		}
	}
	if lost > 0 {
		gen.Logger.Warn("handlers of events are too slow, some events were dropped", zap.Int("dropped", lost))
	}
}

// data is what handlers see, for example as {event.data.database}. Of gathered
// events it is the last one, and count says how many there were.
func (g *alertGroup) data() map[string]any {
	ev := &g.last
	return map[string]any{
		"runner": ev.Runner, "database": ev.Database, "uuid": ev.UUID, "channel": ev.Channel,
		"model": ev.Model, "method": ev.Method, "upstream": ev.Upstream, "outcome": ev.Outcome, "exception": ev.Exception,
		"status": ev.Status, "retry": ev.Retry, "detail": ev.Detail, "count": g.count,
	}
}
