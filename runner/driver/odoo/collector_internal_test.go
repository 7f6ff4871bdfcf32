package odoo

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// What the call in a scheduled action says: as the add-on has it in each series, and as users change it.
func TestStartedLimits(t *testing.T) {
	for name, c := range map[string]struct {
		code string
		want []driver.StartedLimit
	}{
		"to 14.0, 17.0, 18.0": {"model.requeue_stuck_jobs()", nil},
		"15.0, 16.0":          {"model.requeue_stuck_jobs(enqueued_delta=1, started_delta=-1)", []driver.StartedLimit{{OfRequest: true}}},
		"by name":             {"model.requeue_stuck_jobs(\n    started_delta = 60,\n    enqueued_delta=5\n)", []driver.StartedLimit{{After: time.Hour}}},
		"by position":         {"model.requeue_stuck_jobs(5, 90)", []driver.StartedLimit{{After: 90 * time.Minute}}},
		"another by name":     {"model.requeue_stuck_jobs(a=1, enqueued_delta=7)", nil},
		"no limit":            {"model.requeue_stuck_jobs(enqueued_delta=5, started_delta=0)", nil},
		"negative":            {"model.requeue_stuck_jobs(5, -2)", []driver.StartedLimit{{}}},
		"a comment":           {"# model.requeue_stuck_jobs(5, 1)\nmodel.autovacuum()", nil},
		"two calls":           {"model.requeue_stuck_jobs(5, 1)\nmodel.requeue_stuck_jobs(0, 2)", []driver.StartedLimit{{After: time.Minute}, {After: 2 * time.Minute}}},
		"an expression":       {"model.requeue_stuck_jobs(5, 2 * 60)", nil},
		"the longest":         {"model.requeue_stuck_jobs(5, 52560000)", []driver.StartedLimit{{After: 100 * 365 * 24 * time.Hour}}},
		"too long by one":     {"model.requeue_stuck_jobs(5, 52560001)", nil},
		"too long":            {"model.requeue_stuck_jobs(5, 9000000000000)", nil},
		"no number":           {"model.requeue_stuck_jobs(5, 99999999999999999999)", nil},
		"something else":      {"model.autovacuum()", nil},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, startedLimits(c.code))
		})
	}
}
