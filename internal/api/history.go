package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// History is the answer of GET /jobrunner/history: what became of the jobs of a runner in a time, as far as
// this node knows.
type History struct {
	Runner string    `json:"runner"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	// Step is the length of an interval in seconds.
	Step float64 `json:"step_seconds"`
	// Known is since when this node has a history.
	Known time.Time `json:"known_since,omitzero"`
	// Leader says whether this process leads the runner. If not, the history of now is that of the
	// leader, which LeaderDetail names.
	Leader       bool   `json:"leader"`
	LeaderDetail string `json:"leader_detail,omitempty"`

	Total     HistorySums       `json:"total"`
	Intervals []HistoryInterval `json:"intervals"`
	// Exceptions are those with which jobs failed, the most frequent first, and MoreExceptions how many
	// there are beyond those.
	Exceptions     []HistoryException `json:"exceptions"`
	MoreExceptions int                `json:"more_exceptions,omitempty"`
	// By is what Groups are by: function, channel, database or exception. The one that took the most time
	// is the first, and More is how many there are beyond those. By exception, only what failed counts.
	By     string         `json:"by"`
	Groups []HistoryGroup `json:"groups"`
	More   int            `json:"more,omitempty"`

	// Objectives are those of policies, with a percentage below 100, and how well they have been kept since
	// this process began.
	Objectives []HistoryObjective `json:"objectives,omitempty"`

	// Folded counts attempts that have lost their names, because there were too many, and are under
	// "other". Lost counts those of this process that could not be kept, and UnreadableIntervals what a
	// damaged file has lost.
	Folded              uint64 `json:"folded"`
	Lost                uint64 `json:"lost,omitempty"`
	UnreadableIntervals int    `json:"unreadable_intervals,omitempty"`
	// Problem says why the file cannot be written or read now, PutAside where one is that could not be
	// used.
	Problem  string `json:"problem,omitempty"`
	PutAside string `json:"put_aside,omitempty"`
	// Warning says, where nothing was found, that there is no such channel.
	Warning string `json:"warning,omitempty"`
}

// HistorySums is what attempts at jobs add up to.
type HistorySums struct {
	Attempts uint64 `json:"attempts"`
	Done     uint64 `json:"done"`
	Failed   uint64 `json:"failed"`
	Retried  uint64 `json:"retried"`
	NotRun   uint64 `json:"not_run"`
	Rescued  uint64 `json:"rescued"`
	Gone     uint64 `json:"gone"`
	// The times are in seconds, and absent where no attempt has one. Quantiles are off by a quarter at
	// most.
	Wait50  *float64 `json:"wait_p50_seconds,omitempty"`
	Wait95  *float64 `json:"wait_p95_seconds,omitempty"`
	Run50   *float64 `json:"run_p50_seconds,omitempty"`
	Run95   *float64 `json:"run_p95_seconds,omitempty"`
	RunMost *float64 `json:"run_max_seconds,omitempty"`
	// Run is how long all of them ran together.
	Run float64 `json:"run_total_seconds"`
}

// HistoryException is how many jobs failed with one exception. The name is empty where Odoo tells none,
// as before 12.0, and "other" where there were too many.
type HistoryException struct {
	Name   string `json:"name"`
	Failed uint64 `json:"failed"`
	// Counts are the steps in which there were some.
	Counts []HistoryCount `json:"counts"`
}

// HistoryCount is how many jobs failed in the step that begins then.
type HistoryCount struct {
	Begin  time.Time `json:"begin"`
	Failed uint64    `json:"failed"`
}

// HistoryObjective is how well the jobs of a policy keep its objective.
type HistoryObjective struct {
	Policy string `json:"policy"`
	// Wait is how long the Target, a part of 1, of the jobs may wait at most.
	Wait   float64 `json:"wait_seconds"`
	Target float64 `json:"target"`
	// Attempts is how many were sent and have ended, Late how many of them had waited longer.
	Attempts uint64 `json:"attempts"`
	Late     uint64 `json:"late"`
	// Burns says that more of them than it allows do so now.
	Burns bool `json:"burns,omitempty"`
}

// HistoryInterval is what ended in one step.
type HistoryInterval struct {
	Begin time.Time `json:"begin"`
	HistorySums
}

// HistoryGroup is what attempts of one name add up to. The name is empty where the database does not tell it.
type HistoryGroup struct {
	Name string `json:"name"`
	HistorySums
}

// HistoryQuery selects a part of the history. What is empty does not restrict it.
type HistoryQuery struct {
	// Runner may be left out if there is only one.
	Runner, Database string
	// Channel selects those of the channels below it, too. Function is a glob.
	Channel, Function string
	// From and To are times as RFC 3339 writes them, or durations such as 36h or 7d, which count back from
	// now. Step is a duration.
	From, To, Step string
	// By is what to group by, Limit how many groups there are at most: 0 means as many as the server likes.
	By    string
	Limit int
}

func (q *HistoryQuery) values() url.Values {
	v := ofRunner(q.Runner)
	for name, value := range map[string]string{
		"database": q.Database, "channel": q.Channel, "function": q.Function, "from": q.From, "to": q.To, "step": q.Step, "by": q.By,
	} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// History reads a part of a runner's history.
func (c *Client) History(ctx context.Context, q HistoryQuery) (History, error) {
	return get[History](ctx, c, "history", q.values())
}

// HistoryCSV reads the same as comma-separated values: a line for each interval, or else for each group.
func (c *Client) HistoryCSV(ctx context.Context, q HistoryQuery, intervals bool) ([]byte, error) {
	v := q.values()
	v.Set("csv", "groups")
	if intervals {
		v.Set("csv", "intervals")
	}
	ctx, cancel := context.WithTimeout(ctx, QuestionTimeout+answerGrace)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, "history", v, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := readAll(resp.Body, answerLimit)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return raw, nil
}
