package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/forecast"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

const (
	// simulated is for how long back jobs are replayed unless the request says otherwise, and
	// simulatedLimit bounds their number.
	simulated      = time.Hour
	simulatedLimit = 300_000
	// missingShare is which part of the jobs may be missing in a recording.
	missingShare = .01
	// maxCapacity stands for the capacity of all databases together, where each has its own channels.
	maxCapacity = "max_capacity"
)

// simulating lets one simulation at a time have a processor.
var simulating = make(chan struct{}, 1)

// simulatingTurn waits until no other simulation, or forecast, is computed.
func simulatingTurn(ctx context.Context, what string) (release func(), err error) {
	select {
	case simulating <- struct{}{}:
		return func() { <-simulating }, nil
	case <-ctx.Done():
		return nil, Error(http.StatusServiceUnavailable, "another %s is under way", what)
	}
}

// GetSimulation tells what other capacities would have made of the jobs of one runner. It changes nothing.
func GetSimulation(w http.ResponseWriter, r *http.Request) error {
	q, err := Query(r, "runner", "set", "from", "to")
	if err != nil {
		return err
	}
	set, err := capacities(q["set"])
	if err != nil {
		return err
	}
	now := time.Now()
	from, err := pastTime("from", q.Get("from"), now)
	if err != nil {
		return err
	}
	to, err := pastTime("to", q.Get("to"), now)
	if err != nil {
		return err
	}
	if to.IsZero() {
		to = now
	}
	if from.IsZero() {
		from = to.Add(-simulated)
	}
	if !from.Before(to) {
		return Error(http.StatusBadRequest, "it ends before it begins")
	}
	name, k, err := OneRunner(q.Get("runner"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), api.QuestionTimeout)
	defer cancel()
	release, err := simulatingTurn(ctx, "simulation")
	if err != nil {
		return err
	}
	defer release()
	doc, err := simulate(ctx, k, set, from, to)
	switch {
	case errors.Is(err, forecast.ErrRefused):
		return Error(http.StatusConflict, "%w", err)
	case err != nil:
		return err
	}
	doc.Runner = name
	return Answer(w, http.StatusOK, doc)
}

// capacities reads root.mail=4, any number of them, with commas between them.
func capacities(words []string) (map[string]int, error) {
	set := make(map[string]int)
	for _, word := range words {
		for part := range strings.SplitSeq(word, ",") {
			name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
			n, err := strconv.Atoi(value)
			if !ok || err != nil || n < 1 || n > 100_000 || name == "" {
				return nil, Error(http.StatusBadRequest, "set %q is no channel with its capacity, such as root.mail=4", part)
			}
			if name != maxCapacity {
				name = channels.Normalize(name)
			}
			if before, ok := set[name]; ok && before != n {
				return nil, Error(http.StatusBadRequest, "set names %s twice, with %d and with %d", name, before, n)
			}
			set[name] = n
		}
	}
	return set, nil
}

// recordedJobs are the attempts of a runner that were sent, or had to wait, between two times.
func recordedJobs(ctx context.Context, k *supervisor.Runner, from, to time.Time) (jobs []forecast.Job, rec *history.Recording, err error) {
	log := k.History()
	if log == nil {
		return nil, nil, Error(http.StatusNotFound, "the runner has no history: its configuration says history off")
	}
	rec, err = log.Recording(ctx, from, time.Now().Add(time.Second))
	if err != nil {
		return nil, nil, Failure(err)
	}
	for i := range rec.Attempts {
		a := &rec.Attempts[i]
		if a.Ready().Before(to) {
			jobs = append(jobs, forecast.Job{Database: a.Database, Channel: a.Channel, Priority: a.Priority, Ready: a.Ready(), Run: a.Run, Sent: a.Sent()})
		}
	}
	return jobs, rec, nil
}

func simulate(ctx context.Context, k *supervisor.Runner, set map[string]int, from, to time.Time) (*api.Simulation, error) {
	st, err := k.Status(ctx)
	if err != nil {
		return nil, Failure(err)
	}
	jobs, rec, err := recordedJobs(ctx, k, from, to)
	if err != nil {
		return nil, err
	}
	if len(jobs) > simulatedLimit {
		return nil, Error(http.StatusBadRequest, "%d jobs are more than the %d that can be replayed, take a shorter time", len(jobs), simulatedLimit)
	}
	if float64(rec.Missing) > missingShare*float64(len(jobs)) {
		return nil, fmt.Errorf("%w: %d of the jobs of that time were not recorded, beside %d that were", forecast.ErrRefused, rec.Missing, len(jobs))
	}
	if rec.Known.After(from) {
		from = rec.Known
	}
	cfg := k.Config()
	if err := knownChannels(&cfg, &st, jobs, set); err != nil {
		return nil, err
	}
	same, other := trees(cfg, &st, nil), trees(cfg, &st, set)
	a, err := forecast.Simulate(ctx, forecast.Question{
		Jobs: jobs, From: from, Until: to, Same: same, Other: other, Own: cfg.DatabaseChannels != nil, Bear: bear(&st),
	})
	switch {
	case errors.Is(err, forecast.ErrRefused):
		return nil, err
	case err != nil:
		return nil, Failure(err)
	}
	doc := &api.Simulation{From: from.UTC(), To: to.UTC(), Set: set, Jobs: len(jobs), MostWas: a.MostWas, Most: a.MostOther, Channels: []api.SimulatedChannel{}}
	doc.Assumes = assumes(&cfg, a, rec)
	wasCapacity, wouldCapacity := capacitiesOf(same), capacitiesOf(other)
	for i := range a.Was {
		at := channels.ID{DB: a.Was[i].Database, Channel: a.Was[i].Channel}
		doc.Channels = append(doc.Channels, api.SimulatedChannel{
			Database: at.DB, Channel: at.Channel, Was: newUse(&a.Was[i], wasCapacity[at]), Replayed: newUse(&a.Same[i], wasCapacity[at]),
			Would: newUse(&a.Other[i], wouldCapacity[at]),
		})
	}
	return doc, nil
}

// knownChannels refuses the capacity of a channel that there is neither now nor among the jobs, whose
// name must be a slip: nothing would be another one.
func knownChannels(cfg *runner.Config, st *runner.Status, jobs []forecast.Job, set map[string]int) error {
	for _, name := range slices.Sorted(maps.Keys(set)) {
		switch {
		case name == maxCapacity && cfg.DatabaseChannels == nil:
			return Error(http.StatusBadRequest, "%s is only where databases have their own channels; set root in its place", maxCapacity)
		case name == maxCapacity, slices.ContainsFunc(jobs, func(j forecast.Job) bool { return within(j.Channel, name) }):
			continue
		}
		if text := unknownChannel(st, name); text != "" {
			return Error(http.StatusNotFound, "%s", text)
		}
	}
	return nil
}

// within reports whether a channel is another one, or below it.
func within(channel, other string) bool {
	return channel == other || strings.HasPrefix(channel, other+".")
}

// trees returns what makes the tree of a configuration with other capacities.
func trees(cfg runner.Config, st *runner.Status, set map[string]int) func() (*channels.Forest, error) {
	own := make(map[string][]channels.Config)
	auto := 0
	for i := range st.Channels {
		c := &st.Channels[i]
		switch {
		case c.DB != "" && c.Configured:
			own[c.DB] = append(own[c.DB], channels.Config{Name: c.FullName, Capacity: c.Capacity, Sequential: c.Sequential, Throttle: c.Throttle, Paused: c.Paused})
		case c.Auto:
			auto = c.Capacity
		}
	}
	if cfg.DatabaseChannels != nil {
		limits := *cfg.DatabaseChannels
		if n, ok := set[maxCapacity]; ok {
			limits.Max = n
			limits.Rules = nil
		}
		cfg.DatabaseChannels = &limits
		for db := range own {
			own[db] = withCapacities(own[db], set)
		}
	} else {
		cfg.Channels = withCapacities(cfg.Channels, set)
	}
	return func() (*channels.Forest, error) { return runner.Tree(cfg, own, auto) }
}

// withCapacities returns channels of which some have other capacities.
func withCapacities(cfgs []channels.Config, set map[string]int) []channels.Config {
	cfgs = slices.Clone(cfgs)
	for name, n := range set {
		if name == maxCapacity {
			continue
		}
		i := slices.IndexFunc(cfgs, func(c channels.Config) bool { return channels.Normalize(c.Name) == name })
		if i < 0 {
			i = len(cfgs)
			cfgs = append(cfgs, channels.Config{Name: name})
		}
		c := &cfgs[i]
		c.Capacity, c.Percent, c.Auto, c.Paused = n, 0, false, false
		c.Sequential = c.Sequential && n == 1
	}
	return cfgs
}

// bear is how many jobs the servers that are up bear at once; 0 if one of them has no limit.
func bear(st *runner.Status) (n int) {
	for i := range st.Upstreams {
		u := &st.Upstreams[i]
		if !u.Up || u.Drain != nil {
			continue
		}
		most := u.Limits.Most()
		if most <= 0 {
			return 0
		}
		n += most
	}
	return n
}

// capacitiesOf are the capacities of a tree's channels.
func capacitiesOf(build func() (*channels.Forest, error)) map[channels.ID]int {
	all := make(map[channels.ID]int)
	tree, err := build()
	if err != nil {
		return all // it was built before
	}
	for _, c := range tree.Channels() {
		all[channels.ID{DB: c.DB, Channel: c.FullName}] = max(c.Capacity, 0)
	}
	return all
}

func newUse(u *forecast.Use, capacity int) api.Use {
	out := api.Use{Capacity: capacity, Sent: u.Jobs, Left: u.Left, Wait50: u.Wait50.Seconds(), Wait95: u.Wait95.Seconds(), Busy: u.Busy}
	if capacity > 0 {
		out.Utilisation = new(u.Busy / float64(capacity))
	}
	return out
}

// assumes says what a simulation rests on.
func assumes(cfg *runner.Config, a *forecast.Answer, rec *history.Recording) []string {
	list := []string{
		"jobs come when they came, and run for as long as they did, however many run at once",
		"the configuration of today was in force all the time",
	}
	if a.MostOther > a.MostWas {
		list = append(list, fmt.Sprintf("Odoo has workers for %d jobs at once; at most %d ran in that time", a.MostOther, a.MostWas))
	}
	for i := range cfg.Policies {
		if p := &cfg.Policies[i]; p.Companies() || p.Serialize != "" {
			list = append(list, "what policies say of companies and identity keys does not count, because they are not recorded")
			break
		}
	}
	if slices.ContainsFunc(cfg.Policies, func(p policy.Policy) bool { return p.Pool != nil }) {
		list = append(list, "every server runs the jobs of every pool")
	}
	if slices.ContainsFunc(cfg.Channels, func(c channels.Config) bool { return c.Sequential }) {
		list = append(list, "a failed job does not stop a sequential channel")
	}
	if rec.Missing > 0 {
		list = append(list, fmt.Sprintf("%d jobs that were not recorded do not matter", rec.Missing))
	}
	return list
}
