package odoo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// BodyTimeout bounds the arrival of an answer's body after its head. By then the job is over.
	BodyTimeout = 10 * time.Second

	// bodyLimit is how much of a body is read, in bytes. Odoo's is empty; of another one the
	// beginning tells what it is.
	bodyLimit = 4096

	// healthPath is asked to see whether a server answers. Series that do not have it answer 404,
	// which is as good.
	healthPath = "/web/health"
)

// Check implements [driver.Driver]: any answer will do, but that of a proxy whose server is down.
func (d *Driver) Check(ctx context.Context, up driver.Upstream) error {
	x := d.exchange(ctx, up, call{path: healthPath})
	switch {
	case x.err != nil && ctx.Err() != nil && x.connected:
		return fmt.Errorf("check %s: %w", up.Name, driver.ErrNoAnswer)
	case x.err != nil:
		return fmt.Errorf("check %s: %w", up.Name, x.err)
	case unavailable(x.status):
		return fmt.Errorf("check %s: status %d", up.Name, x.status)
	}
	return nil
}

// Run implements [driver.Driver]. The job runs while the request is open: the answer comes when it
// has ended.
func (d *Driver) Run(ctx context.Context, up driver.Upstream, t driver.Task) driver.Result {
	cookies, failed := d.bootstrap(ctx, up, t)
	if failed != nil {
		return *failed
	}
	x := d.runExchange(ctx, up, t, cookies)
	result := driver.Result{Status: x.status}
	switch {
	case errors.Is(x.err, errUnspeakable):
		result.Outcome, result.Err = driver.Refused, x.err
	case x.err != nil && x.unsent:
		result.Outcome, result.Err = driver.NotSent, x.err
	case x.err != nil:
		result.Outcome, result.Err = driver.Broken, x.err
	default:
		result.Outcome, result.Err = classify(x.status, x.body)
	}
	if result.Outcome == driver.Unavailable {
		result.RetryAfter = retryAfter(x.header, time.Now())
	}
	if t.DriverState != "" && (x.err != nil || x.status >= http.StatusBadRequest) {
		d.sessions.drop(up.Name, t.DB)
	}
	return result
}

// runExchange sends the request that runs a task: where that is possible, written by the driver itself.
func (d *Driver) runExchange(ctx context.Context, up driver.Upstream, t driver.Task, cookies []*http.Cookie) exchange {
	if up.Sender != nil && len(cookies) == 0 && ctx.Err() == nil {
		text, _ := requests.Get().(*[]byte)
		defer requests.Put(text)
		var ok bool
		if *text, ok = d.appendRequest((*text)[:0], up, t); ok {
			return sendWritten(ctx, up.Sender, *text)
		}
	}
	return d.exchange(ctx, up, call{
		task: t, path: runPath(t), cookies: cookies,
		query: "db=" + url.QueryEscape(t.DB) + "&job_uuid=" + url.QueryEscape(t.UUID),
	})
}

// runPath is the path of the request that runs a task.
func runPath(t driver.Task) string {
	if t.DriverState == stateConnector {
		return connector.runPath
	}
	return queueJob.runPath
}

// classify tells Odoo's answers from those of others. An answer of the add-on itself has an empty
// body; that of a job that failed is a page with nearly any status from 400 on, so of pages only
// those count as refusals that failing jobs hardly produce (docs/contract.md 1.4). The row decides
// anyway.
func classify(status int, body []byte) (driver.Outcome, error) {
	page := strings.HasPrefix(http.DetectContentType(body), "text/html")
	switch {
	case gaveUp(status):
		return driver.Broken, fmt.Errorf("status %d: something between here and Odoo stopped waiting; the job may go on", status)
	case unavailable(status), status == http.StatusTooManyRequests:
		return driver.Unavailable, fmt.Errorf("status %d: the server cannot run jobs now", status)
	case status >= 300 && status < 400:
		return driver.Refused, fmt.Errorf("status %d: a redirect instead of an answer", status)
	case status == http.StatusUnauthorized, status == http.StatusProxyAuthRequired:
		return driver.Refused, fmt.Errorf("status %d: a proxy in front of Odoo asks for a password", status)
	case status == http.StatusNotFound && page:
		return driver.Refused, fmt.Errorf("status %d: the route is unknown, "+
			"is the add-on loaded and the database known to the server?", status)
	case status < 300 && page:
		return driver.Refused, fmt.Errorf("status %d with a page that is not the add-on's answer", status)
	}
	return driver.Answered, nil
}

// gaveUp reports whether a status is that of a gateway, an Envoy or a content delivery network for
// instance, that passed a request on and stopped waiting for the answer. 504 and its like are
// [unavailable], and prove as little.
func gaveUp(status int) bool {
	return status == http.StatusRequestTimeout || status >= 520 && status <= 527
}

// unavailable reports whether a status is that of a proxy without a server.
func unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable ||
		status == http.StatusGatewayTimeout
}

// retryAfter is how long an answer asks its reader to wait (RFC 9110, 10.2.3): a number of seconds, or a
// date. What cannot be read asks for nothing.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return max(date.Sub(now), 0)
}

// exchange is one request and its answer.
type exchange struct {
	// connected is set when there was a connection to the server.
	connected bool
	// unsent is set when certainly nothing was delivered.
	unsent bool
	status int
	header http.Header
	body   []byte
	err    error
}

// call is what is asked for.
type call struct {
	task    driver.Task // zero when it is about the server
	path    string
	query   string // encoded
	cookies []*http.Cookie
}

// unsent is an exchange that ended before it began.
func unsent(err error) exchange { return exchange{unsent: true, err: err} }

// exchange sends one GET request, once: straight to the transport, because a client would follow
// redirects.
func (d *Driver) exchange(ctx context.Context, up driver.Upstream, c call) exchange {
	switch {
	case ctx.Err() != nil:
		return unsent(context.Cause(ctx))
	case up.Transport == nil:
		return unsent(errors.New("the upstream has no transport"))
	}
	var trace connTrace
	req, err := d.request(trace.in(ctx), up, c)
	if err != nil {
		return unsent(err)
	}
	setIDs(req.Header, c.task.ID, c.task.Trace)
	res, err := roundTrip(up.Transport, req)
	if err != nil {
		return exchange{connected: trace.got.Load(), unsent: trace.unsent(err), err: err}
	}
	return read(res)
}

// read reads an answer.
func read(res *http.Response) exchange {
	defer res.Body.Close()
	x := exchange{connected: true, status: res.StatusCode, header: res.Header}
	if x.status < http.StatusOK {
		x.err = fmt.Errorf("status %d is no answer to a request", x.status)
		return x
	}
	x.body, x.err = readBody(res.Body)
	return x
}

// request builds a request. What would be rejected or misread on its way is rejected here, where it
// is certain that nothing was sent.
func (d *Driver) request(ctx context.Context, up driver.Upstream, c call) (*http.Request, error) {
	database := c.task.DB
	if strings.ContainsFunc(database, unicode.IsControl) {
		return nil, fmt.Errorf("%w: database %q", errUnspeakable, database)
	}
	u := url.URL{Scheme: up.Scheme, Host: up.Host, Path: c.path, RawQuery: c.query}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if req.Host = d.host(up, database); !httpguts.ValidHostHeader(req.Host) {
		return nil, fmt.Errorf("%w: the host %q of database %q", errUnspeakable, req.Host, database)
	}
	req.Close = true
	req.Header.Set("User-Agent", d.options.UserAgent)
	if database != "" {
		req.Header.Set("X-Odoo-Database", database)
	}
	for _, cookie := range c.cookies {
		req.AddCookie(cookie)
	}
	if d.options.BasicAuthUser != "" {
		req.SetBasicAuth(d.options.BasicAuthUser, d.options.BasicAuthPassword)
	}
	return req, nil
}

// errUnspeakable is about a database, not about the server that was to be asked.
var errUnspeakable = errors.New("it cannot be named in an HTTP header")

// isTraceID reports whether W3C Trace Context allows it as one.
func isTraceID(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}

// setIDs lets Odoo's log, and what traces it, find the attempt again: the task's ID is the
// request's. If the attempt is traced, its context is sent; otherwise the ID is that of a trace
// that counts as sampled, or Odoo would trace no job.
func setIDs(h http.Header, id string, traced map[string]string) {
	if !isTraceID(id) {
		return
	}
	h.Set("X-Request-ID", id)
	if traced == nil {
		h.Set("Traceparent", "00-"+id+"-"+id[16:]+"-01")
	}
	for name, value := range traced {
		h.Set(name, value)
	}
}

// roundTrip turns a panic of the transport into an error: it may be foreign code, and a panic would
// end the web server.
func roundTrip(t http.RoundTripper, req *http.Request) (res *http.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			res, err = nil, fmt.Errorf("the transport panicked: %v", p)
		}
	}()
	return t.RoundTrip(req)
}

// readBody reads the beginning of a body, to its end if that is near. Only now there is a deadline;
// the job could take as long as it liked.
func readBody(body io.ReadCloser) (text []byte, err error) {
	if body == http.NoBody {
		return nil, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reading the answer panicked: %v", p)
		}
	}()
	late := time.AfterFunc(BodyTimeout, func() {
		defer func() { _ = recover() }() // it may be foreign, too
		_ = body.Close()
	})
	defer late.Stop()
	text, err = io.ReadAll(io.LimitReader(body, bodyLimit))
	switch {
	case err != nil && !late.Stop():
		return nil, fmt.Errorf("read the answer: its body did not arrive within %s: %w", BodyTimeout, err)
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return text, nil
}

// connTrace watches how far a request gets. The transport's goroutines may call it after the
// request is over.
type connTrace struct {
	// asked is set when the transport wants a connection, got when it has one. TLS is part of
	// getting one.
	asked, got atomic.Bool
}

func (t *connTrace) in(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { t.asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { t.got.Store(true) },
	})
}

// unsent reports whether certainly not a byte of the request was delivered: either the transport
// said that it wants a connection and never that it has one, or the error itself is one of
// connecting. A transport that does not support tracing says nothing, which proves nothing.
func (t *connTrace) unsent(err error) bool {
	if t.got.Load() {
		return false
	}
	var op *net.OpError
	return t.asked.Load() || errors.As(err, &op) && op.Op == "dial"
}
