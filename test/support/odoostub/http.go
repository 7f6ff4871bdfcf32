package odoostub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	runjobPath     = "/queue_job/runjob"
	connectorPath  = "/connector/runjob"
	databaseHeader = "X-Odoo-Database"

	// requestTimeout bounds the arrival of a request; prefork Odoo waits 2 s.
	requestTimeout = 2 * time.Second
	// answerTimeout bounds the sending of an answer, if it is not a slow one.
	answerTimeout = 10 * time.Second

	loginPage = `<!DOCTYPE html><html><head><title>Odoo</title></head>` +
		`<body><form class="oe_login_form" action="/web/login" method="post"></form></body></html>`
)

// answer is an HTTP answer.
type answer struct {
	status int
	kind   string // Content-Type; default HTML
	header string // further header lines, each ended by CRLF
	body   string
}

func errorPage(status int, message string) answer {
	return answer{status: status, body: fmt.Sprintf("<!doctype html><html><title>%d %s</title><h1>%s</h1><p>%s</p></html>",
		status, http.StatusText(status), http.StatusText(status), html.EscapeString(message))}
}

// bytes returns the answer as a server of HTTP/1.0 writes it, which closes after it.
func (a answer) bytes() []byte {
	kind := a.kind
	if kind == "" {
		kind = "text/html; charset=utf-8"
	}
	return fmt.Appendf(nil, "HTTP/1.0 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%sServer: Werkzeug\r\nConnection: close\r\n\r\n%s",
		a.status, http.StatusText(a.status), kind, len(a.body), a.header, a.body)
}

// handle serves one connection and reports whether it ended properly; if not, it
// must be reset.
func (s *Server) handle(ctx context.Context, pid int, c net.Conn) bool {
	if f := s.faults.onConnect(); f.Kind == ResetBeforeRead {
		_ = sleep(ctx, f.Delay) // killed or not, the end is the same
		return false
	}
	_ = c.SetReadDeadline(time.Now().Add(requestTimeout)) // fails only on a closed connection, and so does reading
	q, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return true // a check that sent nothing, or a client that went away
	}
	s.record(q, c)
	f := s.faults.onRequest(q.URL.Path)
	if sleep(ctx, f.Delay) != nil {
		return false
	}
	a, err := s.respond(ctx, pid, q, f)
	if err != nil {
		return false
	}
	return s.send(ctx, c, a, f)
}

// send writes an answer. The client may have gone; then Odoo does not care either.
func (s *Server) send(ctx context.Context, c net.Conn, a answer, f Fault) bool {
	if f.Kind != SlowAnswer {
		_ = c.SetWriteDeadline(time.Now().Add(answerTimeout))
		_, _ = c.Write(a.bytes())
		return true
	}
	for _, b := range a.bytes() {
		if sleep(ctx, f.Pace) != nil {
			return false
		}
		if _, err := c.Write([]byte{b}); err != nil {
			return true
		}
	}
	return true
}

func (s *Server) record(q *http.Request, c net.Conn) {
	query := q.URL.Query()
	r := Request{
		Time: time.Now(), Server: s.opts.Name, Path: q.URL.Path, Remote: c.RemoteAddr().String(), Host: q.Host, Header: q.Header,
	}
	if isRunjob(q.URL.Path) {
		r.DB, r.UUID = query.Get("db"), query.Get("job_uuid")
	}
	s.opts.Recorder.AddRequest(r)
}

// respond does what a request wants, or what the fault says instead.
func (s *Server) respond(ctx context.Context, pid int, q *http.Request, f Fault) (answer, error) {
	switch f.Kind {
	case ResetAfterRead:
		return answer{}, errKilled
	case Hang:
		return answer{}, errors.Join(errKilled, s.faults.awaitChange(ctx))
	case Answer:
		return errorPage(f.Status, "stub"), nil
	case Redirect:
		return answer{status: http.StatusFound, header: "Location: /web/login\r\n"}, nil
	case LoginPage:
		return answer{status: http.StatusOK, body: loginPage}, nil
	case Ignore:
		return answer{status: http.StatusOK}, nil
	}
	const cookie = "Set-Cookie: session_id=stub; HttpOnly; Path=/\r\n"
	switch q.URL.Path {
	case runjobPath, connectorPath:
		return s.runjob(ctx, pid, q, f)
	case "/web/health":
		return answer{status: http.StatusOK, kind: "application/json", body: `{"status": "pass"}`}, nil
	case PagePath:
		ms, _ := strconv.Atoi(q.URL.Query().Get("ms"))
		if err := sleep(ctx, time.Duration(ms)*time.Millisecond); err != nil {
			return answer{}, errKilled
		}
		return answer{status: http.StatusOK, body: "page"}, nil
	case "/web/login":
		if name := q.URL.Query().Get("db"); name != "" {
			return s.login(ctx, q, name), nil
		}
		return answer{status: http.StatusOK, header: cookie, body: loginPage}, nil
	case "/queue_job/session":
		return answer{status: http.StatusOK, header: cookie}, nil
	}
	return errorPage(http.StatusNotFound, "The requested URL was not found on the server."), nil
}

// PagePath is that of a page that takes as many milliseconds as its parameter ms says.
const PagePath = "/web/page"

// isRunjob reports whether a path is that of a request that runs a job.
func isRunjob(path string) bool { return path == runjobPath || path == connectorPath }

// runjob finds the database and executes the job.
func (s *Server) runjob(ctx context.Context, pid int, q *http.Request, f Fault) (answer, error) {
	query := q.URL.Query()
	name, uuid := query.Get("db"), query.Get("job_uuid")
	if name == "" {
		name = q.Header.Get(databaseHeader)
	}
	if s.opts.DBFilter != nil {
		name = q.Header.Get(databaseHeader)
		host, _, _ := strings.Cut(q.Host, ":")
		if name == "" || !s.opts.DBFilter(host, name) {
			return errorPage(http.StatusNotFound, "no database"), nil
		}
	}
	d, err := s.database(ctx, name)
	switch {
	case ctx.Err() != nil:
		return answer{}, errKilled
	case errors.Is(err, errNoAddon):
		return errorPage(http.StatusNotFound, err.Error()), nil
	case err != nil:
		return errorPage(http.StatusInternalServerError, err.Error()), nil
	}
	if d.connector != (q.URL.Path == connectorPath) || d.bound && s.sessionDatabase(q) != name {
		return errorPage(http.StatusNotFound, "The requested URL was not found on the server."), nil
	}
	x := &execution{server: s, db: d, pid: pid, uuid: uuid, fault: f}
	status, err := x.run(ctx)
	switch {
	case ctx.Err() != nil, errors.Is(err, errKilled):
		return answer{}, errKilled
	case err != nil:
		return errorPage(http.StatusInternalServerError, err.Error()), nil
	case status != http.StatusOK:
		return errorPage(status, "the job failed"), nil
	}
	return answer{status: http.StatusOK}, nil
}

const sessionCookie = "session_id"

// login binds the session to a database, as Odoo 8.0 and 9.0 do: the answer is a
// redirect to the same page with the session. There is no such page in 7.0.
func (s *Server) login(ctx context.Context, q *http.Request, name string) answer {
	d, err := s.database(ctx, name)
	switch {
	case err != nil:
		return answer{status: http.StatusSeeOther, header: "Location: /web/database/selector\r\n"}
	case d.connector && !d.bound:
		return errorPage(http.StatusNotFound, "The requested URL was not found on the server.")
	case s.sessionDatabase(q) == name:
		return answer{status: http.StatusOK, body: loginPage}
	}
	id := NewUUID()
	s.mu.Lock()
	s.bound[id] = name
	s.mu.Unlock()
	return answer{status: http.StatusFound, header: fmt.Sprintf(
		"Set-Cookie: %s=%s; HttpOnly; Path=/\r\nLocation: http://%s%s\r\n", sessionCookie, id, q.Host, q.URL.RequestURI())}
}

// sessionDatabase is the database that the request's session is bound to.
func (s *Server) sessionDatabase(q *http.Request) string {
	cookie, err := q.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bound[cookie.Value]
}

// ForgetSessions ends all sessions, as the loss of their directory does.
func (s *Server) ForgetSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.bound)
}
