package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	manyPrefix   = "many_"
	templateDB   = "template_db"
	createAtOnce = 4
)

// many are copies of the template, as they are served.
func many(names []string, channels string) served {
	return served{pattern: manyPrefix + "*", databases: names, channels: channels}
}

func databasesAll(ctx context.Context, l *lab) error {
	names, err := l.copies(ctx)
	if err != nil {
		return err
	}
	if _, err := l.ready(ctx, one(idleDB, "root:4")); err != nil {
		return err
	}
	for range l.runs {
		err := l.whileServed(ctx, many(names, "root:4"), func(c *testbed.Caddy) error {
			l.report.add(fmt.Sprintf("start of Caddy until %d databases are served", len(names)), "s", 2, atMost(10),
				time.Since(c.Began).Seconds())
			return databasesRun(ctx, l, c, names)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// copies makes very many databases out of the template.
func (l *lab) copies(ctx context.Context) ([]string, error) {
	return l.copiesOf(ctx, pick(l.bench, 300, 30))
}

// copiesOf makes so many.
func (l *lab) copiesOf(ctx context.Context, n int) ([]string, error) {
	l.Leave(templateDB)
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s%03d", manyPrefix, i)
	}
	return names, parallel(createAtOnce, func(worker int) error {
		for i := worker; i < len(names); i += createAtOnce {
			if err := l.copyTemplate(ctx, names[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// copyTemplate makes a copy. Several copies of one template at a time may meet: the second is
// refused while the first checks who uses it.
func (l *lab) copyTemplate(ctx context.Context, name string) (err error) {
	const attempts = 20
	for range attempts {
		if err = l.Postgres.CreateDatabase(ctx, name, templateDB); err == nil {
			return nil
		}
		if err := sleep(ctx, pause()); err != nil {
			return err
		}
	}
	return err
}

func databasesRun(ctx context.Context, l *lab, c *testbed.Caddy, names []string) error {
	r := l.report
	// Jobs go to a few databases only: the stub's connections are not the subject.
	some, single := &lane{databases: names[:10], priority: 10}, &lane{databases: []string{idleDB}, priority: 10}
	if err := l.compare(ctx, pick(l.bench, 300, 30), some, single); err != nil {
		return err
	}
	r.add("commit to request, p50", "ms", 2, nil, some.percentile(50))
	r.add("p50, ratio to one database", "", 2, atMost(1.2), some.percentile(50)/single.percentile(50))
	r.add("p99, ratio to one database", "", 2, nil, some.percentile(99)/single.percentile(99))

	var used time.Duration
	nothing := pick(l.bench, 40*time.Second, 5*time.Second)
	if err := timeProcessor(c.PID(), &used, func() error { return sleep(ctx, nothing) }); err != nil {
		return err
	}
	r.add("processor of an idle Caddy", "% of a core", 2, atMost(1), 100*used.Seconds()/nothing.Seconds())
	return nil
}
