package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	// dialTimeout bounds a connection to the admin API, which is usually on the
	// same machine.
	dialTimeout = 10 * time.Second
	// QuestionTimeout and ActionTimeout are how long the server takes for a
	// question and for an action, which may change many jobs in batches. The
	// client waits longer by answerGrace, so that the server says what took so long.
	QuestionTimeout = 20 * time.Second
	ActionTimeout   = 5 * time.Minute
	answerGrace     = 10 * time.Second
	// answerLimit bounds an answer, in bytes. A thousand databases are less than 1 MB.
	answerLimit = 64 << 20
	// errorLimit bounds the answer to a request that failed.
	errorLimit = 1 << 20
)

// Client asks the admin API of one Caddy. It can be used by several goroutines.
type Client struct {
	// OnAnswer, if set, is told every answer, and every event, as it came.
	OnAnswer func(raw []byte)

	// address is what the client was made with.
	address string
	origin  string
	// header is what every request has.
	header http.Header
	http   *http.Client
}

// Error is an answer of the admin API that says that a request failed.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Message says for people what went wrong.
	Message string

	raw []byte
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// UnreachableError says that there was no answer from an admin API at all.
type UnreachableError struct {
	// Address is where it was asked, Err why it did not answer.
	Address string
	Err     error
}

// Error says it without the request, which only the caller has chosen.
func (e *UnreachableError) Error() string {
	return "Caddy's admin API at " + e.Address + " cannot be reached: " + cause(e.Err)
}

// Unwrap returns the error of the connection.
func (e *UnreachableError) Unwrap() error { return e.Err }

// cause is what lies beneath an error of a connection, in the words of the system.
func cause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number.Error()
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok {
		return lookup.Err
	}
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	return err.Error()
}

// withoutScheme takes "http://" off an address, as people copy it from a browser. Caddy has no name for an
// address like that, and would take the scheme for a network.
func withoutScheme(address string) (string, error) {
	if rest, ok := strings.CutPrefix(address, "http://"); ok {
		address = strings.TrimSuffix(rest, "/")
		if strings.Contains(address, "/") {
			return "", errors.New("write it as host:port, without a path")
		}
	}
	if strings.Contains(address, "://") {
		return "", errors.New("write it as host:port")
	}
	return address, nil
}

// NewClient returns a client of the admin API at an address as Caddy writes it:
// "localhost:2019" or "unix//run/caddy/admin.sock"; "http://localhost:2019" is
// understood, too. It fails if the address cannot be read, and connects to nothing.
func NewClient(address string) (*Client, error) {
	text, err := withoutScheme(address)
	if err != nil {
		return nil, fmt.Errorf("the address %s of the admin API: %w", address, err)
	}
	addr, err := caddy.ParseNetworkAddress(text)
	if err != nil {
		return nil, fmt.Errorf("the address %s of the admin API: %w", address, err)
	}
	if addr.PortRangeSize() > 1 {
		return nil, fmt.Errorf("the address %s of the admin API: a range of ports is no address", address)
	}
	c := &Client{address: address, origin: "http://" + addr.JoinHostPort(0), header: http.Header{}}
	if addr.IsUnixNetwork() {
		// Caddy accepts this host on a socket, and asks for no origin there.
		c.origin = "http://127.0.0.1"
		// "/run/admin.sock|0660" carries the permissions of the socket's file.
		addr.Host, _, _ = strings.Cut(addr.Host, "|")
	} else {
		c.header.Set("Origin", c.origin)
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	c.http = &http.Client{Transport: &http.Transport{
		// A question now and then is not worth a connection that must be closed.
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, addr.Network, addr.JoinHostPort(0))
		},
	}}
	return c, nil
}

// Status returns the status of a runner, or of all if name is empty.
func (c *Client) Status(ctx context.Context, name string) ([]Status, error) {
	doc, err := get[Statuses](ctx, c, "status", ofRunner(name))
	return doc.Runners, err
}

// ListQuery selects a page of a list. What is empty does not restrict it.
type ListQuery struct {
	// Runner is one runner, empty for all.
	Runner string
	// Limit is how many a page has: 0 means as many as the server likes. Offset is how many come
	// before it.
	Limit, Offset int
	// States are those of the databases; of another list there is none.
	States []string
}

func (q *ListQuery) values() url.Values {
	v := ofRunner(q.Runner)
	for name, n := range map[string]int{"limit": q.Limit, "offset": q.Offset} {
		if n != 0 {
			v.Set(name, strconv.Itoa(n))
		}
	}
	if len(q.States) > 0 {
		v["state"] = q.States
	}
	return v
}

// Databases lists databases.
func (c *Client) Databases(ctx context.Context, q ListQuery) (Databases, error) {
	return get[Databases](ctx, c, "databases", q.values())
}

// Channels lists channels.
func (c *Client) Channels(ctx context.Context, q ListQuery) (Channels, error) {
	return get[Channels](ctx, c, "channels", q.values())
}

// Upstreams lists the Odoo servers of a runner, or of all if name is empty.
func (c *Client) Upstreams(ctx context.Context, name string) ([]Upstream, error) {
	doc, err := get[Upstreams](ctx, c, "upstreams", ofRunner(name))
	return doc.Upstreams, err
}

// Tasks lists the jobs that hold slots.
func (c *Client) Tasks(ctx context.Context, q ListQuery) (Tasks, error) {
	return get[Tasks](ctx, c, "tasks", q.values())
}

// JobQuery selects jobs. What is empty does not restrict them.
type JobQuery struct {
	// Runner may be left out if there is only one.
	Runner string
	// The filter's UUIDs are not used, but UUID, which may be the first letters of one.
	JobFilter

	UUID string
	// Cursor is the Next of the page before, Limit how many jobs a page has: 0
	// means as many as the server likes.
	Cursor string
	Limit  int
}

func (q *JobQuery) values() url.Values {
	v := ofRunner(q.Runner)
	for name, value := range map[string]string{
		"database": q.Database, "channel": q.Channel, "exception": q.Exception, "older_than": q.OlderThan, "cursor": q.Cursor,
		"uuid": q.UUID, "newer_than": q.NewerThan, "function": q.Function, "name": q.Name, "identity": q.Identity,
	} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if len(q.States) > 0 {
		v["state"] = q.States
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// Jobs reads one page of a runner's jobs, the newest first.
func (c *Client) Jobs(ctx context.Context, q JobQuery) (JobPage, error) {
	return get[JobPage](ctx, c, "jobs", q.values())
}

// Job says why a job does, or does not, run, and shows its row. The uuid may be cut to its first
// letters, and the database left out, as long as there is only one such job.
func (c *Client) Job(ctx context.Context, name, database, uuid string) (Why, error) {
	path := "jobs/"
	if database != "" {
		path += url.PathEscape(database) + "/"
	}
	return get[Why](ctx, c, path+url.PathEscape(uuid), ofRunner(name))
}

// Ready asks whether a runner, or all if name is empty, can do its work. That it
// cannot is no error.
func (c *Client) Ready(ctx context.Context, name string) (Readiness, error) {
	doc, err := get[Readiness](ctx, c, "ready", ofRunner(name))
	var failed *Error
	if errors.As(err, &failed) && failed.Status == http.StatusServiceUnavailable &&
		json.Unmarshal(failed.raw, &doc) == nil && len(doc.Problems) > 0 {
		c.answered(failed.raw)
		return doc, nil
	}
	return doc, err
}

// Pause pauses a channel, a database or everything.
func (c *Client) Pause(ctx context.Context, r PauseRequest) (OrderAnswer, error) {
	return post[OrderAnswer](ctx, c, "pause", r)
}

// Resume ends a pause.
func (c *Client) Resume(ctx context.Context, r PauseRequest) (OrderAnswer, error) {
	return post[OrderAnswer](ctx, c, "resume", r)
}

// Drain keeps new jobs from an Odoo server, so that it can be stopped.
func (c *Client) Drain(ctx context.Context, r DrainRequest) (OrderAnswer, error) {
	return post[OrderAnswer](ctx, c, "drain", r)
}

// Undrain sends jobs to an Odoo server again.
func (c *Client) Undrain(ctx context.Context, r DrainRequest) (OrderAnswer, error) {
	return post[OrderAnswer](ctx, c, "undrain", r)
}

// Requeue makes failed, cancelled or done jobs pending again.
func (c *Client) Requeue(ctx context.Context, r ChangeRequest) (ChangeAnswer, error) {
	return post[ChangeAnswer](ctx, c, "requeue", r)
}

// Cancel cancels jobs that wait or failed.
func (c *Client) Cancel(ctx context.Context, r ChangeRequest) (ChangeAnswer, error) {
	return post[ChangeAnswer](ctx, c, "cancel", r)
}

// SetDone marks jobs done that wait or failed.
func (c *Client) SetDone(ctx context.Context, r ChangeRequest) (ChangeAnswer, error) {
	return post[ChangeAnswer](ctx, c, "set-done", r)
}

// Postpone gives pending jobs another eta.
func (c *Client) Postpone(ctx context.Context, r ChangeRequest) (ChangeAnswer, error) {
	return post[ChangeAnswer](ctx, c, "postpone", r)
}

// Resync reads the jobs of a database, or of all, anew.
func (c *Client) Resync(ctx context.Context, r ResyncRequest) (ResyncAnswer, error) {
	return post[ResyncAnswer](ctx, c, "resync", r)
}

// ofRunner returns the parameters that every question has.
func ofRunner(name string) url.Values {
	q := url.Values{}
	if name != "" {
		q.Set("runner", name)
	}
	return q
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (doc T, err error) {
	err = c.call(ctx, http.MethodGet, path, q, nil, &doc)
	return doc, err
}

func post[T any](ctx context.Context, c *Client, path string, body any) (doc T, err error) {
	err = c.call(ctx, http.MethodPost, path, nil, body, &doc)
	return doc, err
}

// call sends a request and decodes the answer.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, body, into any) error {
	timeout := QuestionTimeout + answerGrace
	if method == http.MethodPost {
		timeout = ActionTimeout + answerGrace
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := c.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := readAll(resp.Body, answerLimit)
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	c.answered(raw)
	return nil
}

func (c *Client) answered(raw []byte) {
	if c.OnAnswer != nil {
		c.OnAnswer(raw)
	}
}

// send sends a request to the job runners.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	path = "/jobrunner/" + path
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return c.sendTo(ctx, method, path, "", body)
}

// sendTo sends a request and returns the answer if it is none of an error. With a tag, it is meant only for
// what still has that one.
func (c *Client) sendTo(ctx context.Context, method, uri, tag string, body any) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("writing the request: %w", err)
		}
		reader = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.origin+uri, reader)
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	req.Header = c.header.Clone()
	if tag != "" {
		req.Header.Set("If-Match", tag)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &UnreachableError{Address: c.address, Err: err}
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, err := readAll(resp.Body, errorLimit)
	if err != nil {
		return nil, fmt.Errorf("the admin API answers %s, reading the answer: %w", resp.Status, err)
	}
	return nil, refusal(resp.StatusCode, raw)
}

// refusal turns an answer of an error into one.
func refusal(status int, raw []byte) error {
	var doc ErrorAnswer
	if err := json.Unmarshal(raw, &doc); err != nil || doc.Error == "" {
		doc.Error = strings.TrimSpace(string(raw))
	}
	switch {
	case status == http.StatusNotFound && strings.HasPrefix(doc.Error, "404 "):
		// Not the API's own answer but that of Caddy's router.
		doc.Error = "this Caddy has no jobrunner module"
	case doc.Error == "":
		doc.Error = strings.ToLower(http.StatusText(status))
	}
	return &Error{Status: status, Message: doc.Error, raw: raw}
}

// readAll reads an answer that must not be larger than limit.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return raw, err
}
