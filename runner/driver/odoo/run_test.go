package odoo_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
)

var task = driver.Task{Key: channels.Key{DB: "prod/ä&x", UUID: "a b#1"}}

// web is an upstream that answers by a handler.
func web(t *testing.T, handler http.HandlerFunc) driver.Upstream {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return upstream(s.Listener.Addr().String())
}

func TestRequest(t *testing.T) {
	seen := make(chan *http.Request, 1)
	up := web(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r })
	up.HostHeader = "www.example.com"

	res := odoo.New(odoo.Options{}).Run(t.Context(), up, task)
	require.Equal(t, driver.Result{Outcome: driver.Answered, Status: 200}, res)
	r := <-seen
	require.Equal(t, "/queue_job/runjob", r.URL.Path)
	require.Equal(t, "prod/ä&x", r.URL.Query().Get("db"))
	require.Equal(t, "a b#1", r.URL.Query().Get("job_uuid"))
	require.Equal(t, "prod/ä&x", r.Header.Get("X-Odoo-Database"))
	require.Equal(t, "www.example.com", r.Host)
	require.Equal(t, odoo.UserAgentDefault, r.UserAgent())
	require.Empty(t, r.Header.Get("Authorization"))

	d := odoo.New(odoo.Options{
		HostTemplate: "{database}.example.com", BasicAuthUser: "u", BasicAuthPassword: "p", UserAgent: "me",
	})
	t2 := driver.Task{Key: channels.Key{DB: "prod", UUID: "x"}}
	require.Equal(t, driver.Answered, d.Run(t.Context(), up, t2).Outcome)
	r = <-seen
	require.Equal(t, "prod.example.com", r.Host)
	user, password, ok := r.BasicAuth()
	require.True(t, ok)
	require.Equal(t, "u:p", user+":"+password)
	require.Equal(t, "me", r.UserAgent())

	require.NoError(t, d.Check(t.Context(), up))
	r = <-seen
	require.Equal(t, "/web/health", r.URL.Path)
	require.Equal(t, "www.example.com", r.Host)
	require.Empty(t, r.Header.Get("X-Odoo-Database"))
}

// A request carries the ID of its attempt if that is one of a trace, and the context of a trace that there
// is already.
func TestIDsOfARequest(t *testing.T) {
	seen := make(chan http.Header, 1)
	up := web(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	const id = "0af7651916cd43dd8448eb211c80319c"
	for name, c := range map[string]struct {
		id          string
		trace       map[string]string
		sent, trail string
	}{
		"none":       {"", nil, "", ""},
		"too short":  {id[1:], nil, "", ""},
		"not hex":    {"x" + id[1:], nil, "", ""},
		"not traced": {id, nil, id, "00-" + id + "-8448eb211c80319c-01"},
		"traced":     {id, map[string]string{"Traceparent": "00-ab", "Baggage": "a=b"}, id, "00-ab"},
		"by others":  {id, map[string]string{"B3": "0"}, id, ""},
	} {
		res := odoo.New(odoo.Options{}).Run(t.Context(), up, driver.Task{Key: task.Key, ID: c.id, Trace: c.trace})
		require.Equal(t, driver.Answered, res.Outcome, name)
		h := <-seen
		require.Equal(t, c.sent, h.Get("X-Request-ID"), name)
		require.Equal(t, c.trail, h.Get("Traceparent"), name)
		for header, value := range c.trace {
			require.Equal(t, value, h.Get(header), name)
		}
	}
}

const page = "<!DOCTYPE html>\n<html><head><title>Odoo</title></head></html>"

func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		want   driver.Outcome
		usable bool // for Check
	}{
		{200, "", driver.Answered, true},
		{204, "", driver.Answered, true},
		{200, "OK", driver.Answered, true},
		{200, page, driver.Refused, true},
		{200, "  \n" + page, driver.Refused, true},
		{299, page, driver.Refused, true},
		{300, "", driver.Refused, true},
		{302, "", driver.Refused, true},
		{303, page, driver.Refused, true},
		{400, page, driver.Answered, true},
		{399, "", driver.Refused, true},
		{400, "", driver.Answered, true},
		{401, "", driver.Refused, true},
		{403, page, driver.Answered, true},
		{407, "", driver.Refused, true},
		{404, page, driver.Refused, true},
		{408, page, driver.Broken, true},
		{520, "error code: 520", driver.Broken, true},
		{524, page, driver.Broken, true},
		{519, page, driver.Answered, true},
		{527, "", driver.Broken, true},
		{528, page, driver.Answered, true},
		{404, `{"error": "no"}`, driver.Answered, true},
		{422, page, driver.Answered, true},
		{429, "", driver.Unavailable, true},
		{500, page, driver.Answered, true},
		{502, page, driver.Unavailable, false},
		{503, "", driver.Unavailable, false},
		{504, page, driver.Unavailable, false},
	} {
		t.Run(fmt.Sprintf("%d %.20q", test.status, test.body), func(t *testing.T) {
			var requests atomic.Int32
			up := web(t, func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				w.Header().Set("Location", "/web/login")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			res := odoo.New(odoo.Options{}).Run(t.Context(), up, task)
			require.Equal(t, test.want, res.Outcome)
			require.Equal(t, test.status, res.Status)
			require.Equal(t, test.want == driver.Answered, res.Err == nil)
			require.Equal(t, int32(1), requests.Load())
			err := odoo.New(odoo.Options{}).Check(t.Context(), up)
			require.Equal(t, test.usable, err == nil, err)
		})
	}
}

// raw is an upstream whose connections are handled by a function, and the number of those.
func raw(t *testing.T, handle func(net.Conn)) (driver.Upstream, *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var n atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			handle(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return upstream(l.Addr().String()), &n
}

func readRequest(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)) }

func TestBrokenExchanges(t *testing.T) {
	for name, test := range map[string]struct {
		handle func(net.Conn)
		status int
	}{
		"closed at once":       {func(net.Conn) {}, 0},
		"closed after reading": {readRequest, 0},
		"no HTTP":              {func(c net.Conn) { readRequest(c); _, _ = io.WriteString(c, "hello\r\n\r\n") }, 0},
		"head cut off":         {func(c net.Conn) { readRequest(c); _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nCont") }, 0},
		"status without sense": {func(c net.Conn) { readRequest(c); _, _ = io.WriteString(c, "HTTP/1.1 000 No\r\n\r\n") }, 0},
		"switching protocols":  {func(c net.Conn) { readRequest(c); _, _ = io.WriteString(c, "HTTP/1.1 101 Sw\r\n\r\n") }, 101},
		"body shorter than said": {func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
		}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			up, n := raw(t, test.handle)
			res := odoo.New(odoo.Options{}).Run(t.Context(), up, task)
			require.Equal(t, driver.Broken, res.Outcome, res.Err)
			require.Equal(t, test.status, res.Status)
			require.Error(t, res.Err)
			require.NotContains(t, res.Err.Error(), "did not arrive within")
			require.Equal(t, int32(1), n.Load(), "sent once")
		})
	}
	t.Run("abandoned", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		up, _ := raw(t, func(c net.Conn) {
			readRequest(c)
			cancel()
			_, _ = c.Read(make([]byte, 1)) // until the client is gone
		})
		res := odoo.New(odoo.Options{}).Run(ctx, up, task)
		require.Equal(t, driver.Broken, res.Outcome)
		require.ErrorIs(t, res.Err, context.Canceled)
	})
}

func TestEndlessBody(t *testing.T) {
	up, _ := raw(t, func(c net.Conn) {
		readRequest(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		for {
			if _, err := io.WriteString(c, strings.Repeat("x", 1000)); err != nil {
				return
			}
		}
	})
	require.Equal(t, driver.Answered, odoo.New(odoo.Options{}).Run(t.Context(), up, task).Outcome)
}

// A job may take hours, the body of its answer may not.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			readRequest(server)
			<-time.After(5 * time.Hour) // the job
			_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
			_, _ = server.Read(make([]byte, 1)) // until the client is gone
		}()
		up := driver.Upstream{Scheme: "http", Host: "x", Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(context.Context, string, string) (net.Conn, error) { return client, nil },
		}}
		begin := time.Now()
		res := odoo.New(odoo.Options{}).Run(t.Context(), up, task)
		require.Equal(t, driver.Broken, res.Outcome)
		require.Equal(t, 200, res.Status)
		require.Equal(t, 5*time.Hour+odoo.BodyTimeout, time.Since(begin))
		require.ErrorContains(t, res.Err, "did not arrive within 10s")
	})
}

// roundTripper is a transport made of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNotSent(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	notTLS, _ := raw(t, func(c net.Conn) { _, _ = io.WriteString(c, "this is no TLS server\n") })
	notTLS.Scheme = "https"
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = nil
	untrusted.StartTLS()
	defer untrusted.Close()
	wrong := upstream(untrusted.Listener.Addr().String())
	wrong.Scheme = "https"
	wrong.Transport.(*http.Transport).TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	busy := upstream("ignored")
	busy.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no dice")
	}}
	foreign := driver.Upstream{Scheme: "http", Host: "x", Transport: roundTripper(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: errors.New("no")}
	})}

	for name, up := range map[string]driver.Upstream{
		"refused":            upstream(closed.Addr().String()),
		"no TLS":             notTLS,
		"untrusted":          wrong,
		"dialer fails":       busy,
		"foreign dial error": foreign,
		"no transport":       {Scheme: "http", Host: "x"},
		"bad host":           {Scheme: "http", Host: "a b\n", Transport: http.DefaultTransport},
	} {
		t.Run(name, func(t *testing.T) {
			res := odoo.New(odoo.Options{}).Run(t.Context(), up, task)
			require.Equal(t, driver.NotSent, res.Outcome, res.Err)
			require.Error(t, res.Err)
			require.Zero(t, res.Status)
			require.Error(t, odoo.New(odoo.Options{}).Check(t.Context(), up))
		})
	}
	t.Run("unspeakable database", func(t *testing.T) {
		evil := driver.Task{Key: channels.Key{DB: "a\r\nX-Evil: 1", UUID: "x"}}
		res := odoo.New(odoo.Options{}).Run(t.Context(), upstream("127.0.0.1:1"), evil)
		require.Equal(t, driver.Refused, res.Outcome, "that is no fault of the server")
		require.ErrorContains(t, res.Err, "header")
		evil.DriverState = "connector"
		res = odoo.New(odoo.Options{}).Run(t.Context(), upstream("127.0.0.1:1"), evil)
		require.Equal(t, driver.Refused, res.Outcome)
		named := odoo.New(odoo.Options{HostTemplate: "{database}.example.com"})
		res = named.Run(t.Context(), upstream("127.0.0.1:1"), driver.Task{Key: channels.Key{DB: "a/b\"c", UUID: "x"}})
		require.Equal(t, driver.Refused, res.Outcome)
	})
	t.Run("late", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.Equal(t, driver.NotSent, odoo.New(odoo.Options{}).Run(ctx, upstream("127.0.0.1:1"), task).Outcome)
	})
}

// What a transport does not tell must not be taken for "nothing was sent".
func TestForeignTransports(t *testing.T) {
	for name, rt := range map[string]roundTripper{
		"error": func(*http.Request) (*http.Response, error) { return nil, errors.New("something") },
		"panic": func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) },
		"panicking body": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(panicReader{})}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := driver.Upstream{Scheme: "http", Host: "x", Transport: rt}
			require.Equal(t, driver.Broken, odoo.New(odoo.Options{}).Run(t.Context(), up, task).Outcome)
			require.Error(t, odoo.New(odoo.Options{}).Check(t.Context(), up))
		})
	}
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("read") }

func TestCheckOfASilentServer(t *testing.T) {
	// Enough to connect, however busy the machine is.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := odoo.New(odoo.Options{}).Check(ctx, upstream(silent(t)))
	require.ErrorIs(t, err, driver.ErrNoAnswer)
}

// Nothing that an upstream sends may confuse more than the result.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 404 Not Found\r\nContent-Type: text/html\r\n\r\n<html>"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				readRequest(server)
				_, _ = server.Write(answer)
			}()
			return client, nil
		}}
		up := driver.Upstream{Scheme: "http", Host: "x", Transport: transport}
		res := odoo.New(odoo.Options{}).Run(t.Context(), up, task)
		require.NotEqual(t, driver.NotSent, res.Outcome, "it was sent")
		require.Equal(t, res.Outcome == driver.Answered, res.Err == nil)
		if res.Outcome == driver.Answered || res.Outcome == driver.Refused || res.Outcome == driver.Unavailable {
			require.NotZero(t, res.Status)
		}
	})
}

// TestRetryAfter: an answer that says that the server cannot run jobs may say for how long.
func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"":                      0,
		"30":                    30 * time.Second,
		"5":                     5 * time.Second,
		"-5":                    0,
		"1.5":                   0,
		"soon":                  0,
		"999999999999999999999": 0,
		time.Now().Add(time.Minute).UTC().Format(http.TimeFormat):  time.Minute,
		time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat): 0,
	} {
		for status, asks := range map[int]bool{http.StatusTooManyRequests: true, http.StatusServiceUnavailable: true, http.StatusInternalServerError: false} {
			up := web(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", text)
				w.WriteHeader(status)
			})
			want := want
			if !asks {
				want = 0
			}
			res := odoo.New(odoo.Options{}).Run(t.Context(), up, task)
			require.InDelta(t, want, res.RetryAfter, float64(2*time.Second), "%q, status %d", text, status)
		}
	}
}
