package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// streamWrite bounds one write to a reader of events; one that does not read
	// is disconnected.
	streamWrite = 10 * time.Second
	// streamIdle is the time between two comments on a stream without events.
	streamIdle = 15 * time.Second
	// streamReaders bounds the readers at the same time.
	streamReaders = 100
)

// getEvents streams events as they happen, as server-sent events.
func getEvents(w http.ResponseWriter, r *http.Request) error {
	q, err := Query(r, "runner", "database", "event")
	if err != nil {
		return err
	}
	if _, err := runners(q.Get("runner")); err != nil {
		return err
	}
	var kinds []runner.EventKind
	for _, list := range q["event"] {
		for name := range strings.SplitSeq(list, ",") {
			if !slices.Contains(runner.EventKinds(), runner.EventKind(name)) {
				return Error(http.StatusBadRequest, "unknown event %q, known are %s", name, strings.Join(api.EventKinds(), ", "))
			}
			kinds = append(kinds, runner.EventKind(name))
		}
	}
	name, database := q.Get("runner"), q.Get("database")
	// A stream ends with the configuration in force: the admin endpoint of the old one waits for it.
	var changed <-chan struct{}
	if sup := supervisor.Active(); sup != nil {
		changed = sup.Changed()
	}
	if streams.len() >= streamReaders {
		return Error(http.StatusServiceUnavailable, "there are %d readers of events already", streamReaders)
	}
	reader := streams.subscribe(func(ev *runner.Event) bool {
		return (name == "" || ev.Runner == name) && (database == "" || ev.Database == database) &&
			(len(kinds) == 0 || slices.Contains(kinds, ev.Kind))
	})
	defer streams.unsubscribe(reader)
	return stream(w, r, reader, changed)
}

// stream writes until the client goes or the configuration has changed.
func stream(w http.ResponseWriter, r *http.Request, reader *reader, changed <-chan struct{}) error {
	rc := http.NewResponseController(w)
	// Caddy's read timeout would end the request's context after 10 s.
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return Error(http.StatusInternalServerError, "events cannot be streamed here: %w", err)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	write := func(format string, args ...any) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(streamWrite))
		_, err := fmt.Fprintf(w, format, args...)
		return err == nil && rc.Flush() == nil
	}
	idle := time.NewTicker(streamIdle)
	defer idle.Stop()
	for ok := write(": connected\n\n"); ok; {
		select {
		case ev := <-reader.events:
			if n := reader.dropped.Swap(0); n > 0 {
				ok = write("event: dropped\ndata: {\"event\":\"dropped\",\"count\":%d}\n\n", n)
			}
			data, err := json.Marshal(api.NewEvent(&ev))
			ok = ok && err == nil && write("event: %s\ndata: %s\n\n", ev.Kind, data)
		case <-idle.C:
			ok = write(": nothing new\n\n")
		case <-changed:
			write("event: end\ndata: {\"event\":\"end\"}\n\n")
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
	return nil
}
