package admin

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// attemptsLimit bounds the moments that are remembered: a megabyte or two, and none where all goes well.
	attemptsLimit = 4096
	// momentLimit bounds the text of one, in bytes; it may come from others.
	momentLimit = 300
	// sameMoment is how far the time that Odoo writes, and that at which it was seen, are apart at most.
	sameMoment = 5 * time.Second
)

// attempts remembers what the rows of jobs do not tell: that an attempt did not end well, and where it ran.
// Odoo's row has the times of the last attempt only. It is global because it goes on over reloads.
var attempts memory

// memory is the last moments, the oldest overwritten first.
type memory struct {
	mu   sync.Mutex // guards the following, for moments only, because the loops of the runners wait for it
	list []remembered
	next int
}

type remembered struct {
	runner string
	key    channels.Key
	api.Moment
}

// note remembers an event, if it is one of an attempt that did not end well.
func (m *memory) note(ev *runner.Event) {
	what, ok := momentOf(ev.Kind)
	if !ok {
		return
	}
	one := remembered{ev.Runner, channels.Key{DB: ev.Database, UUID: ev.UUID}, api.Moment{
		What: what, At: ev.Time.UTC(), Upstream: ev.Upstream, Detail: strings.ToValidUTF8(detailOf(ev), "\ufffd"),
	}}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.list) < attemptsLimit {
		m.list = append(m.list, one)
		return
	}
	m.list[m.next] = one
	m.next = (m.next + 1) % attemptsLimit
}

// momentOf is what an event is called in a timeline.
func momentOf(kind runner.EventKind) (string, bool) {
	switch kind {
	case runner.EventJobFailed, runner.EventJobRetried, runner.EventJobNotRun, runner.EventJobRescued, runner.EventJobLost,
		runner.EventUnclaimed, runner.EventTimeoutWarned, runner.EventTimeoutReached, runner.EventTimeoutCancelled,
		runner.EventTimeoutTerminated, runner.EventTimeoutStuck:
		return strings.ReplaceAll(strings.TrimPrefix(string(kind), "job_"), "_", " "), true
	default:
		return "", false
	}
}

// detailOf says what is known of the end of an attempt.
func detailOf(ev *runner.Event) string {
	var words []string
	if ev.Exception != "" {
		words = append(words, ev.Exception)
	}
	if ev.Status != 0 && ev.Status != 200 {
		words = append(words, fmt.Sprintf("HTTP status %d", ev.Status))
	}
	if ev.Detail != "" {
		words = append(words, ev.Detail)
	}
	text := strings.Join(words, ", ")
	return text[:min(len(text), momentLimit)]
}

// of returns what is remembered of a job, the first first.
func (m *memory) of(name string, key channels.Key) (list []api.Moment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.list {
		if one := &m.list[(m.next+i)%len(m.list)]; one.key == key && one.runner == name {
			list = append(list, one.Moment)
		}
	}
	return list
}

// tell adds what is remembered of a job to what its row says.
func (m *memory) tell(name string, key channels.Key, record *api.Record) {
	if record == nil {
		return
	}
	for _, one := range m.of(name, key) {
		i := slices.IndexFunc(record.Timeline, func(row api.Moment) bool {
			return row.What == one.What && row.At.Sub(one.At).Abs() <= sameMoment && row.Upstream+row.Detail == ""
		})
		if i >= 0 {
			record.Timeline[i].Upstream, record.Timeline[i].Detail = one.Upstream, one.Detail
			continue
		}
		record.Timeline = append(record.Timeline, one)
	}
	slices.SortStableFunc(record.Timeline, func(a, b api.Moment) int { return a.At.Compare(b.At) })
}

// TellOfJob is the answer to a question for one job: what its row says, and what this process has seen.
func TellOfJob(name string, why *runner.Why) api.Why {
	doc := api.NewWhy(name, why)
	attempts.tell(name, why.Key, doc.Record)
	return doc
}
