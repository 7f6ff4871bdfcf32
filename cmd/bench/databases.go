package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

const (
	manyPrefix   = "many_"
	manyPattern  = "many_*"
	templateDB   = "template_db"
	createAtOnce = 4
)

var databases = scenario{
	name: "databases", about: "300 databases, one connection each",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{templateDB, idleDB}, databasesAll)
	},
}

func databasesAll(ctx context.Context, l *lab) error {
	count := l.size(300, 30)
	names, err := l.copies(ctx, templateDB, count)
	if err != nil {
		return err
	}
	if _, err := l.startReady(ctx, config{Databases: idleDB, Channels: "root:4"}); err != nil {
		return err
	}
	for range l.runs {
		if err := databasesRun(ctx, l, names); err != nil {
			return err
		}
	}
	return nil
}

// copies makes databases out of one with the add-on.
func (l *lab) copies(ctx context.Context, template string, count int) ([]string, error) {
	l.disconnect(ctx, template)
	names := make([]string, count)
	work := make(chan string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%s%03d", manyPrefix, i)
		work <- names[i]
	}
	close(work)
	errs := make([]error, createAtOnce)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for name := range work {
				if errs[i] = copyDatabase(ctx, l.pg, name, template); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return names, errors.Join(errs...)
}

// copyDatabase copies the template. Several copies of one template at a time may
// meet: the second is refused while the first looks at who uses it.
func copyDatabase(ctx context.Context, pg *pgtest.Cluster, name, template string) (err error) {
	const attempts = 20
	for range attempts {
		if err = pg.CreateDatabase(ctx, name, template); err == nil || ctx.Err() != nil {
			return err
		}
		if err := sleep(ctx, pause()); err != nil {
			return err
		}
	}
	return err
}

func databasesRun(ctx context.Context, l *lab, names []string) (err error) {
	r := l.report
	c, err := l.startReady(ctx, config{Databases: manyPattern, Count: len(names), Channels: "root:4"})
	if err != nil {
		return err
	}
	ready := time.Since(c.Began())
	defer func() { err = errors.Join(err, c.Stop()) }()
	r.figure(fmt.Sprintf("start of Caddy until %d databases are served", len(names)), "s", 2, atMost(10)).add(ready.Seconds())

	// Jobs go to a few databases only: the stub's connections are not the subject.
	many := &lane{name: "one of many", databases: names[:10], priority: 10}
	one := &lane{name: "the only one", databases: []string{idleDB}, priority: 10}
	if err := l.warm(ctx, many, one); err != nil {
		return err
	}
	if err := l.alternate(ctx, l.size(300, 30), many, one); err != nil {
		return err
	}
	r.figure("commit to request, p50", "ms", 2, nil).add(many.percentile(50))
	r.figure("p50, ratio to one database", "", 2, atMost(1.2)).add(many.percentile(50) / one.percentile(50))
	r.figure("p99, ratio to one database", "", 2, nil).add(many.percentile(99) / one.percentile(99))

	before, err := c.processorTime()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := sleep(ctx, l.duration(40*time.Second, 5*time.Second)); err != nil {
		return err
	}
	after, err := c.processorTime()
	if err != nil {
		return err
	}
	r.figure("processor of an idle Caddy", "% of a core", 2, atMost(1)).add(100 * (after - before).Seconds() / time.Since(began).Seconds())
	return nil
}
