package jobrunner

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
)

func init() {
	caddy.RegisterModule(Dashboard{})
	httpcaddyfile.RegisterDirective("jobrunner_dashboard", parseDashboard)
	httpcaddyfile.RegisterDirectiveOrder("jobrunner_dashboard", httpcaddyfile.Before, "metrics")
}

// dashboardPath is where the dashboard is unless the configuration says otherwise.
const dashboardPath = "/jobrunner"

// dashboardHeader must be set, to anything, in requests that change something. A
// page of another site cannot set it without being allowed to.
const dashboardHeader = "X-Jobrunner-Dashboard"

// dashboardPolicy lets the page load nothing but its own files, and keeps other
// pages from showing it in a frame, where visitors could be made to click.
const dashboardPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Dashboard is an HTTP handler that shows what the job runners of this process
// do: databases, channels, Odoo servers, running and failed jobs, and why a job
// does not run. It is one page without outside resources. It shows neither
// arguments of jobs nor secrets, but names of databases, channels, models and
// methods: put an authentication in front of it.
type Dashboard struct {
	// The path of the page, with everything below it. Default: `/jobrunner`.
	Path string `json:"path,omitempty"`

	// Lets visitors pause and resume channels, databases and everything, and drain
	// Odoo servers. Whoever may see the page may then do so. Default: false.
	Actions bool `json:"actions,omitempty"`

	files map[string]dashboardFile
	pages map[string]caddyhttp.HandlerFunc
}

// CaddyModule returns the Caddy module information.
func (Dashboard) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.jobrunner_dashboard",
		New: func() caddy.Module { return new(Dashboard) },
	}
}

// parseDashboard reads the directive and gives it a route for its path.
func parseDashboard(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	d := new(Dashboard)
	if err := d.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	paths := []string{d.base(), d.base() + "/*"}
	if d.base() == "" {
		paths = []string{"/*"}
	}
	return h.NewRoute(caddy.ModuleMap{"path": caddyconfig.JSON(paths, nil)}, d), nil
}

// UnmarshalCaddyfile reads the directive:
//
//	jobrunner_dashboard [<path>] {
//		actions
//	}
func (d *Dashboard) UnmarshalCaddyfile(disp *caddyfile.Dispenser) error {
	disp.Next()
	if disp.NextArg() {
		d.Path = strings.TrimSuffix(disp.Val(), "*")
		if err := d.check(); err != nil {
			return disp.WrapErr(err)
		}
	}
	if disp.NextArg() {
		return disp.ArgErr()
	}
	for disp.NextBlock(0) {
		switch option := disp.Val(); {
		case option != "actions":
			return disp.Errf("unrecognized option %q", option)
		case d.Actions:
			return disp.Err("actions may stand only once")
		case disp.NextArg():
			return disp.ArgErr()
		}
		d.Actions = true
	}
	return nil
}

// base is the path without a slash at its end; empty for the whole site.
func (d *Dashboard) base() string {
	if d.Path == "" {
		return dashboardPath
	}
	return strings.TrimRight(d.Path, "/")
}

func (d *Dashboard) check() error {
	if d.Path != "" && (!strings.HasPrefix(d.Path, "/") || strings.ContainsAny(d.Path, "*?# ")) {
		return fmt.Errorf("path %q: it begins with a slash and has no wildcards", d.Path)
	}
	return nil
}

// dashboardFile is a static part of the page.
type dashboardFile struct {
	content   []byte
	kind, tag string
}

//go:embed dashboard/index.html dashboard/app.css dashboard/app.js dashboard/icon.svg
var dashboardFiles embed.FS

// Provision implements [caddy.Provisioner].
func (d *Dashboard) Provision(caddy.Context) error {
	if err := d.check(); err != nil {
		return err
	}
	d.files = make(map[string]dashboardFile)
	kinds := map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	entries, err := fs.ReadDir(dashboardFiles, "dashboard")
	if err != nil {
		return fmt.Errorf("the dashboard's files: %w", err)
	}
	for _, entry := range entries {
		content, err := dashboardFiles.ReadFile("dashboard/" + entry.Name())
		if err != nil {
			return fmt.Errorf("the dashboard's files: %w", err)
		}
		sum := sha256.Sum256(content)
		name := entry.Name()
		if name == "index.html" {
			name = ""
		}
		d.files[name] = dashboardFile{content: content, kind: kinds[path.Ext(entry.Name())], tag: `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	d.pages = map[string]caddyhttp.HandlerFunc{
		"data": d.data, "history": d.history, "failures": d.failures,
		"waiting": reading(getWaiting), "why": reading(getDashboardWhy),
		"pause": acting(admin.PostPause), "resume": acting(admin.PostResume), "drain": acting(admin.PostDrain), "undrain": acting(admin.PostUndrain),
	}
	return nil
}

// dashboardActions are the pages that change something.
var dashboardActions = []string{"pause", "resume", "drain", "undrain"}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	name, below := strings.CutPrefix(r.URL.Path, d.base()+"/")
	switch {
	case r.URL.Path == d.base() && d.base() != "":
		// Relative, for the path that the browser sees can be another one.
		w.Header().Set("Location", path.Base(d.base())+"/")
		w.WriteHeader(http.StatusPermanentRedirect)
		return nil
	case !below:
		return next.ServeHTTP(w, r)
	}
	header := w.Header()
	header.Set("Content-Security-Policy", dashboardPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	if err := d.serve(w, r, name); err != nil {
		return dashboardError(w, err)
	}
	return nil
}

// serve answers a request for a file, or for one of the pages.
func (d *Dashboard) serve(w http.ResponseWriter, r *http.Request, name string) error {
	if file, ok := d.files[name]; ok {
		if err := admin.OnlyMethod(w, r, http.MethodGet); err != nil {
			return err
		}
		return file.serve(w, r)
	}
	page, ok := d.pages[name]
	if !ok {
		return admin.Error(http.StatusNotFound, "there is no such page")
	}
	w.Header().Set("Cache-Control", "no-store")
	if !slices.Contains(dashboardActions, name) {
		if err := admin.OnlyMethod(w, r, http.MethodGet); err != nil {
			return err
		}
		return page(w, r)
	}
	if err := admin.OnlyMethod(w, r, http.MethodPost); err != nil {
		return err
	}
	if !d.Actions {
		return admin.Error(http.StatusForbidden, "this dashboard only shows: the configuration does not allow actions")
	}
	if err := sameOrigin(r); err != nil {
		return admin.Error(http.StatusForbidden, "%w", err)
	}
	return page(w, r)
}

func (f dashboardFile) serve(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", f.kind)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", f.tag)
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	_, _ = w.Write(f.content) // the client has gone
	return nil
}

// sameOrigin refuses what a page of another site can make a browser send.
func sameOrigin(r *http.Request) error {
	if r.Header.Get(dashboardHeader) == "" {
		return fmt.Errorf("the header %s is missing", dashboardHeader)
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return fmt.Errorf("the request comes from another site: %w", err)
	}
	return nil
}

// dashboardError answers with an error; one that is not meant for people is left
// to Caddy.
func dashboardError(w http.ResponseWriter, err error) error {
	var shown caddy.APIError
	if !errors.As(err, &shown) {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(shown.HTTPStatus)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": shown.Message}) //nolint:errchkjson // at most the client has gone
	return nil
}

// reading and acting take over handlers of the admin API. The latter log who it
// was: the user that an authentication before the dashboard has found, and the
// visitor's address.
func reading(h caddy.AdminHandlerFunc) caddyhttp.HandlerFunc { return caddyhttp.HandlerFunc(h) }

func acting(h caddy.AdminHandlerFunc) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		r = r.Clone(r.Context())
		r.RemoteAddr = visitor(r)
		r.TLS = nil // a client certificate of the site is none of the admin API
		defer sharedData.expire()
		return h(w, r)
	}
}

func visitor(r *http.Request) string {
	who := "dashboard"
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if user, ok := repl.GetString("http.auth.user.id"); ok && user != "" {
			who = user + " at the dashboard"
		}
	}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && ip != "" {
		who += ", " + ip
	}
	return who
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler       = (*Dashboard)(nil)
	_ caddy.Provisioner           = (*Dashboard)(nil)
	_ caddyhttp.MiddlewareHandler = (*Dashboard)(nil)
)
