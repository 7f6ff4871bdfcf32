// Package runjobguard is an HTTP handler of Caddy that closes the routes by which Odoo runs jobs to
// the visitors of a site.
package runjobguard

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterHandlerDirective("jobrunner_guard", parseDirective)
	// After everything that rewrites the path, before everything that answers.
	httpcaddyfile.RegisterDirectiveOrder("jobrunner_guard", httpcaddyfile.Before, "basic_auth")
}

// Handler answers, as an HTTP handler, 404 to every request for the routes by which
// Odoo runs jobs, `/queue_job/runjob` and `/connector/runjob`, and for
// `/queue_job/session`, in every spelling that an Odoo server may take for them:
// with a language in front, with doubled slashes, encoded. Odoo itself runs a job
// for anyone who asks. The job runner is not affected, because its requests go to
// the Odoo servers directly. All other requests pass.
//
//	{"handler": "jobrunner_guard"}
type Handler struct{}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.jobrunner_guard",
		New: func() caddy.Module { return new(Handler) },
	}
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (*Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if Closes(r) {
		// No error, which handle_errors could send to Odoo.
		w.WriteHeader(http.StatusNotFound)
		return nil
	}
	return next.ServeHTTP(w, r)
}

// Closes reports whether a request is for one of the routes, as it came in or as it has been rewritten.
func Closes(r *http.Request) bool {
	if IsRoute(r.URL.Path) || IsRoute(r.URL.EscapedPath()) {
		return true
	}
	original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	return ok && original.URL != nil && IsRoute(original.URL.Path)
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile reads the directive, which has neither arguments nor options:
//
//	jobrunner_guard
func (*Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.Errf("jobrunner_guard takes no argument, but here is %q", d.Val())
	}
	if d.NextBlock(0) {
		return d.Errf("unrecognized option %q", d.Val())
	}
	return nil
}

// Interface guards.
var (
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
