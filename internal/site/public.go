package site

import (
	"context"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/caddy-jobrunner/caddy-jobrunner/runjobguard"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// publicPaths are what a visitor may ask for to have a job run; not every way to close the route
// closes all of them.
var publicPaths = []string{
	runjobPath, "/connector/runjob", "/fr/queue_job/runjob", "/fr_BE/connector/runjob", "//x/queue_job/runjob", "/queue_job//runjob",
}

// visitor is an address of the internet, from the block for documentation.
const visitor = "203.0.113.1:1234"

// Open lists what a visitor of the configured sites may ask for to have a job run on one of the
// servers, one URL for each site. Servers that listen on this machine only are left out. It reads the
// provisioned http app; what it cannot follow (a matcher for what only a real request has, a handler
// of a plugin) it takes to let the request pass.
func Open(ctx caddy.Context, targets runner.Targets) []string {
	mod, err := ctx.AppIfConfigured("http")
	app, ok := mod.(*caddyhttp.App)
	if err != nil || !ok {
		return nil
	}
	var open []string
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		srv := app.Servers[name]
		if srv == nil || !public(srv) {
			continue
		}
		for _, host := range append(serverHosts(srv), "") {
			if url := openAt(srv, host, targets); url != "" && !slices.Contains(open, url) {
				open = append(open, url)
			}
		}
	}
	return open
}

// openAt returns the first way to the servers that a host leaves open, empty for none.
func openAt(srv *caddyhttp.Server, host string, targets runner.Targets) string {
	secure := len(srv.TLSConnPolicies) > 0
	for _, path := range publicPaths {
		r := prepareRequest(context.Background(), srv, siteAddress{}.authority(host), secure)
		r.RemoteAddr, r.RequestURI, r.URL.Path = visitor, path, path
		caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, strings.TrimSuffix(visitor, ":1234"))
		e := &exposure{server: srv, request: r, targets: targets}
		if e.routes(srv.Routes, 0) == reached {
			return shownURL(srv, host, secure) + path
		}
	}
	return ""
}

// public reports whether a server listens on more than this machine.
func public(srv *caddyhttp.Server) bool {
	return slices.ContainsFunc(srv.Listen, func(listen string) bool {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil || addr.IsUnixNetwork() || addr.IsFdNetwork() {
			return false
		}
		ip, err := netip.ParseAddr(addr.Host)
		return addr.Host != "localhost" && (err != nil || !ip.Unmap().IsLoopback())
	})
}

// fate is what becomes of a request.
type fate uint8

const (
	passed  fate = iota // to whatever comes next
	refused             // by something other than Odoo
	reached             // one of the servers
)

// exposure follows a request through the routes, as Caddy would, and changes nothing but its own
// request.
type exposure struct {
	server  *caddyhttp.Server
	request *http.Request
	targets runner.Targets
}

func (e *exposure) routes(list caddyhttp.RouteList, depth int) fate {
	if depth > maxDepth {
		return refused
	}
	groups := make(map[string]bool)
	for i := range list {
		route := &list[i]
		if route.Group != "" && groups[route.Group] || !match(route.MatcherSets, e.request).ok {
			continue
		}
		groups[route.Group] = true
		for _, handler := range route.Handlers {
			if f := e.handler(handler, depth); f != passed {
				return f
			}
		}
		if route.Terminal {
			return refused
		}
	}
	return passed
}

func (e *exposure) handler(handler caddyhttp.MiddlewareHandler, depth int) fate {
	switch h := handler.(type) {
	case *caddyhttp.Subroute:
		return e.routes(h.Routes, depth+1)
	case *caddyhttp.Invoke:
		if route := e.server.NamedRoutes[h.Name]; route != nil {
			return e.routes(caddyhttp.RouteList{*route}, depth+1)
		}
	case *rewrite.Rewrite:
		e.rewrite(h)
	case *runjobguard.Handler:
		if runjobguard.Closes(e.request) {
			return refused
		}
	case *caddyhttp.StaticResponse, *caddyhttp.StaticError, *caddyauth.Authentication:
		return refused
	case *fileserver.FileServer:
		if !h.PassThru {
			return refused
		}
	case *reverseproxy.Handler:
		if proxiesSite(h) && e.same(h) {
			return reached
		}
		return refused // another application, or a question whether the visitor may pass
	}
	return passed
}

// rewrite changes the path as the handler would. A panic leaves it as it is: the handler may expect
// more of a request than this one has.
func (e *exposure) rewrite(h *rewrite.Rewrite) {
	defer func() { _ = recover() }()
	if repl, ok := e.request.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		h.Rewrite(e.request, repl)
	}
}

// same reports whether a proxy leads to one of the servers.
func (e *exposure) same(h *reverseproxy.Handler) bool {
	targets := e.targets
	if p, ok := targets.(*Pooled); ok {
		if e.among(h, p.pools) {
			return true
		}
		targets = p.rest
	}
	if d, ok := targets.(*dynamicTargets); ok {
		if h.DynamicUpstreams != nil && dynamicName(h.DynamicUpstreams) == dynamicName(d.source) {
			return true
		}
		return e.among(h, d.fallback)
	}
	static, ok := targets.(staticTargets)
	return ok && e.among(h, static)
}

func (e *exposure) among(h *reverseproxy.Handler, set staticTargets) bool {
	repl := caddy.NewReplacer()
	return slices.ContainsFunc(h.Upstreams, func(u *reverseproxy.Upstream) bool {
		addr, err := caddy.ParseNetworkAddress(repl.ReplaceAll(u.Dial, ""))
		if err != nil {
			return false
		}
		dial := addr.JoinHostPort(0)
		return slices.ContainsFunc(set, func(up driver.Upstream) bool {
			return up.Host == dial || strings.HasPrefix(up.Name, "unix") && strings.HasSuffix(up.Name, dial)
		})
	})
}

// shownURL is the address of a site for people, with the port unless it is that of the scheme.
func shownURL(srv *caddyhttp.Server, host string, secure bool) string {
	scheme, usual := "http", "80"
	if secure {
		scheme, usual = "https", "443"
	}
	port := ""
	if len(srv.Listen) > 0 {
		if addr, err := caddy.ParseNetworkAddress(srv.Listen[0]); err == nil && !addr.IsUnixNetwork() {
			_, port, _ = net.SplitHostPort(addr.JoinHostPort(0))
		}
	}
	switch {
	case host == "" && len(srv.Listen) > 0:
		return scheme + "://" + srv.Listen[0]
	case port == "" || port == usual:
		return scheme + "://" + siteAddress{}.authority(host)
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}
