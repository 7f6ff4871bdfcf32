package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// May this attempt still be executing? The whole table.
func TestEvidence(t *testing.T) {
	t.Parallel()
	claimed := evidence{row: rowEnqueued, ours: true, dated: true}
	with := func(ev evidence, change func(*evidence)) evidence { change(&ev); return ev }
	for name, c := range map[string]struct {
		ev   evidence
		want finding
	}{
		"open":                                  {evidence{open: true}, mayExecute},
		"open, put back by hand":                {evidence{open: true, row: rowEnded}, mayExecute},
		"open, lock row free":                   {evidence{open: true, row: rowStarted, locks: true, lock: driver.Dead}, mayExecute},
		"row has ended":                         {evidence{row: rowEnded}, idle},
		"unread, answered":                      {evidence{request: requestEnded}, idle},
		"unread, never sent":                    {evidence{request: requestUnsent}, idle},
		"unread, broken":                        {evidence{waited: time.Hour}, mayExecute},
		"enqueued, answered":                    {with(claimed, func(ev *evidence) { ev.request = requestEnded }), unstarted},
		"enqueued, never sent":                  {with(claimed, func(ev *evidence) { ev.request = requestUnsent }), unstarted},
		"enqueued, never sent, unguarded":       {with(claimed, func(ev *evidence) { ev.request, ev.unguarded = requestUnsent, true }), unstarted},
		"enqueued again by another, answered":   {evidence{row: rowEnqueued, dated: true, request: requestEnded}, mayExecute},
		"enqueued, broken":                      {claimed, unstarted},
		"enqueued by another, just now":         {evidence{row: rowEnqueued, dated: true, waited: lostGrace - 1}, mayExecute},
		"enqueued by another":                   {evidence{row: rowEnqueued, dated: true, waited: lostGrace}, unstarted},
		"enqueued, broken, unguarded, just now": {with(claimed, func(ev *evidence) { ev.unguarded = true }), mayExecute},
		"enqueued, broken, unguarded":           {with(claimed, func(ev *evidence) { ev.waited, ev.unguarded = time.Hour, true }), undecided},
		"enqueued, broken, no date":             {evidence{row: rowEnqueued, waited: time.Hour}, mayExecute},
		"enqueued, broken, locks":               {with(claimed, func(ev *evidence) { ev.locks = true }), unstarted},
		"enqueued by another, locks":            {evidence{row: rowEnqueued, dated: true, locks: true, waited: time.Hour}, mayExecute},
		"enqueued by another, locks, dead":      {evidence{row: rowEnqueued, dated: true, locks: true, lock: driver.Dead}, dead},
		"started, answered":                     {evidence{row: rowStarted, request: requestEnded, waited: time.Hour, dated: true}, mayExecute},
		"started, locks, alive":                 {evidence{row: rowStarted, locks: true, lock: driver.Alive, waited: time.Hour}, mayExecute},
		"started, locks, dead":                  {evidence{row: rowStarted, locks: true, lock: driver.Dead}, dead},
		"started, locks, limit":                 {evidence{row: rowStarted, dated: true, locks: true, waited: time.Hour, limit: time.Minute}, mayExecute},
		"started, no locks, limit":              {evidence{row: rowStarted, dated: true, waited: time.Hour, limit: time.Hour}, dead},
		"started, no locks, before the limit":   {evidence{row: rowStarted, dated: true, waited: time.Minute, limit: time.Hour}, mayExecute},
		"started, no locks, limit, but no date": {evidence{row: rowStarted, waited: time.Hour, limit: time.Minute}, mayExecute},
		"mystery, answered":                     {evidence{row: rowMystery, request: requestEnded}, idle},
		"mystery, broken":                       {evidence{row: rowMystery, waited: mysteryLimit - 1}, mayExecute},
		"mystery, broken long ago":              {evidence{row: rowMystery, waited: mysteryLimit}, idle},
		"mystery, broken long ago, alive":       {evidence{row: rowMystery, waited: mysteryLimit, lock: driver.Alive}, mayExecute},
	} {
		require.Equal(t, c.want, c.ev.judge(), name)
	}
}
