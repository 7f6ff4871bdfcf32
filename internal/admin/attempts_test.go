package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// TestTimelineOfAttempts: what became of the attempts that the row has forgotten is between what it says.
func TestTimelineOfAttempts(t *testing.T) {
	t.Parallel()
	var m memory
	at := time.Date(2030, 5, 6, 12, 0, 0, 0, time.UTC)
	see := func(after time.Duration, kind runner.EventKind, more runner.Event) {
		more.Kind, more.Time = kind, at.Add(after)
		more.Runner, more.Database, more.UUID = "default", "prod", "a"
		m.note(&more)
	}
	see(time.Second, runner.EventDispatched, runner.Event{Upstream: "http://odoo1"})
	see(10*time.Second, runner.EventJobRetried, runner.Event{Upstream: "http://odoo1", Status: 200})
	see(60*time.Second, runner.EventJobNotRun, runner.Event{Upstream: "http://odoo2", Status: 503, Detail: "Odoo answered without running it"})
	see(95*time.Second, runner.EventJobFailed, runner.Event{Upstream: "http://odoo1", Exception: "odoo.UserError"})
	see(96*time.Second, runner.EventJobDone, runner.Event{})
	m.note(&runner.Event{Kind: runner.EventJobFailed, Runner: "other", Database: "prod", UUID: "a", Time: at})
	m.note(&runner.Event{Kind: runner.EventJobFailed, Runner: "default", Database: "test", UUID: "a", Time: at})

	record := &api.Record{Timeline: []api.Moment{{What: "created", At: at}, {What: "enqueued", At: at.Add(90 * time.Second)}, {What: "failed", At: at.Add(94 * time.Second)}}}
	m.tell("default", channels.Key{DB: "prod", UUID: "a"}, record)
	require.Equal(t, []api.Moment{
		{What: "created", At: at},
		{What: "retried", At: at.Add(10 * time.Second), Upstream: "http://odoo1"},
		{What: "not run", At: at.Add(60 * time.Second), Upstream: "http://odoo2", Detail: "HTTP status 503, Odoo answered without running it"},
		{What: "enqueued", At: at.Add(90 * time.Second)},
		{What: "failed", At: at.Add(94 * time.Second), Upstream: "http://odoo1", Detail: "odoo.UserError"},
	}, record.Timeline)
	m.tell("default", channels.Key{DB: "prod", UUID: "a"}, nil)
}

// TestAttemptsAreBounded: the oldest goes first, texts are cut, and a site where all goes well has none.
func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	var m memory
	for range 10 * attemptsLimit {
		m.note(&runner.Event{Kind: runner.EventJobDone})
	}
	require.Empty(t, m.list)
	for i := range attemptsLimit + 10 {
		m.note(&runner.Event{Kind: runner.EventJobRescued, UUID: fmt.Sprint(i % attemptsLimit), Detail: strings.Repeat("ü", momentLimit), Time: time.Unix(int64(i), 0)})
	}
	require.Len(t, m.list, attemptsLimit)
	list := m.of("", channels.Key{UUID: "3"})
	require.Len(t, list, 1)
	require.EqualValues(t, attemptsLimit+3, list[0].At.Unix())
	require.LessOrEqual(t, len(list[0].Detail), momentLimit+len("\ufffd"))
	require.NotContains(t, list[0].Detail, "\xc3 ")
	require.EqualValues(t, 10, m.of("", channels.Key{UUID: "10"})[0].At.Unix(), "the oldest that is left")
}
