package doctor

import (
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// upgrading tells of an upgrade during which nothing of a database starts.
func (e *examination) upgrading(name string, x *driver.Examination) {
	if !e.subject.Config.UpgradeGate || !x.Upgrade.Active {
		return
	}
	since := ""
	if !x.Marked.IsZero() {
		since = " since " + x.Marked.UTC().Format(time.RFC3339) + " or earlier"
	}
	e.add(foundUpgrading, "upgrade_gate keeps all of its jobs waiting%s, %s: finish the upgrade, or cancel it in Apps", since,
		x.Upgrade.Description).Database = name
}

// collector compares the times after which the application itself puts back started jobs with those
// that jobs may take. A job that still runs then is run a second time. Where nothing is known of how
// long jobs may take, nothing is said.
func (e *examination) collector(name string, x *driver.Examination) {
	may, why := e.longest(name)
	for _, limit := range x.StartedLimits {
		after := limit.After
		if limit.OfRequest {
			if e.subject.Odoo == nil {
				continue
			}
			after = configuredLimit(e.subject.Odoo).Truncate(time.Minute) + time.Minute
		}
		if may == 0 || after > may {
			continue
		}
		e.add(foundCollector, "a scheduled action of Odoo (Jobs Garbage Collector) puts back jobs that have been started for %s, whether they run or not, and %s: "+
			"those would be run a second time; raise started_delta in its call of requeue_stuck_jobs, or set it to 0", after, why).Database = name
		return
	}
}

// forever is longer than any time that is compared with it.
const forever = time.Duration(1<<63 - 1)

// longest tells how long a job of a database may take, by what is configured, and what says so; 0 if
// nothing does.
func (e *examination) longest(name string) (may time.Duration, why string) {
	list := e.subject.Config.Policies
	for i := range list {
		if p := &list[i]; p.Timeout != nil && p.In(name) && end(p.Timeout) > may {
			may = end(p.Timeout)
			why = fmt.Sprintf("%s lets jobs run for %s", p, may)
		}
	}
	limit, known := e.limitTimeReal()
	switch {
	case !known:
	case limit > 0 && (may == 0 || limit < may):
		may, why = limit, fmt.Sprintf("limit_time_real lets them run for %s", limit)
	case limit == 0 && may == 0:
		may, why = forever, "limit_time_real lets them run for as long as they want"
	}
	return may, why
}
