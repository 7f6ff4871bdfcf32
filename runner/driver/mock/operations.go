package mock

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// operations implements [driver.Operations].
type operations struct {
	w  *World
	db *database
}

var _ driver.Operator = (*Driver)(nil)

// OpenOperations implements [driver.Operator].
func (d *Driver) OpenOperations(ctx context.Context, _ *pgx.ConnConfig, name string) (driver.Operations, error) {
	w := d.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkDeadline(ctx, "OpenOperations")
	if err := w.reach(ctx); err != nil {
		return nil, fmt.Errorf("open operations on %s: %w", name, err)
	}
	db := w.databases[name]
	if db == nil {
		return nil, fmt.Errorf("database %q does not exist: %w", name, driver.ErrLost)
	}
	return &operations{w: w, db: db}, nil
}

// matches is the filter of contract and interface.
func matches(f driver.Filter, j *Job) bool {
	channel, wanted := channels.Normalize(j.Channel), channels.Normalize(f.Channel)
	return (len(f.UUIDs) == 0 || slices.Contains(f.UUIDs, j.UUID)) &&
		strings.HasPrefix(j.UUID, f.Prefix) &&
		(len(f.States) == 0 || slices.Contains(f.States, j.State)) &&
		(channel == wanted || strings.HasPrefix(channel, wanted+".")) &&
		f.Exception == "" && f.Function == "" && f.Name == "" && f.Identity == "" &&
		(f.NewerThan == 0 || time.Since(time.UnixMicro(j.Created)) <= f.NewerThan) &&
		(f.OlderThan == 0 || time.Since(time.UnixMicro(j.Created)) > f.OlderThan)
}

// List implements [driver.Operations].
func (o *operations) List(ctx context.Context, f driver.Filter, before int64, limit int) (driver.Listed, error) {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.w.checkDeadline(ctx, "List")
	if err := ctx.Err(); err != nil {
		return driver.Listed{}, err
	}
	jobs := o.db.sorted(func(j *Job) bool { return matches(f, j) && (before == 0 || j.ID < before) })
	slices.SortFunc(jobs, func(a, b Job) int { return cmp.Compare(b.ID, a.ID) })
	var out driver.Listed
	for _, j := range jobs[:min(limit, len(jobs))] {
		d := driver.Detail{Row: j.Row, MaxRetries: j.MaxRetries, Exception: j.Exception}
		for _, uuid := range j.DependsOn {
			if parent := o.db.jobs[uuid]; parent != nil && parent.State != channels.Done && j.State == channels.WaitDependencies {
				d.WaitsFor, d.FirstParent = d.WaitsFor+1, uuid
			}
		}
		out.Jobs = append(out.Jobs, d)
	}
	if n := len(out.Jobs); n > 0 && n < len(jobs) {
		out.Next = out.Jobs[n-1].ID
	}
	return out, nil
}

// Record implements [driver.Operations].
func (o *operations) Record(ctx context.Context, uuid string, payloads bool) (*driver.Record, error) {
	listed, err := o.List(ctx, driver.Filter{UUIDs: []string{uuid}}, 0, 1)
	if err != nil || len(listed.Jobs) == 0 {
		return nil, err
	}
	out := &driver.Record{Detail: listed.Jobs[0]}
	if payloads {
		out.Payload = &driver.Payload{Arguments: driver.Text{Text: "secret", Bytes: 6}}
	}
	return out, nil
}

// Change implements [driver.Operations]. It changes none of the jobs that depend on a job.
func (o *operations) Change(ctx context.Context, a driver.Change, f driver.Filter, after int64, limit int, dryRun bool) (driver.Changed, error) {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.w.checkDeadline(ctx, "Change")
	if err := ctx.Err(); err != nil {
		return driver.Changed{}, err
	}
	jobs := o.db.sorted(func(j *Job) bool { return matches(f, j) && j.ID > after && a.Action.Permits(j.State) })
	out := driver.Changed{More: len(jobs) >= limit}
	for _, j := range jobs[:min(limit, len(jobs))] {
		out.UUIDs, out.Last = append(out.UUIDs, j.UUID), j.ID
		if !dryRun {
			o.w.update(j.Key, 0, func(j *Job) { change(a, j) })
		}
	}
	return out, nil
}

func change(a driver.Change, j *Job) {
	switch a.Action {
	case driver.Requeue:
		j.State, j.Retry, j.Enqueued, j.Exception = channels.Pending, 0, 0, ""
	case driver.Cancel:
		j.State = channels.Cancelled
	case driver.SetDone:
		j.State = channels.Done
	case driver.Postpone:
		j.ETA = a.Until.UnixMicro()
	}
}

// Close implements [driver.Operations]. Time for it is left even where what was done has been given up.
func (o *operations) Close(ctx context.Context) error {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.w.checkDeadline(ctx, "Close")
	if ctx.Err() != nil {
		o.w.violation("Close without time for it")
	}
	return nil
}
