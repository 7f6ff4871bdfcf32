package api

import (
	"context"
	"time"
)

// Simulation is the answer of GET /jobrunner/simulate: what other capacities would have made of recorded
// jobs.
type Simulation struct {
	Runner string    `json:"runner"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	// Set is what is another one than there was, by the channel.
	Set map[string]int `json:"set"`
	// Jobs is how many attempts were replayed.
	Jobs int `json:"jobs"`
	// MostWas is how many ran at once at most, and Most how many would have.
	MostWas int `json:"at_once_was"`
	Most    int `json:"at_once"`
	// Channels count those below them, too.
	Channels []SimulatedChannel `json:"channels"`
	// Assumes says what the numbers rest on.
	Assumes []string `json:"assumes"`
}

// SimulatedChannel compares what became of the jobs of a channel with what would have. Times are in seconds.
type SimulatedChannel struct {
	// Database is there where each database has its own channels.
	Database string `json:"database,omitempty"`
	Channel  string `json:"channel"`
	Was      Use    `json:"was"`
	// Replayed is what the simulation makes of the configuration that there was: how well it fits.
	Replayed Use `json:"replayed"`
	Would    Use `json:"would"`
}

// Use is what became of the jobs of a channel.
type Use struct {
	// Capacity is 0 for one without limit.
	Capacity int `json:"capacity"`
	// Sent is how many were sent in that time, Left how many had to wait beyond it.
	Sent   int     `json:"sent"`
	Left   int     `json:"left"`
	Wait50 float64 `json:"wait_p50_seconds"`
	Wait95 float64 `json:"wait_p95_seconds"`
	// Busy is how many slots were taken on average, and Utilisation which part of the capacity that is.
	Busy        float64  `json:"busy"`
	Utilisation *float64 `json:"utilisation,omitempty"`
}

// SimulationQuery asks for a simulation.
type SimulationQuery struct {
	// Runner may be left out if there is only one.
	Runner string
	// Set are capacities: root.mail=4.
	Set []string
	// From and To are as those of a [HistoryQuery].
	From, To string
}

// Simulate asks what other capacities would have meant.
func (c *Client) Simulate(ctx context.Context, q SimulationQuery) (Simulation, error) {
	v := ofRunner(q.Runner)
	v["set"] = q.Set
	for name, value := range map[string]string{"from": q.From, "to": q.To} {
		if value != "" {
			v.Set(name, value)
		}
	}
	return get[Simulation](ctx, c, "simulate", v)
}
