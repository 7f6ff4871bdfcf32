package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// streamSilence is how long a stream of events may be silent. The server
	// sends a comment at least every 15 s.
	streamSilence = time.Minute
	// eventLimit bounds one event, in bytes.
	eventLimit = 1 << 20
)

// errSilent is why a stream was given up.
var errSilent = errors.New("the stream of events has been silent for " + streamSilence.String())

// EventKinds returns the kinds of events, as [EventQuery] takes them.
func EventKinds() []string {
	var names []string
	for _, kind := range runner.EventKinds() {
		names = append(names, string(kind))
	}
	return names
}

// EventQuery selects events. What is empty does not restrict them.
type EventQuery struct {
	Runner, Database string
	// Kinds are some of [EventKinds].
	Kinds []string
}

// Events calls each for every event as it happens, until the stream ends, which it
// does when Caddy's configuration is reloaded. Then it returns nil. What each
// returns ends the stream, too.
func (c *Client) Events(ctx context.Context, q EventQuery, each func(Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(streamSilence, func() { cancel(errSilent) })
	defer silence.Stop()
	err := c.events(ctx, q, silence, each)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

func (c *Client) events(ctx context.Context, q EventQuery, silence *time.Timer, each func(Event) error) error {
	values := ofRunner(q.Runner)
	if q.Database != "" {
		values.Set("database", q.Database)
	}
	if len(q.Kinds) > 0 {
		values["event"] = q.Kinds
	}
	resp, err := c.send(ctx, http.MethodGet, "events", values, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, eventLimit)
	for lines.Scan() {
		silence.Stop() // each may take its time
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			if err := c.event([]byte(data), each); err != nil {
				return err
			}
		}
		silence.Reset(streamSilence)
	}
	switch err := lines.Err(); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("reading an event: %w", err)
	}
	return nil // however the connection ended, the stream is over
}

func (c *Client) event(data []byte, each func(Event) error) error {
	var ev Event
	if err := json.Unmarshal(data, &ev); err != nil {
		return fmt.Errorf("reading an event: %w", err)
	}
	c.answered(data)
	return each(ev)
}
