package runner

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/cluster"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// operateConnectTimeout and operateCloseTimeout bound the begin and the end of one of them, and
	// operateTimeout one page or batch on it.
	operateConnectTimeout = 10 * time.Second
	operateCloseTimeout   = 2 * time.Second
	operateTimeout        = 30 * time.Second
	// pageLimit bounds the jobs of one page, and pageDatabases the databases
	// that are asked for it.
	pageLimit     = 1000
	pageDatabases = 20
	// pagePatience is how long a page is looked for, unless its query says otherwise. What it has by
	// then is the page, and the next one goes on. A statement that is under way is waited for.
	pagePatience = 100 * time.Millisecond
	// previewPatience is the same for a dry run of an action, of which one wants to know the number.
	previewPatience = 5 * time.Second
	// changeBatch is the number of jobs that one transaction changes, and
	// changeNamed how many of them a [ChangeResult] names.
	changeBatch = 500
	changeNamed = 100
)

// Errors of [Runner.Jobs] and [Runner.Change].
var (
	ErrNoOperator      = errors.New("the driver cannot list or change jobs")
	ErrUnknownDatabase = errors.New("no such database")
	ErrBadCursor       = errors.New("the cursor is not one of ours")
)

// JobQuery asks for a page of jobs.
type JobQuery struct {
	driver.Filter
	// Database restricts it to one database. Default: all that are served.
	Database string
	// Cursor is the Next of the page before. Default: the first page.
	Cursor string
	// Limit is the length of the page, at most 1000. Default: 100.
	Limit int
	// Patience is how long jobs are looked for before a page that is not full is returned. Default:
	// 100 ms.
	Patience time.Duration
}

// JobPage is a page of jobs: database after database, the newest first.
type JobPage struct {
	Jobs []driver.Detail
	// Next gives the next page, which can be empty; empty after the last one.
	Next string
	// Partial is set when the page ended before it was full, because looking for jobs took its time.
	Partial bool
	// Left counts the databases that Next goes on with, the one among them that has been read in part.
	Left int
	// Problems names databases that could not be read, with the reason.
	Problems []string
}

// Jobs reads a page of jobs from the databases. It neither asks the engine's
// loop for jobs nor uses the connections that claim.
func (r *Runner) Jobs(ctx context.Context, q JobQuery) (JobPage, error) {
	var page JobPage
	if q.Limit <= 0 {
		q.Limit = 100
	}
	q.Limit = min(q.Limit, pageLimit)
	if q.Patience <= 0 {
		q.Patience = pagePatience
	}
	names, err := r.databaseNames(ctx, q.Database)
	if err != nil {
		return page, err
	}
	from, before, err := parseCursor(q.Cursor)
	if err != nil {
		return page, err
	}
	names = names[sort.SearchStrings(names, from):]
	until, late := time.Now().Add(q.Patience), false
	for i, name := range names {
		if name > from {
			before = 0
		}
		if i >= pageDatabases || len(page.Jobs) == q.Limit || late {
			page.Next, page.Left, page.Partial = cursor(name, before), len(names)-i, len(page.Jobs) < q.Limit
			return page, nil
		}
		next, err := r.jobsIn(ctx, name, &q, before, until, &page)
		switch {
		case errors.Is(err, ErrNoOperator):
			return page, err
		case err != nil && !errors.Is(err, driver.ErrUndetected):
			page.Problems = append(page.Problems, name+": "+err.Error())
		case next != 0:
			page.Next, page.Left, page.Partial = cursor(name, next), len(names)-i, len(page.Jobs) < q.Limit
			return page, nil
		}
		late = !time.Now().Before(until)
	}
	return page, nil
}

// jobsIn adds the jobs of one database to a page. It returns the id below which there may be more, if
// the page is full or its time is over, or else 0.
func (r *Runner) jobsIn(ctx context.Context, database string, q *JobQuery, before int64, until time.Time, page *JobPage) (next int64, err error) {
	next = before
	err = r.operate(ctx, database, func(ops driver.Operations) error {
		for {
			var out driver.Listed
			err := timing.Within(ctx, operateTimeout, func(ctx context.Context) (err error) {
				out, err = ops.List(ctx, q.Filter, next, q.Limit-len(page.Jobs))
				return err
			})
			if err != nil {
				return err
			}
			page.Jobs, next = append(page.Jobs, out.Jobs...), out.Next
			if next == 0 || len(page.Jobs) >= q.Limit || !time.Now().Before(until) {
				return nil
			}
		}
	})
	return next, err
}

// cursor and parseCursor say where the next page begins.
func cursor(database string, before int64) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(before, 10) + " " + database))
}

func parseCursor(s string) (database string, before int64, err error) {
	if s == "" {
		return "", 0, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return "", 0, ErrBadCursor
	}
	number, database, _ := strings.Cut(string(raw), " ")
	if before, err = strconv.ParseInt(number, 10, 64); err != nil || before < 0 {
		return "", 0, ErrBadCursor
	}
	return database, before, nil
}

// JobChange asks to change jobs by hand.
type JobChange struct {
	driver.Change
	driver.Filter
	// Database restricts it to one database. Default: all that are served.
	Database string
	// Limit bounds the number of jobs. Default: all that match.
	Limit int
	// DryRun changes nothing and only counts.
	DryRun bool
	// Patience is how long a dry run looks for jobs. A statement that is under way is waited for. Default: 5 s.
	Patience time.Duration
}

// ChangeResult is what became of it.
type ChangeResult struct {
	// Changed is the number of jobs that were, or would be, changed, Followed
	// that of jobs that depended on them and changed with them.
	Changed, Followed int
	// Jobs names the first of them; those of a dry run are the newest of each database.
	Jobs []channels.Key
	// More is set when the limit was reached before the end, Partial when a dry run ended before that, because
	// looking for jobs took its time.
	More, Partial bool
	// Problems names databases in which it failed, with the reason. What had
	// been done there before stays done.
	Problems []string
}

// Change changes jobs by hand, in batches. Jobs that are enqueued or started are
// never touched. On an error the result says what had been done before.
func (r *Runner) Change(ctx context.Context, c JobChange) (ChangeResult, error) {
	var result ChangeResult
	c.Until = c.Until.UTC().Truncate(time.Second)
	names, err := r.databaseNames(ctx, c.Database)
	if err != nil {
		return result, err
	}
	if c.Patience <= 0 {
		c.Patience = previewPatience
	}
	until, late := time.Now().Add(c.Patience), false
	for _, name := range names {
		if late {
			result.Partial = true
			break
		}
		err := r.operate(ctx, name, func(ops driver.Operations) error {
			if c.DryRun {
				return previewIn(ctx, ops, name, c, until, &result)
			}
			return r.changeIn(ctx, ops, name, c, &result)
		})
		switch {
		case errors.Is(err, ErrNoOperator) || ctx.Err() != nil:
			return result, err
		case err != nil && !errors.Is(err, driver.ErrUndetected):
			result.Problems = append(result.Problems, name+": "+err.Error())
		}
		if result.More {
			break
		}
		late = c.DryRun && !time.Now().Before(until)
	}
	r.log().Info("jobs changed by hand", zap.Stringer("action", c.Action), zap.String("by", c.By), zap.Bool("dry_run", c.DryRun),
		zap.String("database", c.Database), zap.String("channel", c.Channel), zap.Int("changed", result.Changed),
		zap.Int("followed", result.Followed), zap.Bool("partial", result.Partial), zap.Strings("problems", result.Problems))
	return result, nil
}

// previewIn counts the jobs of one database that an action would change. It looks for them as a list does,
// each statement of which looks at a bounded number of rows: what is rare would take an unbounded time.
func previewIn(ctx context.Context, ops driver.Operations, database string, c JobChange, until time.Time, result *ChangeResult) error {
	// An action that is not possible at all says so; there are no such ids, so nothing is looked for.
	err := timing.Within(ctx, operateTimeout, func(ctx context.Context) error {
		_, err := ops.Change(ctx, c.Change, c.Filter, math.MaxInt64, 1, true)
		return err
	})
	if err != nil {
		return err
	}
	if c.States = c.Action.Permitted(c.States); len(c.States) == 0 {
		return nil
	}
	for next, first := int64(0), true; first || next != 0; first = false {
		n := changeBatch
		if c.Limit > 0 {
			n = min(n, c.Limit-result.Changed)
		}
		switch {
		case n <= 0:
			result.More = true
			return nil
		case !first && !time.Now().Before(until):
			result.Partial = true
			return nil
		}
		var out driver.Listed
		err := timing.Within(ctx, operateTimeout, func(ctx context.Context) (err error) {
			out, err = ops.List(ctx, c.Filter, next, n)
			return err
		})
		if err != nil {
			return err
		}
		next = out.Next
		result.Changed += len(out.Jobs)
		for i := range out.Jobs[:min(len(out.Jobs), changeNamed-len(result.Jobs))] {
			result.Jobs = append(result.Jobs, channels.Key{DB: database, UUID: out.Jobs[i].UUID})
		}
	}
	return nil
}

// changeIn does it in one database.
func (r *Runner) changeIn(ctx context.Context, ops driver.Operations, database string, c JobChange, result *ChangeResult) error {
	var after int64
	for more := true; more; {
		n := changeBatch
		if c.Limit > 0 {
			if n = min(n, c.Limit-result.Changed); n <= 0 {
				result.More = true
				return nil
			}
		}
		var out driver.Changed
		err := timing.Within(ctx, operateTimeout, func(ctx context.Context) (err error) {
			out, err = ops.Change(ctx, c.Change, c.Filter, after, n, false)
			return err
		})
		if err != nil {
			return err
		}
		if c.Action == driver.Postpone {
			r.postponed(ctx, database, out.UUIDs, c.Until)
		}
		after, more = out.Last, out.More
		result.Changed += len(out.UUIDs)
		result.Followed += out.Followed
		for _, uuid := range out.UUIDs[:min(len(out.UUIDs), changeNamed-len(result.Jobs))] {
			result.Jobs = append(result.Jobs, channels.Key{DB: database, UUID: uuid})
		}
	}
	return nil
}

// postponed lets the engine know at once: the notifications may come after an end
// of a pause that was meant to come after this.
func (r *Runner) postponed(ctx context.Context, database string, uuids []string, until time.Time) {
	err := r.do(ctx, func(e *engine) {
		for _, uuid := range uuids {
			key := channels.Key{DB: database, UUID: uuid}
			if job, state, ok := e.tree.Lookup(key); ok && state == channels.Pending {
				job.ETA = until.UnixMicro()
				e.tree.Set(job, state)
			}
		}
	})
	if err != nil {
		r.log().Debug("the engine hears of postponed jobs by notification", zap.Error(err))
	}
}

// operate runs f with a connection to a database that is opened for it.
func (r *Runner) operate(ctx context.Context, database string, f func(driver.Operations) error) error {
	cfg := r.config()
	operator, ok := driver.AsOperator(cfg.Driver)
	if !ok {
		return ErrNoOperator
	}
	e := r.engine.Load()
	if e == nil {
		return ErrStopped
	}
	if err := e.connections.operators.enter(ctx); err != nil {
		return err
	}
	defer e.connections.operators.leave()
	var ops driver.Operations
	err := timing.Within(ctx, operateConnectTimeout, func(ctx context.Context) (err error) {
		ops, err = operator.OpenOperations(ctx, cfg.Postgres, database)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = timing.Within(context.WithoutCancel(ctx), operateCloseTimeout, ops.Close) }()
	return f(ops)
}

// databaseNames lists the databases that may be read and changed, sorted; one of
// a given name only, if it is among them.
func (r *Runner) databaseNames(ctx context.Context, name string) ([]string, error) {
	names, leading, err := r.servedNames(ctx)
	if err != nil {
		return nil, err
	}
	if !leading {
		// A standby lists no databases; ask, as a leader would.
		dbs, err := cluster.Databases(ctx, r.config().cluster())
		if err != nil {
			return nil, err
		}
		for _, db := range dbs {
			names = append(names, db.Name)
		}
	}
	slices.Sort(names)
	if name == "" {
		return names, nil
	}
	if !slices.Contains(names, name) {
		return nil, fmt.Errorf("%s: %w", name, ErrUnknownDatabase)
	}
	return []string{name}, nil
}

func (r *Runner) servedNames(ctx context.Context) (names []string, leading bool, err error) {
	err = r.ask(ctx, func(e *engine) {
		leading = e.leadership.leading || len(e.databases.byName) > 0
		for name, db := range e.databases.byName {
			if db.state != DatabaseUndetected {
				names = append(names, name)
			}
		}
	})
	return names, leading, err
}
