package site

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

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/oneshot"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// upstream describes the server at an endpoint to the engine. Nothing of the proxy's own transport is
// in its transport, so neither read_timeout nor keep-alive applies.
func upstream(e oneshot.Endpoint, hostHeader string) driver.Upstream {
	host := e.Address
	if e.Network == "unix" {
		host = "localhost"
	}
	up := driver.Upstream{
		Name:       e.Name(),
		Scheme:     e.Scheme(),
		Host:       host,
		HostHeader: hostHeader,
		Transport:  oneshot.New(e),
	}
	if s := oneshot.NewSender(e); s != nil {
		up.Sender = s
	}
	return up
}

// CheckUpstream reports what is wrong with the address of a server.
func CheckUpstream(address string) error {
	_, err := parseUpstream(address)
	return err
}

// parseUpstream reads the address of an explicit upstream: http://host[:port],
// https://host[:port], host:port or unix//path/to/socket. The ports of the URL
// schemes are what they always mean, 80 and 443; Odoo's own 8069 has to be named.
func parseUpstream(address string) (oneshot.Endpoint, error) {
	fail := func(reason string) (oneshot.Endpoint, error) {
		return oneshot.Endpoint{}, fmt.Errorf("upstream %q: %s; expected http://host[:port], https://host[:port], host:port or unix//path", address, reason)
	}
	if path, ok := strings.CutPrefix(address, "unix/"); ok {
		if !strings.HasPrefix(path, "/") {
			return fail("the socket's path is not absolute")
		}
		return oneshot.Endpoint{Network: "unix", Address: path}, nil
	}
	if strings.Contains(address, "@") {
		// What is before it may be a password, so the address is not repeated.
		return oneshot.Endpoint{}, errors.New("upstream: the address must not contain a user or password; use basic_auth of the driver")
	}
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		host, port, err := net.SplitHostPort(address)
		if err != nil || port == "" {
			return fail("no scheme and no port")
		}
		scheme, rest = "http", net.JoinHostPort(host, port)
	}
	e := oneshot.Endpoint{Network: "tcp"}
	defaultPort := "80"
	switch scheme {
	case "http":
	case "https":
		e.TLS, defaultPort = &tls.Config{MinVersion: tls.VersionTLS12}, "443"
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
	e.Address = net.JoinHostPort(u.Hostname(), port)
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
		return nil, errors.New("its transport uses its own resolvers")
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
func (d *dialer) endpoint(dial string) (oneshot.Endpoint, error) {
	addr, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return oneshot.Endpoint{}, err
	}
	if addr.PortRangeSize() != 1 {
		return oneshot.Endpoint{}, errors.New("it must be exactly one socket")
	}
	e := oneshot.Endpoint{Network: addr.Network, Address: addr.JoinHostPort(0), Local: d.local}
	port := ""
	switch addr.Network {
	case "tcp", "tcp4", "tcp6":
		port = strconv.FormatUint(uint64(addr.StartPort), 10)
	case "unix":
		e.Local = nil
	default:
		return oneshot.Endpoint{}, fmt.Errorf("network %s is not supported", addr.Network)
	}
	if d.tls != nil && !slices.Contains(d.transport.TLS.ExceptPorts, port) {
		e.TLS = d.tls
	}
	return e, nil
}

// forwardProxy reports whether the proxy reaches the endpoint through another
// proxy that its configuration names. Proxies from the environment do not count,
// because jobs are sent past them. Which of the two it is cannot be seen once Caddy
// has provisioned the transport, so the two answers are compared.
func (d *dialer) forwardProxy(e oneshot.Endpoint, prepared *http.Request) bool {
	if d.transport.Transport == nil || d.transport.Transport.Proxy == nil || e.Network == "unix" {
		return false
	}
	r := prepared.Clone(prepared.Context())
	r.URL.Scheme, r.URL.Host = e.Scheme(), e.Address
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
