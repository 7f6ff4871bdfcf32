package site

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
	"golang.org/x/net/idna"
)

// runjobPath is where Odoo runs a job (docs/contract.md 1.4). Matchers are asked
// about this path, so that the proxy for /websocket is not taken for Odoo's.
const runjobPath = "/queue_job/runjob"

// maxDepth limits how deep routes may nest: named routes can invoke themselves.
const maxDepth = 64

// candidate is a reverse_proxy that a runjob request would reach.
type candidate struct {
	proxy *reverseproxy.Handler
	// url is the request that reaches it.
	url string
	// hostHeader is what the site's visitors send; empty if it is not known,
	// as for a wildcard.
	hostHeader string
	// aliases are the other hosts of the same pool.
	aliases []string
	// byHost is set when a host matcher led here, not a catch-all.
	byHost bool
	// prepare makes that request, ready for Caddy's modules.
	prepare func(context.Context) *http.Request
}

// siteAddress is the site option, taken apart.
type siteAddress struct {
	scheme string // "" for any
	host   string // "" for the site without a host
	port   string // "" for any
}

// CheckAddress reports what is wrong with the address of a site.
func CheckAddress(address string) error {
	_, err := parseSite(address)
	return err
}

// parseSite reads the address of a site: [scheme://]host[:port], or :port.
func parseSite(s string) (siteAddress, error) {
	fail := func(reason string) (siteAddress, error) {
		return siteAddress{}, fmt.Errorf("site %q: %s; expected [http://|https://]host[:port]", s, reason)
	}
	var a siteAddress
	rest := s
	if scheme, after, ok := strings.Cut(s, "://"); ok {
		if scheme != "http" && scheme != "https" {
			return fail("unsupported scheme")
		}
		a.scheme, rest = scheme, after
	}
	if strings.ContainsAny(rest, "/?#@ ") {
		return fail("it must be a host, without path or user")
	}
	a.host = rest
	if host, port, err := net.SplitHostPort(rest); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fail("invalid port")
		}
		a.host, a.port = host, port
	}
	a.host = strings.Trim(a.host, "[]")
	// As Caddy does with the hosts of a site.
	ascii, err := idna.ToASCII(a.host)
	if err != nil {
		return fail(err.Error())
	}
	a.host = strings.ToLower(ascii)
	if a.host == "" && a.port == "" {
		return fail("no host")
	}
	return a, nil
}

// listens reports whether a server may serve the address.
func (a siteAddress) listens(app *caddyhttp.App, srv *caddyhttp.Server) bool {
	port := a.port
	switch {
	case port != "" || a.scheme == "":
	case a.scheme == "https":
		port = strconv.Itoa(cmp.Or(app.HTTPSPort, caddyhttp.DefaultHTTPSPort))
	default:
		port = strconv.Itoa(cmp.Or(app.HTTPPort, caddyhttp.DefaultHTTPPort))
	}
	if port == "" {
		return true
	}
	n, _ := strconv.ParseUint(port, 10, 16)
	return slices.ContainsFunc(srv.Listen, func(listen string) bool {
		addr, err := caddy.ParseNetworkAddress(listen)
		return err == nil && addr.StartPort <= uint(n) && uint(n) <= addr.EndPort
	})
}

// authority returns the Host header of a visitor of host.
func (a siteAddress) authority(host string) string {
	if a.port == "" || a.port == "80" || a.port == "443" {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, a.port)
}

// findProxy walks a provisioned http app, reading only, and returns the one
// reverse_proxy that serves runjob for the site. Without a site every host is
// tried. More or fewer than one pool is an error that lists them.
func findProxy(app *caddyhttp.App, site string) (*candidate, error) {
	var address siteAddress
	if site != "" {
		var err error
		if address, err = parseSite(site); err != nil {
			return nil, err
		}
	}
	var found []*candidate
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		srv := app.Servers[name]
		if srv == nil || !address.listens(app, srv) {
			continue
		}
		hosts := []string{address.host}
		if site == "" {
			hosts = append(serverHosts(srv), "")
		}
		for _, host := range hosts {
			if c := probe(srv, address, host); c != nil {
				found = append(found, c)
			}
		}
	}
	return choose(found, site)
}

// choose picks the one pool among the candidates.
func choose(found []*candidate, site string) (*candidate, error) {
	// A site of that name goes before one that takes every name.
	if site != "" && slices.ContainsFunc(found, func(c *candidate) bool { return c.byHost }) {
		found = slices.DeleteFunc(found, func(c *candidate) bool { return !c.byHost })
	}
	var best *candidate
	pools := make(map[string]*candidate)
	for _, c := range found {
		key := poolKey(c.proxy)
		if pools[key] == nil {
			pools[key] = c
		}
		if best == nil || c.hostHeader != "" && (best.hostHeader == "" || c.hostHeader < best.hostHeader) {
			best = c
		}
	}
	target := "any site"
	if site != "" {
		target = "the site " + site
	}
	switch len(pools) {
	case 0:
		return nil, fmt.Errorf("no reverse_proxy of %s handles %s; set site to the address of the site that proxies to Odoo, or name the Odoo servers with upstream", target, runjobPath)
	case 1:
		for _, c := range found {
			if c.hostHeader != "" && c.hostHeader != best.hostHeader {
				best.aliases = append(best.aliases, c.hostHeader)
			}
		}
		return best, nil
	}
	var list []string
	for _, c := range pools {
		list = append(list, c.url+" -> "+poolName(c.proxy))
	}
	slices.Sort(list)
	return nil, fmt.Errorf("%d reverse_proxy handlers of %s match %s: %s; set site or upstream", len(pools), target, runjobPath, strings.Join(list, ", "))
}

// probe looks for the reverse_proxy that a runjob request for host reaches.
func probe(srv *caddyhttp.Server, address siteAddress, host string) *candidate {
	secure := len(srv.TLSConnPolicies) > 0
	authority := address.authority(host)
	prepare := func(ctx context.Context) *http.Request {
		return prepareRequest(ctx, srv, authority, secure)
	}
	w := &walker{server: srv, request: prepare(context.Background())}
	proxy := w.routes(srv.Routes, 0)
	if proxy == nil {
		return nil
	}
	c := &candidate{proxy: proxy, byHost: w.byHost, prepare: prepare}
	c.url = shownURL(srv, host, secure) + runjobPath
	if host != "" && !strings.Contains(host, "*") {
		c.hostHeader = authority
	}
	return c
}

// prepareRequest makes the request that matchers and upstream sources are asked
// about. It never leaves the process.
func prepareRequest(ctx context.Context, srv *caddyhttp.Server, authority string, secure bool) *http.Request {
	r := (&http.Request{
		Method:     http.MethodGet,
		URL:        &url.URL{Path: runjobPath},
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     make(http.Header),
		Body:       http.NoBody,
		Host:       authority,
		RequestURI: runjobPath,
		RemoteAddr: "127.0.0.1:0",
	}).WithContext(ctx)
	if secure {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, srv)
}

// walker goes through routes in the order in which Caddy would.
type walker struct {
	server  *caddyhttp.Server
	request *http.Request
	byHost  bool
}

// routes returns the first proxy that the request reaches. A route that matches
// but holds no proxy is passed over, whatever it does and whatever group it is
// in: a response that keeps /queue_job/* from the public must not hide Odoo.
// Only a whole site without a proxy ends the search, because no request gets past it.
func (w *walker) routes(list caddyhttp.RouteList, depth int) *reverseproxy.Handler {
	if depth > maxDepth {
		return nil
	}
	for i := range list {
		m := match(list[i].MatcherSets, w.request)
		if !m.ok {
			continue
		}
		if proxy := w.handlers(list[i].Handlers, depth); proxy != nil {
			w.byHost = w.byHost || m.byHost
			return proxy
		}
		if list[i].Terminal && m.site {
			return nil
		}
	}
	return nil
}

// handlers returns the first proxy among the handlers of a route.
func (w *walker) handlers(list []caddyhttp.MiddlewareHandler, depth int) *reverseproxy.Handler {
	for _, handler := range list {
		var proxy *reverseproxy.Handler
		switch h := handler.(type) {
		case *caddyhttp.Subroute:
			proxy = w.routes(h.Routes, depth+1)
		case *caddyhttp.Invoke:
			if route := w.server.NamedRoutes[h.Name]; route != nil {
				proxy = w.routes(caddyhttp.RouteList{*route}, depth+1)
			}
		case *reverseproxy.Handler:
			if proxiesSite(h) {
				proxy = h
			}
		}
		if proxy != nil {
			return proxy
		}
	}
	return nil
}

// proxiesSite tells a reverse_proxy that serves a site from those that are
// something else inside: forward_auth asks another server first and rewrites the
// request for it, php_fastcgi does not speak HTTP.
func proxiesSite(h *reverseproxy.Handler) bool {
	if _, ok := h.Transport.(*fastcgi.Transport); ok {
		return false
	}
	if h.Rewrite != nil && len(h.HandleResponse) > 0 {
		return false
	}
	return len(h.Upstreams) > 0 || h.DynamicUpstreams != nil
}

// matched says how a route matched.
type matched struct {
	ok bool
	// byHost is set when a host matcher was among the matchers.
	byHost bool
	// site is set when nothing but the host decided.
	site bool
}

// match asks the matchers of a route. An error is no match, and so is a panic:
// a matcher may expect more of a request than this one has.
func match(sets caddyhttp.MatcherSets, r *http.Request) (m matched) {
	defer func() {
		if recover() != nil {
			m = matched{}
		}
	}()
	if len(sets) == 0 {
		return matched{ok: true}
	}
	for _, set := range sets {
		if ok, err := set.MatchWithError(r); err != nil || !ok {
			continue
		}
		m = matched{ok: true, site: true}
		for _, matcher := range set {
			if len(matcherHosts(matcher)) > 0 {
				m.byHost = true
			} else if _, ok := matcher.(*caddyhttp.MatchProtocol); !ok {
				m.site = false
			}
		}
		m.site = m.site && m.byHost
		return m
	}
	return matched{}
}

// serverHosts lists the hosts that the matchers of a server name, in their order.
func serverHosts(srv *caddyhttp.Server) []string {
	repl := caddy.NewReplacer()
	var hosts []string
	for route := range Routes(srv) {
		for _, set := range route.MatcherSets {
			for _, matcher := range set {
				for _, host := range matcherHosts(matcher) {
					host = strings.ToLower(repl.ReplaceAll(host, ""))
					if host != "" && !slices.Contains(hosts, host) {
						hosts = append(hosts, host)
					}
				}
			}
		}
	}
	return hosts
}

// Routes goes through all routes of a server, those within subroutes and the
// named ones included.
func Routes(srv *caddyhttp.Server) iter.Seq[*caddyhttp.Route] {
	return func(yield func(*caddyhttp.Route) bool) {
		var visit func(list caddyhttp.RouteList, depth int) bool
		visit = func(list caddyhttp.RouteList, depth int) bool {
			for i := range list {
				if !yield(&list[i]) {
					return false
				}
				for _, handler := range list[i].Handlers {
					if sub, ok := handler.(*caddyhttp.Subroute); ok && depth < maxDepth && !visit(sub.Routes, depth+1) {
						return false
					}
				}
			}
			return true
		}
		if !visit(srv.Routes, 0) {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(srv.NamedRoutes)) {
			if !visit(caddyhttp.RouteList{*srv.NamedRoutes[name]}, 0) {
				return
			}
		}
	}
}

// matcherHosts returns the hosts of a host matcher, nothing for any other.
// Matchers of the configuration are pointers, those that Caddy adds are values.
func matcherHosts(matcher any) caddyhttp.MatchHost {
	switch m := matcher.(type) {
	case *caddyhttp.MatchHost:
		return *m
	case caddyhttp.MatchHost:
		return m
	}
	return nil
}
