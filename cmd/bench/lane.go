package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// lane is one way on which a single job gets to the stub: a runner, or the floor.
type lane struct {
	name string
	// databases take turns.
	databases []string
	channel   string
	priority  int32

	sent int
	// latencies are the times from the return of a commit to the request.
	latencies []time.Duration
}

// pause is the time that the parties have to become idle again between two jobs.
// It varies, so that nothing falls into step with a timer.
func pause() time.Duration { return 4*time.Millisecond + rand.N(4*time.Millisecond) }

// insertOne is the commit of one job; the time until it returns is not measured.
const insertOne = `INSERT INTO queue_job (uuid, name, model_name, method_name, func_string, kwargs, state, channel,
		priority, date_created, retry, max_retries)
	VALUES ($1, 'bench', 'stub.model', 'run', 'stub.model().run()', '{}', 'pending', $2, $3, now() AT TIME ZONE 'UTC', 0, 5)`

// alternate sends so many jobs on each lane, one at a time and in turns, so that
// whatever else the machine does meets all lanes alike.
func (l *lab) alternate(ctx context.Context, n int, lanes ...*lane) error {
	for i := range n {
		for k := range lanes {
			lane := lanes[(i+k)%len(lanes)]
			if err := l.one(ctx, lane); err != nil {
				return fmt.Errorf("job %d of %s: %w", i+1, lane.name, err)
			}
		}
	}
	return nil
}

// warm sends a few jobs on each lane that do not count: the stub connects to a
// database with its first job there.
func (l *lab) warm(ctx context.Context, lanes ...*lane) error {
	const each = 5
	for _, lane := range lanes {
		if err := l.alternate(ctx, each*len(lane.databases), lane); err != nil {
			return err
		}
		lane.latencies = nil
	}
	return nil
}

// one sends one job, and waits until it is done.
func (l *lab) one(ctx context.Context, lane *lane) error {
	db := lane.databases[lane.sent%len(lane.databases)]
	lane.sent++
	conn, err := l.connect(ctx, db)
	if err != nil {
		return err
	}
	if err := sleep(ctx, pause()); err != nil {
		return err
	}
	uuid := odoostub.NewUUID()
	committed, err := commitOne(ctx, conn, uuid, lane.channel, lane.priority)
	if err != nil {
		return err
	}
	// Asking at once would take the processor from those who are measured.
	if err := sleep(ctx, pause()); err != nil {
		return err
	}
	at, err := l.stub.requestOf(ctx, db, uuid)
	if err != nil {
		return err
	}
	// The request may arrive while the commit is still on its way to this process.
	lane.latencies = append(lane.latencies, max(0, at.Sub(committed)))
	_, err = l.stub.take(ctx)
	return err
}

// commitOne commits one job and returns when that was known here.
func commitOne(ctx context.Context, conn *pgx.Conn, uuid, channel string, priority int32) (time.Time, error) {
	if channel == "" {
		channel = "root"
	}
	if _, err := conn.Exec(ctx, insertOne, uuid, channel, priority); err != nil {
		return time.Time{}, fmt.Errorf("inserting a job: %w", err)
	}
	return time.Now(), nil
}

func (l *lane) percentile(p float64) float64 { return milliseconds(percentile(l.latencies, p)) }
