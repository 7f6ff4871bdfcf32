package jobrunner

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// endpoint is one socket that accepts runjob requests.
type endpoint struct {
	network string
	address string
	// tls is nil for plain HTTP.
	tls *tls.Config
	// local is the address to connect from, nil for any.
	local net.Addr
}

// name returns the endpoint as users write it: "http://10.0.0.5:8069",
// "https://odoo.internal:443" or "unix//run/odoo.sock".
func (e endpoint) name() string {
	if e.network == "unix" {
		return "unix/" + e.address
	}
	return e.scheme() + "://" + e.address
}

func (e endpoint) scheme() string {
	if e.tls != nil {
		return "https"
	}
	return "http"
}

// upstream makes the engine's view of the endpoint, with a transport of its own.
func (e endpoint) upstream(hostHeader string) driver.Upstream {
	host := e.address
	if e.network == "unix" {
		host = "localhost"
	}
	return driver.Upstream{
		Name:       e.name(),
		Scheme:     e.scheme(),
		Host:       host,
		HostHeader: hostHeader,
		Transport:  newTransport(e),
	}
}

// parseUpstream reads the address of an explicit upstream: http://host[:port],
// https://host[:port], host:port or unix//path/to/socket. The ports of the URL
// schemes are what they always mean, 80 and 443; Odoo's own 8069 has to be named.
func parseUpstream(address string) (endpoint, error) {
	fail := func(reason string) (endpoint, error) {
		return endpoint{}, fmt.Errorf("upstream %q: %s; expected http://host[:port], https://host[:port], host:port or unix//path", address, reason)
	}
	if path, ok := strings.CutPrefix(address, "unix/"); ok {
		if !strings.HasPrefix(path, "/") {
			return fail("the socket's path is not absolute")
		}
		return endpoint{network: "unix", address: path}, nil
	}
	if strings.Contains(address, "@") {
		// What stands before it may be a password, so the address is not repeated.
		return endpoint{}, errors.New("upstream: the address must not contain a user or password; use basic_auth of the driver")
	}
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		host, port, err := net.SplitHostPort(address)
		if err != nil || port == "" {
			return fail("no scheme and no port")
		}
		scheme, rest = "http", net.JoinHostPort(host, port)
	}
	e := endpoint{network: "tcp"}
	defaultPort := "80"
	switch scheme {
	case "http":
	case "https":
		e.tls, defaultPort = &tls.Config{MinVersion: tls.VersionTLS12}, "443"
	default:
		return fail("unsupported scheme")
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		return fail("not a URL")
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fail("it must not have a path or query")
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || u.Hostname() == "" {
		return fail("host or port is missing or invalid")
	}
	e.address = net.JoinHostPort(u.Hostname(), port)
	return e, nil
}

// dialer turns the dial addresses of a reverse_proxy into endpoints.
type dialer struct {
	transport *reverseproxy.HTTPTransport
	tls       *tls.Config
	local     net.Addr
}

// newDialer checks that requests can be sent to the proxy's upstreams without
// the proxy. What would need the proxy's own machinery is refused.
func newDialer(transport http.RoundTripper) (*dialer, error) {
	t, ok := transport.(*reverseproxy.HTTPTransport)
	if !ok {
		return nil, fmt.Errorf("its transport %T is not supported", transport)
	}
	switch {
	case t.ProxyProtocol != "":
		return nil, errors.New("its transport uses proxy_protocol")
	case t.Resolver != nil:
		return nil, errors.New("its transport uses resolvers of its own")
	case slices.Contains(t.Versions, "h2c"):
		return nil, errors.New("its transport speaks HTTP/2 without TLS (h2c) only")
	case slices.Equal(t.Versions, []string{"3"}):
		return nil, errors.New("its transport speaks HTTP/3 only")
	case t.TLS != nil && strings.Contains(t.TLS.ServerName, "{"):
		return nil, errors.New("its tls_server_name depends on the request")
	}
	d := &dialer{transport: t}
	if t.TLS != nil {
		d.tls = t.Transport.TLSClientConfig
	}
	if t.LocalAddress != "" {
		local, err := localAddress(t.LocalAddress)
		if err != nil {
			return nil, fmt.Errorf("its local_address: %w", err)
		}
		d.local = local
	}
	return d, nil
}

// endpoint reads one dial address, placeholders replaced.
func (d *dialer) endpoint(dial string) (endpoint, error) {
	addr, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return endpoint{}, err
	}
	if addr.PortRangeSize() != 1 {
		return endpoint{}, errors.New("it must be exactly one socket")
	}
	e := endpoint{network: addr.Network, address: addr.JoinHostPort(0), local: d.local}
	port := ""
	switch addr.Network {
	case "tcp", "tcp4", "tcp6":
		port = strconv.FormatUint(uint64(addr.StartPort), 10)
	case "unix":
		e.local = nil
	default:
		return endpoint{}, fmt.Errorf("network %s is not supported", addr.Network)
	}
	if d.tls != nil && !slices.Contains(d.transport.TLS.ExceptPorts, port) {
		e.tls = d.tls
	}
	return e, nil
}

// forwardProxy reports whether the proxy reaches the endpoint through another
// proxy that its configuration names. Proxies from the environment do not count:
// they are ignored here (caddy.md 7), and the configuration's module is not
// visible any more, so the two answers are compared.
func (d *dialer) forwardProxy(e endpoint, prepared *http.Request) bool {
	if d.transport.Transport == nil || d.transport.Transport.Proxy == nil || e.network == "unix" {
		return false
	}
	r := prepared.Clone(prepared.Context())
	r.URL.Scheme, r.URL.Host = e.scheme(), e.address
	configured, err := d.transport.Transport.Proxy(r)
	if err != nil || configured == nil {
		return err != nil
	}
	environment, err := http.ProxyFromEnvironment(r)
	return err != nil || environment == nil || environment.String() != configured.String()
}

// localAddress reads local_address of a proxy's transport, as Caddy does.
func localAddress(s string) (net.Addr, error) {
	addr, err := caddy.ParseNetworkAddressWithDefaults(s, "tcp", 0)
	if err != nil {
		return nil, err
	}
	switch addr.Network {
	case "tcp", "tcp4", "tcp6":
		return net.ResolveTCPAddr(addr.Network, addr.JoinHostPort(0))
	}
	return nil, fmt.Errorf("network %s is not supported", addr.Network)
}
