package odoo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const attemptID = "0af7651916cd43dd8448eb211c80319c"

// byNetHTTP is the request that runs a task as net/http sends it.
func byNetHTTP(d *Driver, up driver.Upstream, t driver.Task) (string, error) {
	req, err := d.request(context.Background(), up, call{
		task: t, path: runPath(t), query: "db=" + url.QueryEscape(t.DB) + "&job_uuid=" + url.QueryEscape(t.UUID),
	})
	if err != nil {
		return "", err
	}
	setIDs(req.Header, t.ID, t.Trace)
	var b bytes.Buffer
	err = req.Write(&b)
	return b.String(), err
}

// FuzzAppendRequest compares with net/http: what is written here is what net/http would write.
func FuzzAppendRequest(f *testing.F) {
	for _, host := range []string{"127.0.0.1:8069", "[::1]:80", "WWW.example.com", "", "[fe80::1%25lo]:80", "bücher.example", "a b", "a/b"} {
		f.Add("prod", "0d5b5f4a-8f4c-4d0c-9a3f-5e8f5f0f5a3c", attemptID, host, "me", "", "", false)
		f.Add("prod/ä&x", "a b#1", "x", host, "me/1.0 (x)", "u", "p:ä", true)
	}
	for _, odd := range []string{" x", "x ", "\tx", "a\r\nX: y", "", "ü", "\x7f"} {
		f.Add(odd, odd, odd, "odoo", odd, odd, odd, false)
		f.Add("prod", "x", attemptID, odd, "me", odd, "", false)
		f.Add("prod", "x", attemptID, "{database}", "me", odd, "", false)
	}
	f.Fuzz(func(t *testing.T, db, uuid, id, host, agent, user, password string, old bool) {
		o := Options{UserAgent: agent, BasicAuthUser: user, BasicAuthPassword: password}
		up := driver.Upstream{Scheme: "http", Host: "127.0.0.1:8069", HostHeader: host}
		if strings.Contains(host, "{") {
			o.HostTemplate = host
		}
		task := driver.Task{Key: channels.Key{DB: db, UUID: uuid}, ID: id}
		if old {
			task.DriverState = stateConnector
		}
		d := New(o)
		got, ok := d.appendRequest(nil, up, task)
		if !ok {
			return
		}
		want, err := byNetHTTP(d, up, task)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	})
}

// The usual requests are written here, and no others.
func TestWhichRequestsAreWritten(t *testing.T) {
	t.Parallel()
	up := driver.Upstream{Scheme: "http", Host: "127.0.0.1:8069"}
	task := driver.Task{Key: channels.Key{DB: "prod", UUID: "x"}, ID: attemptID}
	for name, c := range map[string]struct {
		change  func(*Options, *driver.Upstream, *driver.Task)
		written bool
	}{
		"usual":          {func(*Options, *driver.Upstream, *driver.Task) {}, true},
		"no ID":          {func(_ *Options, _ *driver.Upstream, a *driver.Task) { a.ID = "" }, true},
		"a site's host":  {func(_ *Options, up *driver.Upstream, _ *driver.Task) { up.HostHeader = "www.example.com" }, true},
		"a host of ours": {func(o *Options, _ *driver.Upstream, _ *driver.Task) { o.HostTemplate = "{database}.example.com" }, true},
		"a password":     {func(o *Options, _ *driver.Upstream, _ *driver.Task) { o.BasicAuthUser, o.BasicAuthPassword = "u", "p" }, true},
		"a trace":        {func(_ *Options, _ *driver.Upstream, a *driver.Task) { a.Trace = map[string]string{} }, false},
		"TLS":            {func(_ *Options, up *driver.Upstream, _ *driver.Task) { up.Scheme = "https" }, false},
		"an odd host":    {func(_ *Options, up *driver.Upstream, _ *driver.Task) { up.HostHeader = "bücher.example" }, false},
		"no host":        {func(_ *Options, up *driver.Upstream, _ *driver.Task) { up.Host = "" }, false},
		"an odd name":    {func(_ *Options, _ *driver.Upstream, a *driver.Task) { a.DB = "prod\r\nX-Evil: 1" }, false},
		"a padded name":  {func(_ *Options, _ *driver.Upstream, a *driver.Task) { a.DB = " prod" }, false},
		"no name":        {func(_ *Options, _ *driver.Upstream, a *driver.Task) { a.DB = "" }, false},
		"an odd agent":   {func(o *Options, _ *driver.Upstream, _ *driver.Task) { o.UserAgent = "a\nb" }, false},
	} {
		o, up, task := Options{}, up, task
		c.change(&o, &up, &task)
		d := New(o)
		got, ok := d.appendRequest(nil, up, task)
		require.Equal(t, c.written, ok, name)
		if ok {
			want, err := byNetHTTP(d, up, task)
			require.NoError(t, err)
			require.Equal(t, want, string(got), name)
		}
	}
}

// sender is one made of a function.
type sender func(ctx context.Context, text []byte) (*http.Response, bool, error)

func (s sender) Send(ctx context.Context, text []byte) (*http.Response, bool, error) {
	return s(ctx, text)
}

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader(body))}
}

// What a sender says means the same as what a transport says.
func TestResultsOfASender(t *testing.T) {
	t.Parallel()
	task := driver.Task{Key: channels.Key{DB: "prod", UUID: "x"}, ID: attemptID}
	for name, c := range map[string]struct {
		send    sender
		outcome driver.Outcome
		status  int
	}{
		"an empty answer": {func(context.Context, []byte) (*http.Response, bool, error) { return answer(200, ""), true, nil }, driver.Answered, 200},
		"a page": {func(context.Context, []byte) (*http.Response, bool, error) {
			return answer(200, "<!DOCTYPE html>"), true, nil
		}, driver.Refused, 200},
		"busy": {func(context.Context, []byte) (*http.Response, bool, error) { return answer(503, ""), true, nil }, driver.Unavailable, 503},
		"no connection": {func(context.Context, []byte) (*http.Response, bool, error) {
			return nil, false, &net.OpError{Op: "dial", Err: errors.New("no")}
		}, driver.NotSent, 0},
		"broken":    {func(context.Context, []byte) (*http.Response, bool, error) { return nil, true, io.ErrUnexpectedEOF }, driver.Broken, 0},
		"panic":     {func(context.Context, []byte) (*http.Response, bool, error) { panic("sender") }, driver.Broken, 0},
		"no answer": {func(context.Context, []byte) (*http.Response, bool, error) { return answer(101, ""), true, nil }, driver.Broken, 101},
	} {
		up := driver.Upstream{Scheme: "http", Host: "odoo", Transport: http.DefaultTransport, Sender: c.send}
		res := New(Options{}).Run(t.Context(), up, task)
		require.Equal(t, c.outcome, res.Outcome, name)
		require.Equal(t, c.status, res.Status, name)
		require.Equal(t, c.outcome == driver.Unavailable, res.RetryAfter > 0, name)
	}
	never := sender(func(context.Context, []byte) (*http.Response, bool, error) {
		t.Error("sent")
		return nil, true, io.EOF
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	up := driver.Upstream{Scheme: "http", Host: "odoo", Transport: http.DefaultTransport, Sender: never}
	require.Equal(t, driver.NotSent, New(Options{}).Run(ctx, up, task).Outcome)
}

// A session's cookies go with net/http.
func TestCookiesAreNotWritten(t *testing.T) {
	t.Parallel()
	d := New(Options{})
	d.sessions.put("odoo", "prod", []*http.Cookie{{Name: "session_id", Value: "s"}})
	var cookie string
	up := driver.Upstream{
		Name: "odoo", Scheme: "http", Host: "odoo",
		Transport: transport(func(r *http.Request) (*http.Response, error) {
			cookie = r.Header.Get("Cookie")
			return answer(200, ""), nil
		}),
		Sender: sender(func(context.Context, []byte) (*http.Response, bool, error) { panic("sender") }),
	}
	task := driver.Task{Key: channels.Key{DB: "prod", UUID: "x"}, DriverState: stateSession}
	require.Equal(t, driver.Answered, d.Run(t.Context(), up, task).Outcome)
	require.Equal(t, "session_id=s", cookie)
}

// A session is begun anew after what may have come of it, and after nothing else.
func TestWhichAnswersEndASession(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state  string
		status int
		err    error
		kept   bool
	}{
		"well":           {stateSession, 200, nil, true},
		"just no error":  {stateSession, 399, nil, true},
		"an error":       {stateSession, 400, nil, false},
		"no answer":      {stateConnector, 0, io.ErrUnexpectedEOF, false},
		"has no session": {"", 500, nil, true},
	} {
		d := New(Options{})
		d.sessions.put("odoo", "prod", nil)
		up := driver.Upstream{
			Name: "odoo", Scheme: "http", Host: "odoo",
			Transport: transport(func(*http.Request) (*http.Response, error) { return answer(c.status, ""), c.err }),
		}
		res := d.Run(t.Context(), up, driver.Task{Key: channels.Key{DB: "prod", UUID: "x"}, DriverState: c.state})
		require.Equal(t, c.status, res.Status, name)
		_, kept := d.sessions.get("odoo", "prod")
		require.Equal(t, c.kept, kept, name)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A request belongs to its sender until the exchange is over, whatever others do meanwhile.
func TestWrittenRequestsAreApart(t *testing.T) {
	t.Parallel()
	d := New(Options{})
	var first string
	inner := sender(func(context.Context, []byte) (*http.Response, bool, error) { return answer(200, ""), true, nil })
	outer := sender(func(ctx context.Context, text []byte) (*http.Response, bool, error) {
		first = string(text)
		for range 100 { // of which a buffer that is free would serve one
			res := d.Run(ctx, driver.Upstream{Scheme: "http", Host: "odoo", Transport: http.DefaultTransport, Sender: inner},
				driver.Task{Key: channels.Key{DB: "other", UUID: "y"}, ID: attemptID})
			if res.Outcome != driver.Answered {
				t.Error(res.Err)
			}
		}
		if string(text) != first {
			t.Errorf("the request has become %q", text)
		}
		return answer(200, ""), true, nil
	})
	res := d.Run(t.Context(), driver.Upstream{Scheme: "http", Host: "odoo", Transport: http.DefaultTransport, Sender: outer},
		driver.Task{Key: channels.Key{DB: "prod", UUID: "x"}, ID: attemptID})
	require.Equal(t, driver.Answered, res.Outcome, res.Err)
	require.Contains(t, first, "db=prod&job_uuid=x ")
}

// What is plain is so up to its limits: letters, digits and some signs of hosts, and what ASCII can print.
func TestPlainSigns(t *testing.T) {
	t.Parallel()
	const signs = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]"
	for c := range 256 {
		sign := string([]byte{byte(c)})
		require.Equal(t, strings.Contains(signs, sign), plainHost(sign), "%q", sign)
		require.Equal(t, c >= 32 && c <= 126, plainValue("a"+sign+"a"), "%q", sign)
	}
}
