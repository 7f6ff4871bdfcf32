package driver

import (
	"context"
	"net/http"
)

// Upstream is a server that runs tasks.
type Upstream struct {
	// Name identifies the upstream in logs, metrics and counters, for example
	// "http://10.0.0.5:8069" or "unix//run/odoo.sock". Two upstreams of the same name share their
	// counters and health, also over reloads.
	Name string

	// Pool names the pool that the server belongs to, so that it runs only tasks for that one. Default:
	// empty, it belongs to none.
	Pool string

	// Scheme is "http" or "https".
	Scheme string

	// Host is the authority put into the request's URL; with a unix socket any name will do. The
	// Host header is HostHeader when that is set.
	Host string

	// HostHeader is the Host header that the site's visitors would send. A driver may have its own
	// rule that goes before it.
	HostHeader string

	// Transport sends the request: once, without reuse of connections.
	Transport http.RoundTripper

	// Sender sends to the same server at less cost; nil means that this is not possible.
	Sender Sender

	// Available reports whether the proxy believes that the server is up; nil means that it has
	// none.
	Available func() bool

	// Load is the number of requests that the proxy itself has under way there; nil means that it
	// is not known.
	Load func() int
}

// Sender sends requests that a driver has written itself.
type Sender interface {
	// Send sends a GET request for HTTP/1.1, of which text is all, once, on a new connection that is
	// closed after the answer. text is not kept beyond the call. connected is false if there was no
	// connection, so that certainly not a byte was delivered. The body must be closed; the answer may
	// be shared, and must not be changed.
	Send(ctx context.Context, text []byte) (res *http.Response, connected bool, err error)
}
