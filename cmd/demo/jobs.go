package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// channel is one line of the channel tree.
type channel struct {
	Name     string
	Capacity int
	// Option is the one line of the channel's block, if any.
	Option string
}

// tree is the channel tree of the demonstration.
var tree = []channel{
	{Name: "root", Capacity: 12},
	{Name: "root.mail", Capacity: 6},
	{Name: "root.stock", Capacity: 8},
	{Name: "root.api", Capacity: 4, Option: "throttle 100ms"},
	{Name: "root.invoices", Capacity: 1, Option: "sequential"},
}

// How many jobs of each special kind a database gets; the rest is mail and stock.
const (
	sequentialJobs = 20
	throttledJobs  = 15
	failingJobs    = 20
	failingStock   = 5 // of these
	retriedJobs    = 30
	graphs         = 10
	graphChildren  = 4
	minimumJobs    = sequentialJobs + throttledJobs + failingJobs + retriedJobs + graphs*(1+graphChildren)
)

const (
	// batchSize is the number of jobs that are committed together.
	batchSize = 50
	// enqueueTimeout bounds the enqueueing of all jobs of a database.
	enqueueTimeout = 20 * time.Second
)

// Priorities: smaller first. Most jobs have Odoo's default.
const (
	urgent   int32 = 1
	ordinary int32 = 10
	idle     int32 = 20
)

// ticket is a job that was committed, with what is expected of it.
type ticket struct {
	db, uuid string
	priority int32
	// runs is how often its code is meant to be run, fails whether it is meant to fail at last.
	runs      int
	fails     bool
	committed time.Time
}

// kind is what jobs of a shop and a factory call, and in which channel.
type kind struct{ channel, model, method string }

var (
	mail    = kind{"root.mail", "mail.mail", "send"}
	stock   = kind{"root.stock", "stock.picking", "_action_done"}
	export  = kind{"root.api", "sale.order", "export_to_carrier"}
	invoice = kind{"root.invoices", "account.move", "action_post"}
	file    = kind{"root", "base_import.import", "read_file"}
	chunk   = kind{"root", "base_import.import", "load_rows"}
)

// The exceptions of the jobs that are meant to fail.
const (
	bounced = "odoo.addons.base.models.ir_mail_server.MailDeliveryException"
	noLot   = "odoo.exceptions.UserError"
)

// job returns a job of a kind.
func (k kind) job(priority int32, does odoostub.Behaviour) odoostub.JobSpec {
	return odoostub.JobSpec{
		UUID: odoostub.NewUUID(), Channel: &k.channel, Priority: &priority, Model: k.model, Method: k.method, Behaviour: does,
	}
}

// plan returns the jobs of one database in batches, in the order in which they are to be committed.
// It is the same every time.
func plan(total int) [][]odoostub.JobSpec {
	var jobs []odoostub.JobSpec
	add := func(n int, k kind, priority int32, does odoostub.Behaviour) {
		for range n {
			jobs = append(jobs, k.job(priority, does))
		}
	}
	// The urgent ones come last, and overtake.
	rest := total - minimumJobs
	add(rest/4, mail, idle, odoostub.Behaviour{SleepMS: 5})
	add(rest/4, stock, ordinary, odoostub.Behaviour{SleepMS: 10})
	add(sequentialJobs, invoice, ordinary, odoostub.Behaviour{SleepMS: 5})
	add(throttledJobs, export, ordinary, odoostub.Behaviour{SleepMS: 20})
	add(failingJobs-failingStock, mail, ordinary, odoostub.Behaviour{SleepMS: 2, Fail: bounced})
	add(failingStock, stock, ordinary, odoostub.Behaviour{SleepMS: 2, Fail: noLot})
	add(retriedJobs, stock, ordinary, odoostub.Behaviour{SleepMS: 2, RetryTimes: 1, RetrySeconds: 0.5})
	add(rest/4, mail, ordinary, odoostub.Behaviour{SleepMS: 5})
	add(rest-3*(rest/4), stock, urgent, odoostub.Behaviour{SleepMS: 10})

	batches := slices.Collect(slices.Chunk(jobs, batchSize))
	for range graphs {
		batches = append(batches, graph())
	}
	return batches
}

// graph returns a job and others that wait for it, as an import that is split up; they are enqueued
// together.
func graph() []odoostub.JobSpec {
	does := odoostub.Behaviour{SleepMS: 5}
	parent := file.job(ordinary, does)
	jobs := []odoostub.JobSpec{parent}
	for range graphChildren {
		child := chunk.job(ordinary, does)
		child.DependsOn = []string{parent.UUID}
		jobs = append(jobs, child)
	}
	return jobs
}

// enqueue commits the jobs of one database, batch by batch.
func enqueue(ctx context.Context, pool odoostub.DB, db string, batches [][]odoostub.JobSpec) ([]ticket, error) {
	ctx, cancel := context.WithTimeout(ctx, enqueueTimeout)
	defer cancel()
	var tickets []ticket
	for _, jobs := range batches {
		if _, err := odoostub.Enqueue(ctx, pool, jobs); err != nil {
			return tickets, fmt.Errorf("enqueueing in %s: %w", db, err)
		}
		now := time.Now()
		for _, job := range jobs {
			t := ticket{db: db, uuid: job.UUID, priority: ordinary, runs: 1, committed: now}
			if job.Priority != nil {
				t.priority = *job.Priority
			}
			t.runs += int(job.Behaviour.RetryTimes)
			t.fails = job.Behaviour.Fail != ""
			tickets = append(tickets, t)
		}
	}
	return tickets, nil
}
