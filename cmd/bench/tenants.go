package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	bigTenant, smallTenant = "tenant_big", "tenant_small"
	// tenantJobMS is how long every job takes, in milliseconds, and tenantBeat the time between two jobs of
	// the small tenant.
	tenantJobMS = 700
	tenantBeat  = time.Second
	// insertTenant is insertOne with a behaviour.
	insertTenant = insertInto + "$1, $2, 'pending', 'root', 10"
)

// tenantsAll measures for how long the jobs of a small tenant wait beside a big one that never ends, and
// alone. Without a share, they would wait for all jobs of the big one that are older.
func tenantsAll(ctx context.Context, l *lab) error {
	s := served{
		pattern: "tenant_*", databases: []string{bigTenant, smallTenant}, channels: "root:4",
		options: "policy root {\nfair database\n}",
	}
	for range l.runs {
		var alone float64
		for _, big := range []int{0, pick(l.bench, 100_000, 1_000)} {
			if err := l.clear(ctx, bigTenant, smallTenant); err != nil {
				return err
			}
			waits, err := l.beside(ctx, s, big)
			if err != nil {
				return err
			}
			p99 := testbed.Percentile(waits, 99)
			if big == 0 {
				alone = p99
				l.report.add("a small tenant waits, alone, p99", "ms", 1, nil, p99)
				continue
			}
			l.report.add("beside a big one, p99", "ms", 1, nil, p99)
			l.report.add("beside a big one, p99, more than alone", "ms", 1, atMost(tenantJobMS), p99-alone)
		}
	}
	return nil
}

// beside queues many jobs of the big tenant, then one of the small one after the other, and returns how
// many milliseconds passed from each commit until its request reached the server.
func (l *lab) beside(ctx context.Context, s served, big int) (waits []float64, err error) {
	kwargs := fmt.Sprintf(`{"sleep_ms": %d}`, tenantJobMS)
	small, err := l.pool(smallTenant)
	if err != nil {
		return nil, err
	}
	err = l.whileServed(ctx, s, func(*testbed.Caddy) error {
		if big > 0 {
			if err := l.insert(ctx, bigTenant, jobs{count: big, kwargs: kwargs}); err != nil {
				return err
			}
		}
		if err := sleep(ctx, 2*warmUp); err != nil {
			return err
		}
		committed := make(map[string]time.Time)
		for range pick(l.bench, 120, 5) {
			uuid := odoostub.NewUUID()
			if _, err := small.Exec(ctx, insertTenant, uuid, kwargs); err != nil {
				return fmt.Errorf("inserting a job: %w", err)
			}
			committed[uuid] = time.Now()
			if err := sleep(ctx, tenantBeat); err != nil {
				return err
			}
		}
		if err := sleep(ctx, 2*tenantJobMS*time.Millisecond); err != nil {
			return err
		}
		records, err := l.stub.take(ctx)
		if err != nil {
			return err
		}
		for _, r := range records.Requests {
			if since, ok := committed[r.UUID]; ok {
				waits = append(waits, float64(max(r.At.Sub(since), 0))/float64(time.Millisecond))
				delete(committed, r.UUID)
			}
		}
		if n := len(committed); n > 0 {
			return fmt.Errorf("%d jobs of the small tenant were not started", n)
		}
		return nil
	})
	return waits, err
}
