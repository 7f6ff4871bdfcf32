package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/child"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

const (
	// partnerRole is the first argument of this program when it is a partner.
	partnerRole = "partner"
	// stopTimeout is how long a partner may take to end before it is killed: a stub of which thousands of
	// jobs hang closes as many connections to PostgreSQL.
	stopTimeout = time.Minute

	// countInterval is the time between two questions how many jobs are done. The figures do not
	// depend on it: they come from the stub's own records.
	countInterval = 20 * time.Millisecond
	// jobTimeout bounds one question, also for a job that was sent alone to be done.
	jobTimeout = 20 * time.Second
	// doneTimeout bounds the time until all jobs are done, the start of a Caddy with millions of
	// them included.
	doneTimeout = 5 * time.Minute
)

// partner is this program again, as the stub of Odoo or as the floor. A separate process keeps its
// processor time apart, and no garbage collector stops two parties at once. It answers net/rpc on
// its standard input and output, and ends when its input does, so also when this process dies.
type partner struct {
	*rpc.Client
	process *child.Process
}

// pipes are the two pipes to a partner, as one connection.
type pipes struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipes) Close() error { return errors.Join(p.WriteCloser.Close(), p.ReadCloser.Close()) }

// startPartner starts a partner and has it begin with its role, the name of a method of [Partner].
func startPartner(ctx context.Context, role string, args, reply any) (*partner, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, partnerRole)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting a partner: %w", err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting a partner: %w", err)
	}
	process, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	p := &partner{Client: rpc.NewClient(pipes{stdout, stdin}), process: process}
	if err := p.ask(ctx, role, args, reply); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// ask calls a method of [Partner].
func (p *partner) ask(ctx context.Context, method string, args, reply any) error {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	call := p.Go("Partner."+method, args, reply, nil)
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("asking for %s: %w", method, call.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("asking for %s: %w", method, ctx.Err())
	}
}

// stop ends the partner and waits until it has ended.
func (p *partner) stop() error {
	_ = p.Close() // the partner may have ended
	if err := p.process.Wait(stopTimeout); err != nil {
		return fmt.Errorf("stopping a partner: %w", err)
	}
	return nil
}

// take returns the stub's records since the last time.
func (p *partner) take(ctx context.Context) (*Records, error) {
	r := new(Records)
	return r, p.ask(ctx, "Take", 0, r)
}

// awaitDone waits until so many jobs are done.
func (p *partner) awaitDone(ctx context.Context, jobs int) error {
	return p.await(ctx, doneTimeout, func(n Counts) bool { return n.Done >= jobs })
}

// await waits until the stub's counts are what is waited for.
func (p *partner) await(ctx context.Context, limit time.Duration, holds func(Counts) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var n Counts
		err := p.ask(ctx, "Counts", 0, &n)
		if err == nil && holds(n) {
			return nil
		}
		if err == nil {
			err = sleep(ctx, countInterval)
		}
		if err != nil {
			return fmt.Errorf("waiting for the stub, %+v after %s: %w", n, limit, err)
		}
	}
}

// requestOf waits until a job that was sent alone is done, and returns when its request arrived.
func (p *partner) requestOf(ctx context.Context, db, uuid string) (at time.Time, err error) {
	return at, p.ask(ctx, "RequestOf", [2]string{db, uuid}, &at)
}

// Partner is what a partner can be asked for.
type Partner struct{ stub *odoostub.Server }

// servePartner is a partner's whole life.
func servePartner() {
	server := rpc.NewServer()
	p := new(Partner)
	if err := server.Register(p); err != nil {
		panic(err) // the methods are not those that net/rpc wants
	}
	server.ServeConn(pipes{os.Stdin, os.Stdout})
	if p.stub != nil {
		_ = p.stub.Close() // it ends with the process
	}
}

// StubArgs are the arguments of [Partner.Stub].
type StubArgs struct {
	// Postgres is the URL of any database of the cluster.
	Postgres string
	Workers  int
}

// Stub starts the stub of Odoo, and returns its address.
func (p *Partner) Stub(args StubArgs, address *string) error {
	config, err := pgx.ParseConfig(args.Postgres)
	if err != nil {
		return fmt.Errorf("parsing the address of PostgreSQL: %w", err)
	}
	p.stub, err = odoostub.New(odoostub.Options{
		Workers: args.Workers, Backlog: 1024,
		Postgres: func(database string) *pgx.ConnConfig {
			c := config.Copy()
			c.Database = database
			return c
		},
	})
	if err == nil {
		*address = p.stub.Addr()
	}
	return err
}

// Counts is how far the jobs are that the stub knows of since the last Take.
type Counts struct{ Started, Done, Running int }

// Counts returns how far the jobs are.
func (p *Partner) Counts(_ int, n *Counts) error { //nolint:unparam // net/rpc wants it
	outcomes := p.stub.Recorder().CountOutcomes()
	for _, c := range outcomes {
		n.Started += c
	}
	n.Done, n.Running = outcomes[odoostub.Done], outcomes[""]
	return nil
}

// Records is everything since the last time. Its times are compared with those of other processes.
type Records struct {
	Requests   []request
	Executions []execution // those that are done
	// Most is how many jobs ran at once at most.
	Most int
}

type request struct {
	UUID string
	At   time.Time
}

type execution struct {
	UUID string
	End  time.Time
}

// Take returns the records since the last time, and forgets them.
func (p *Partner) Take(_ int, out *Records) error { //nolint:unparam // net/rpc wants it
	r := p.stub.Recorder()
	out.Most = r.MaxConcurrent("root")
	requests, executions := r.Reset()
	for _, q := range requests {
		if q.UUID != "" { // not a check whether the server is there
			out.Requests = append(out.Requests, request{q.UUID, q.Time})
		}
	}
	for _, x := range executions {
		if x.Outcome == odoostub.Done {
			out.Executions = append(out.Executions, execution{x.UUID, x.End})
		}
	}
	return nil
}

// RequestOf waits until a job that was sent alone is done, and returns when its request arrived.
func (p *Partner) RequestOf(job [2]string, at *time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), jobTimeout)
	defer cancel()
	r := p.stub.Recorder()
	err := r.Await(ctx, func() bool {
		return r.Executions(job[0], job[1]) > 0 && r.CountOutcomes()[odoostub.Done] > 0
	})
	*at = r.FirstRequestAt(job[0], job[1])
	return err
}

// rate is the number of jobs done per second, from the first request to the end of the last job.
func (r *Records) rate() float64 {
	if len(r.Requests) == 0 || len(r.Executions) == 0 {
		return 0
	}
	last := slices.MaxFunc(r.Executions, func(a, b execution) int { return a.End.Compare(b.End) })
	return float64(len(r.Executions)) / last.End.Sub(r.Requests[0].At).Seconds()
}
