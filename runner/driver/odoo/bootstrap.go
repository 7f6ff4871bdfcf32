package odoo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// What the Claim of a session tells [Driver.Run]. Without it there is no session to begin.
const (
	// stateConnector: connector's route, and a session bound to the database where the server has
	// such sessions.
	stateConnector = "connector"
	// stateSession: queue_job before 12.0, where each request without a session leaves a new one
	// behind on the server's disk.
	stateSession = "session"
)

const (
	// BootstrapTimeout bounds the requests that begin a session (docs/contract.md 1.4).
	BootstrapTimeout = 30 * time.Second

	loginPath   = "/web/login"
	sessionPath = "/queue_job/session"

	// bootstrapHops bounds the redirects on the way to a session. Odoo itself needs one: it binds
	// the session to the database and asks again with it.
	bootstrapHops = 5
)

// sessionKey tells sessions apart. Servers need not share theirs.
type sessionKey struct{ upstream, database string }

// sessions holds the cookies of anonymous sessions. The zero value is ready.
type sessions struct {
	mu      sync.Mutex
	cookies map[sessionKey][]*http.Cookie
}

// get returns the cookies of a session, of which there may be none, and whether it has been asked
// for before.
func (s *sessions) get(upstream, database string) ([]*http.Cookie, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cookies, ok := s.cookies[sessionKey{upstream, database}]
	return cookies, ok
}

func (s *sessions) put(upstream, database string, cookies []*http.Cookie) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cookies == nil {
		s.cookies = make(map[sessionKey][]*http.Cookie)
	}
	s.cookies[sessionKey{upstream, database}] = cookies
}

// drop forgets a session after an error: it may have been the reason.
func (s *sessions) drop(upstream, database string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cookies, sessionKey{upstream, database})
}

// bootstrap returns the cookies that a task's request needs. When they cannot be had, failed is the
// task's result: it was not started.
func (d *Driver) bootstrap(ctx context.Context, up driver.Upstream, t driver.Task) (cookies []*http.Cookie, failed *driver.Result) {
	if t.DriverState == "" {
		return nil, nil
	}
	if cookies, ok := d.sessions.get(up.Name, t.DB); ok {
		return cookies, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, BootstrapTimeout, fmt.Errorf("no answer within %s", BootstrapTimeout))
	defer cancel()
	x := d.begin(ctx, up, t)
	switch {
	case x.err != nil && !x.unsent:
		// The server was reached, and others may be served well: this says something about the
		// database alone.
		return nil, &driver.Result{Outcome: driver.Refused, Err: fmt.Errorf("begin a session in %s: %w", t.DB, x.err)}
	case x.err != nil, unavailable(x.status):
		// Nothing that starts a job was sent, and another server may do better.
		err := x.err
		if err == nil {
			err = fmt.Errorf("status %d", x.status)
		}
		return nil, &driver.Result{Outcome: driver.NotSent, Err: fmt.Errorf("begin a session: %w", err)}
	case x.status >= http.StatusMultipleChoices && x.status != http.StatusNotFound && t.DriverState == stateConnector:
		// The server is well, but not for this database; or it has too much to do.
		outcome := driver.Refused
		if x.status == http.StatusTooManyRequests {
			outcome = driver.Unavailable
		}
		return nil, &driver.Result{Outcome: outcome, Status: x.status,
			Err: fmt.Errorf("begin a session in %s: status %d", t.DB, x.status)}
	}
	// 404: the server has no such route, as 7.0. queue_job's session is only there to save the
	// server's disk.
	cookies = x.cookies
	d.sessions.put(up.Name, t.DB, cookies)
	return cookies, nil
}

// begun is the end of the way to a session.
type begun struct {
	cookies []*http.Cookie
	status  int
	err     error
	// unsent is set when the server was not reached.
	unsent bool
}

// begin asks for a session, and follows the redirects of the server on itself.
func (d *Driver) begin(ctx context.Context, up driver.Upstream, t driver.Task) (b begun) {
	// The request that runs the job has an id, those before it do not.
	t.ID = ""
	c := call{task: t, path: sessionPath}
	if t.DriverState == stateConnector {
		c.path, c.query = loginPath, "db="+url.QueryEscape(t.DB)
	}
	for range bootstrapHops {
		x := d.exchange(ctx, up, c)
		if b.status, b.err = x.status, x.err; b.err != nil {
			b.unsent = x.unsent && !errors.Is(x.err, errUnspeakable)
			return b
		}
		c.cookies = merge(c.cookies, (&http.Response{Header: x.header}).Cookies())
		b.cookies = c.cookies
		if x.status < http.StatusMultipleChoices || x.status >= http.StatusBadRequest {
			return b
		}
		next, err := url.Parse(x.header.Get("Location"))
		if err != nil || next.Path == "" || strings.Contains(next.Path, "/database/") {
			return b // Odoo does not show the database to this Host header
		}
		c.path, c.query = next.Path, next.Query().Encode()
	}
	b.err = errors.New("too many redirects")
	return b
}

// merge adds cookies, of which the later of one name count. A [net/http/cookiejar.Jar] does not
// fit: it keeps a cookie back that is marked Secure where the server is reached by plain HTTP, and
// refuses one for the site's domain where the server is reached by its address, as servers behind a
// proxy are.
func merge(have, more []*http.Cookie) []*http.Cookie {
	var list []*http.Cookie
	for _, c := range append(more, have...) {
		known := false
		for _, k := range list {
			known = known || k.Name == c.Name
		}
		if !known {
			list = append(list, c)
		}
	}
	return list
}
