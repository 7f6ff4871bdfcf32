package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// lane is one way on which a single job gets to the stub: a runner, or the floor.
type lane struct {
	// databases take turns.
	databases []string
	priority  int32

	sent int
	// latencies are the times from the return of a commit to the request.
	latencies []time.Duration
}

// percentile is one of the latencies, in milliseconds.
func (l *lane) percentile(p float64) float64 {
	return testbed.Milliseconds(testbed.Percentile(l.latencies, p))
}

// pause is the time that the parties have to become idle again between two jobs. It varies, so that
// nothing falls into step with a timer.
func pause() time.Duration { return 4*time.Millisecond + rand.N(4*time.Millisecond) }

// compare sends so many jobs on each lane, after a few that do not count: the stub connects to a
// database with its first job there.
func (l *lab) compare(ctx context.Context, n int, lanes ...*lane) error {
	const each = 5
	for _, lane := range lanes {
		if err := l.alternate(ctx, each*len(lane.databases), lane); err != nil {
			return err
		}
		lane.latencies = nil
	}
	return l.alternate(ctx, n, lanes...)
}

// alternate sends so many jobs on each lane, one at a time and in turns, so that whatever else the
// machine does meets all lanes alike.
func (l *lab) alternate(ctx context.Context, n int, lanes ...*lane) error {
	for i := range n {
		for k := range lanes {
			lane := lanes[(i+k)%len(lanes)]
			if err := l.send(ctx, lane); err != nil {
				return fmt.Errorf("job %d in %s: %w", i+1, strings.Join(lane.databases, ", "), err)
			}
		}
	}
	return nil
}

// whileAsked sends single jobs in turns, alone and while something is asked at a steady rate.
func (l *lab) whileAsked(ctx context.Context, databases []string, interval time.Duration, ask func(context.Context) error) (alone, asked *lane, err error) {
	const turns = 10
	alone, asked = &lane{databases: databases, priority: 1}, &lane{databases: databases, priority: 1}
	each := pick(l.bench, 300, 30) / turns
	if err := l.compare(ctx, 0, alone); err != nil {
		return nil, nil, err
	}
	for range turns {
		if err := l.alternate(ctx, each, alone); err != nil {
			return nil, nil, err
		}
		if err := every(ctx, interval, ask, func() error { return l.alternate(ctx, each, asked) }); err != nil {
			return nil, nil, err
		}
	}
	return alone, asked, nil
}

// send sends one job, and waits until it is done.
func (l *lab) send(ctx context.Context, lane *lane) error {
	db := lane.databases[lane.sent%len(lane.databases)]
	lane.sent++
	pool, err := l.pool(db)
	if err != nil {
		return err
	}
	if err := sleep(ctx, pause()); err != nil {
		return err
	}
	uuid := odoostub.NewUUID()
	committed, err := commitOne(ctx, pool, uuid, "pending", lane.priority)
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
