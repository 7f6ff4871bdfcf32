package odoostub

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Defaults of a job in Odoo.
const (
	defaultPriority   = 10
	defaultMaxRetries = 5
)

// JobSpec is a job to enqueue. The zero value is an ordinary pending job that
// does nothing, successfully.
type JobSpec struct {
	// UUID names the job. Default: a random one.
	UUID string
	// Channel is what stands in the row; nil is NULL, which means root.
	Channel *string
	// Priority: smaller runs first. Default: 10.
	Priority *int32
	// NullPriority writes NULL, as no Odoo does.
	NullPriority bool
	// Created is when the job was made. Default: now.
	Created time.Time
	// ETA is the earliest start. Default: none.
	ETA time.Time
	// Retry is the number of attempts so far.
	Retry int32
	// MaxRetries is how many attempts there may be; 0 is no limit. Default: 5.
	MaxRetries *int32
	// State defaults to pending, or wait_dependencies for a job that depends on others.
	State string
	// Enqueued and Started are for jobs found in the middle of something.
	// Default: NULL.
	Enqueued, Started time.Time
	// DependsOn names jobs of the same batch that must be done first. That needs
	// QueueJob12 or later.
	DependsOn []string
	// Model and Method are what the job says that it calls. Default: stub.model, run.
	Model, Method string
	// Behaviour is what the job does.
	Behaviour Behaviour
}

// Behaviour is what a job does when it is executed, in this order. It is stored
// in the column kwargs, where a real job has its arguments, and in func, where one
// of connector is pickled.
type Behaviour struct {
	// Gate lets the job wait until [Gates.Open] is called with this name.
	Gate string `json:"gate,omitempty"`
	// SleepMS is how long the job works, in milliseconds.
	SleepMS int64 `json:"sleep_ms,omitempty"`
	// Hang lets the job never end by itself.
	Hang bool `json:"hang,omitempty"`
	// HangTimes lets the job hang for HangMS milliseconds in that many attempts, counted by the column
	// retry: in a query or, with HangIdle, between two, as a job does that waits for another system.
	// It fails if it learns that it was stopped, at the latest from the query that follows.
	HangTimes int32 `json:"hang_times,omitempty"`
	HangMS    int64 `json:"hang_ms,omitempty"`
	HangIdle  bool  `json:"hang_idle,omitempty"`
	// KillTimes kills the worker in that many attempts, counted by the column
	// retry.
	KillTimes int32 `json:"kill_times,omitempty"`
	// KillAfterDone kills the worker when done is committed, before it has released the jobs that
	// waited for this one.
	KillAfterDone bool `json:"kill_after_done,omitempty"`
	// RetryTimes raises a retryable error in that many attempts, counted alike.
	RetryTimes int32 `json:"retry_times,omitempty"`
	// RetrySeconds is how long such an error postpones the job.
	RetrySeconds float64 `json:"retry_seconds,omitempty"`
	// Fail names the exception with which the job fails. Default: success.
	Fail string `json:"fail,omitempty"`
	// FailStatus is the HTTP status of that failure. Default: 500.
	FailStatus int `json:"fail_status,omitempty"`
}

// dependencies is the content of the column of that name.
type dependencies struct {
	DependsOn        []string `json:"depends_on"`
	ReverseDependsOn []string `json:"reverse_depends_on"`
}

// Enqueue inserts jobs in one transaction and returns their uuids, in order.
func Enqueue(ctx context.Context, db DB, jobs []JobSpec) ([]string, error) {
	uuids := make([]string, len(jobs))
	for i, job := range jobs {
		uuids[i] = cmp.Or(job.UUID, NewUUID())
	}
	columns := []string{
		"uuid", "name", "model_name", "method_name", "func_string", "kwargs", "state", "channel", "priority",
		"date_created", "eta", "retry", "max_retries", "date_enqueued", "date_started",
	}
	graph := slices.ContainsFunc(jobs, func(j JobSpec) bool { return len(j.DependsOn) > 0 })
	children := map[string][]string{}
	graphUUID := NewUUID()
	if graph {
		columns = append(columns, "graph_uuid", "dependencies")
		for i, job := range jobs {
			for _, parent := range job.DependsOn {
				children[parent] = append(children[parent], uuids[i])
			}
		}
	}
	now := time.Now()
	rows := make([][]any, len(jobs))
	for i, job := range jobs {
		row, err := job.row(uuids[i], now)
		if err != nil {
			return nil, err
		}
		if graph {
			deps, err := json.Marshal(dependencies{DependsOn: job.DependsOn, ReverseDependsOn: children[uuids[i]]})
			if err != nil {
				return nil, fmt.Errorf("encoding dependencies: %w", err)
			}
			row = append(row, graphUUID, string(deps))
		}
		rows[i] = row
	}
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if err := fit(ctx, tx, columns, rows); err != nil {
			return err
		}
		columns := slices.DeleteFunc(columns, func(c string) bool { return c == "" })
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"queue_job"}, columns, pgx.CopyFromRows(rows))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("enqueueing %d jobs: %w", len(jobs), err)
	}
	return uuids, nil
}

// fit changes columns and rows to those that the table of connector has. Columns
// that are left out become empty.
func fit(ctx context.Context, tx pgx.Tx, columns []string, rows [][]any) error {
	found, err := tx.Query(ctx, `SELECT attname::text FROM pg_attribute
		WHERE attrelid = 'queue_job'::regclass AND attnum > 0 AND NOT attisdropped`)
	if err != nil {
		return err
	}
	present, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for i, c := range columns {
		if c != "kwargs" || slices.Contains(present, c) {
			continue
		}
		columns[i] = "func"
		for _, row := range rows {
			if kwargs, ok := row[i].(string); ok {
				row[i] = []byte(kwargs)
			}
		}
	}
	for i := len(columns) - 1; i >= 0; i-- {
		if slices.Contains(present, columns[i]) {
			continue
		}
		columns[i] = ""
		for j, row := range rows {
			rows[j] = slices.Delete(row, i, i+1)
		}
	}
	return nil
}

// row returns the values of the columns that every generation has.
func (j JobSpec) row(uuid string, now time.Time) ([]any, error) {
	kwargs, err := json.Marshal(j.Behaviour)
	if err != nil {
		return nil, fmt.Errorf("encoding a job's behaviour: %w", err)
	}
	state := cmp.Or(j.State, "pending")
	if j.State == "" && len(j.DependsOn) > 0 {
		state = "wait_dependencies"
	}
	priority := new(int32(defaultPriority))
	if j.Priority != nil {
		priority = j.Priority
	}
	if j.NullPriority {
		priority = nil
	}
	maxRetries := int32(defaultMaxRetries)
	if j.MaxRetries != nil {
		maxRetries = *j.MaxRetries
	}
	created := j.Created
	if created.IsZero() {
		created = now
	}
	model, method := cmp.Or(j.Model, "stub.model"), cmp.Or(j.Method, "run")
	return []any{
		uuid, "stub", model, method, model + "()." + method + "()", string(kwargs), state, j.Channel, priority,
		created.UTC(), timestamp(j.ETA), j.Retry, maxRetries, timestamp(j.Enqueued), timestamp(j.Started),
	}, nil
}

// timestamp returns the value for a column of UTC timestamps; the zero time is NULL.
func timestamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}

// NewUUID returns a random uuid (version 4).
func NewUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Leftover is a job that is not finished.
type Leftover struct {
	UUID, State string
	Channel     *string
	Retry       *int32
	ETA         *time.Time
	Enqueued    *time.Time
}

// Leftovers returns the jobs that are neither finished nor postponed into the
// future by their eta, oldest first.
func Leftovers(ctx context.Context, db DB) ([]Leftover, error) {
	const sql = `SELECT uuid, state, to_jsonb(queue_job) ->> 'channel', retry, eta, date_enqueued FROM queue_job
		WHERE state NOT IN ('done', 'failed', 'cancelled', '')
		AND NOT (state = 'pending' AND coalesce(eta > now() AT TIME ZONE 'UTC', false))
		ORDER BY id`
	rows, err := db.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("reading leftovers: %w", err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Leftover])
	if err != nil {
		return nil, fmt.Errorf("reading leftovers: %w", err)
	}
	return left, nil
}

// CountStates returns the number of jobs by state.
func CountStates(ctx context.Context, db DB) (map[string]int, error) {
	rows, err := db.Query(ctx, "SELECT state, count(*) FROM queue_job GROUP BY state")
	if err != nil {
		return nil, fmt.Errorf("counting jobs: %w", err)
	}
	counts := map[string]int{}
	var (
		state string
		n     int
	)
	if _, err := pgx.ForEachRow(rows, []any{&state, &n}, func() error { counts[state] = n; return nil }); err != nil {
		return nil, fmt.Errorf("counting jobs: %w", err)
	}
	return counts, nil
}
