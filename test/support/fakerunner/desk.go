package fakerunner

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Desk is an engine that can be asked for tasks, for jobs of the database prod and for the job
// "known".
type Desk struct{ Engine }

// Tasks lists two tasks, the younger first.
func (*Desk) Tasks(context.Context) ([]runner.TaskStatus, error) {
	now := time.Now()
	return []runner.TaskStatus{
		{Key: channels.Key{DB: "prod", UUID: "young"}, Phase: "open", Since: now},
		{Key: channels.Key{DB: "prod", UUID: "old"}, Phase: "open", Since: now.Add(-time.Hour)},
	}, nil
}

// Jobs lists three failed jobs.
func (*Desk) Jobs(_ context.Context, q runner.JobQuery) (runner.JobPage, error) {
	var p runner.JobPage
	if q.Database != "prod" {
		return p, errors.New("unexpected database " + q.Database)
	}
	for i, exception := range []string{"UserError", "UserError", "KeyError"} {
		p.Jobs = append(p.Jobs, driver.Detail{
			Row:   driver.Row{Job: channels.Job{Key: channels.Key{DB: "prod", UUID: exception + string(rune('0'+i))}, Created: int64(i+1) * 1e6}, State: channels.Failed, RawState: "failed"},
			Model: "m", Method: "f", Exception: exception,
		})
	}
	return p, nil
}

// Job says the same as Why.
func (e *Desk) Job(ctx context.Context, key channels.Key) (runner.Why, error) {
	return e.Why(ctx, key)
}

// Why knows one job.
func (*Desk) Why(_ context.Context, key channels.Key) (runner.Why, error) {
	if key.UUID != "known" {
		return runner.Why{Key: key, Code: runner.WhyUnknownJob, Text: "there is no job " + key.UUID}, nil
	}
	return runner.Why{Key: key, Found: true, Code: "behind", Text: "it waits its turn"}, nil
}

// NewDesk returns a desk with failed jobs.
func NewDesk() *Desk {
	e := &Desk{}
	e.Says = Status(time.Now())
	e.Says.Databases[0].Failed = 3
	e.Says.Controls = runner.Controls{}
	return e
}
