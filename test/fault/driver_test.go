package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	jobrunner "github.com/caddy-jobrunner/caddy-jobrunner"
	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

func init() {
	caddy.RegisterModule(faulty{})
}

// faulty is the driver of Odoo with faults of its own, and with guards that can
// be taken away to see whether the suite notices.
type faulty struct {
	jobrunner.OdooDriver

	// BeforeRun is the time between a claim and its request.
	BeforeRun caddy.Duration `json:"before_run,omitempty"`
	// Flag names a file; while it exists, sessions stop listening.
	Flag string `json:"flag,omitempty"`
	// Without names the guards that are missing:
	//
	//	election       everybody leads, and nobody takes a database's lock
	//	claim          what is not pending is claimed, too, a while after it was chosen
	//	evidence       what runs without a request of ours counts as dead
	//	rescue         nothing counts as dead
	//	notifications  nothing is learnt from them
	//	signals        no backend may be signalled
	Without []string `json:"without,omitempty"`
}

func (faulty) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "jobrunner.drivers.faulty", New: func() caddy.Module { return new(faulty) }}
}

func (f *faulty) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch option := d.Val(); option {
		case "before_run":
			d.NextArg()
			pause, err := caddy.ParseDuration(d.Val())
			if err != nil {
				return d.WrapErr(err)
			}
			f.BeforeRun = caddy.Duration(pause)
		case "flag":
			d.NextArg()
			f.Flag = d.Val()
		case "without":
			f.Without = d.RemainingArgs()
		default:
			return d.Errf("unknown option %s", option)
		}
	}
	return nil
}

func (f *faulty) without(guard string) bool { return slices.Contains(f.Without, guard) }

// Run waits before it sends the request.
func (f *faulty) Run(ctx context.Context, up driver.Upstream, t driver.Task) driver.Result {
	select {
	case <-time.After(time.Duration(f.BeforeRun)):
	case <-ctx.Done():
	}
	return f.OdooDriver.Run(ctx, up, t)
}

func (f *faulty) OpenCluster(ctx context.Context, pg *pgx.ConnConfig) (driver.Cluster, error) {
	c, err := f.OdooDriver.OpenCluster(ctx, pg)
	if err == nil && f.without("election") {
		c = everybodyLeads{c}
	}
	return c, err
}

// everybodyLeads is a cluster without an election.
type everybodyLeads struct{ driver.Cluster }

func (everybodyLeads) Lead(context.Context, int64) (driver.Lock, error) {
	return driver.Lock{Held: true}, nil
}

func (f *faulty) OpenSession(ctx context.Context, pg *pgx.ConnConfig, database string) (driver.Session, error) {
	s := &faultySession{f: f, database: database}
	pg = pg.Copy()
	pg.AfterConnect = func(_ context.Context, conn *pgconn.PgConn) error {
		s.conn = conn
		return nil
	}
	var err error
	s.Session, err = f.OdooDriver.OpenSession(ctx, pg, database)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// faultySession is a session with its connection laid open.
type faultySession struct {
	driver.Session
	f        *faulty
	database string
	conn     *pgconn.PgConn
	deaf     bool
}

func (s *faultySession) Fingerprint(ctx context.Context) (driver.Fingerprint, error) {
	fp, err := s.Session.Fingerprint(ctx)
	fp.Locks = fp.Locks || s.f.without("evidence")
	return fp, err
}

func (s *faultySession) Lock(ctx context.Context) (driver.Lock, error) {
	if s.f.without("election") {
		return driver.Lock{Held: true}, nil
	}
	return s.Session.Lock(ctx)
}

func (s *faultySession) Claim(ctx context.Context, uuids, others []string) ([]driver.Task, []driver.Row, error) {
	if !s.f.without("claim") {
		return s.Session.Claim(ctx, uuids, others)
	}
	rows, err := s.Read(ctx, others)
	if err != nil {
		return nil, nil, err
	}
	// Two nodes that hear of a job at the same moment would claim it before either has it run.
	select {
	case <-time.After(rand.N(claimLag)):
	case <-ctx.Done():
	}
	result := s.conn.ExecParams(ctx, `UPDATE public.queue_job SET state = 'enqueued', date_enqueued = date_trunc('second', now() AT TIME ZONE 'UTC')
		WHERE uuid = ANY ($1::varchar[]) RETURNING uuid, date_enqueued`, [][]byte{array(uuids)}, nil, nil, nil).Read()
	var tasks []driver.Task
	for _, row := range result.Rows {
		at, err := time.Parse(time.DateTime, string(row[1]))
		if err != nil {
			return nil, nil, err
		}
		tasks = append(tasks, driver.Task{Key: channels.Key{DB: s.database, UUID: string(row[0])}, Enqueued: at.UnixMicro()})
	}
	return tasks, rows, result.Err
}

// claimLag is by how much a claim without its guard is late at most.
const claimLag = 200 * time.Millisecond

// array is an array of uuids as PostgreSQL writes it.
func array(uuids []string) []byte { return fmt.Appendf(nil, "{%s}", strings.Join(uuids, ",")) }

func (s *faultySession) Inspect(ctx context.Context, uuids []string) ([]driver.Liveness, error) {
	found, err := s.Session.Inspect(ctx, uuids)
	for i := range found {
		switch running := found[i].Row.State.Running(); {
		case s.f.without("evidence") && running:
			found[i].Verdict = driver.Dead
		case s.f.without("rescue"):
			found[i].Verdict = driver.Uncertain
		}
	}
	return found, err
}

func (s *faultySession) Rescue(ctx context.Context, dead []driver.Liveness) ([]driver.Row, error) {
	if !s.f.without("evidence") {
		return s.Session.Rescue(ctx, dead)
	}
	var uuids []string
	for i := range dead {
		uuids = append(uuids, dead[i].Row.UUID)
	}
	result := s.conn.ExecParams(ctx, "UPDATE public.queue_job SET state = 'pending' WHERE uuid = ANY ($1::varchar[])",
		[][]byte{array(uuids)}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	return s.Session.Read(ctx, uuids)
}

// Stop implements [driver.Stopper].
func (s *faultySession) Stop(ctx context.Context, attempts []driver.Task, terminate bool) ([]driver.Stopped, error) {
	if !s.f.without("signals") {
		return s.Session.(driver.Stopper).Stop(ctx, attempts, terminate)
	}
	stopped := make([]driver.Stopped, 0, len(attempts))
	for _, t := range attempts {
		stopped = append(stopped, driver.Stopped{Task: t, Result: driver.Denied, Text: "nobody may signal it"})
	}
	return stopped, nil
}

// Account implements [driver.Stopper].
func (s *faultySession) Account(ctx context.Context, causes []driver.Cause) ([]driver.Row, error) {
	return s.Session.(driver.Stopper).Account(ctx, causes)
}

func (s *faultySession) Wait(ctx context.Context) (driver.Notifications, error) {
	if _, err := os.Stat(s.f.Flag); err == nil && s.f.Flag != "" && !s.deaf {
		s.deaf = true
		if err := s.conn.Exec(context.WithoutCancel(ctx), "UNLISTEN *").Close(); err != nil {
			return driver.Notifications{}, err
		}
	}
	n, err := s.Session.Wait(ctx)
	if s.f.without("notifications") {
		n.Changed = nil
	}
	return n, err
}

// Interface guards.
var (
	_ driver.Driver         = (*faulty)(nil)
	_ caddyfile.Unmarshaler = (*faulty)(nil)
)
