// Package dashboard is a page that shows what the job runners do, as an HTTP handler of Caddy.
package dashboard

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

func init() {
	caddy.RegisterModule(Handler{})
	httpcaddyfile.RegisterDirective("jobrunner_dashboard", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("jobrunner_dashboard", httpcaddyfile.Before, "metrics")
}

// defaultPath is where the dashboard is unless the configuration says otherwise.
const defaultPath = "/jobrunner"

// actionHeader must be set, to anything, in requests that change something. A
// page of another site cannot set it without being allowed to.
const actionHeader = "X-Jobrunner-Dashboard"

// policy lets the page load nothing but its own files, and keeps other
// pages from showing it in a frame, where visitors could be made to click.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler shows, as an HTTP handler, what the job runners of this process
// do: databases, channels, Odoo servers, running and failed jobs, and why a job
// does not run. It is one page without outside resources. It shows no secrets and, unless the
// runner has the option payloads, no arguments of jobs, but names of databases, channels, models,
// methods and jobs, and messages of exceptions: put an authentication in front of it.
//
//	{"handler": "jobrunner_dashboard", "path": "/jobrunner", "actions": true}
type Handler struct {
	// The path of the page, with everything below it. Default: `/jobrunner`.
	Path string `json:"path,omitempty"`

	// Lets visitors pause and resume channels, databases and everything, drain Odoo servers, requeue,
	// cancel and set done jobs, and change the capacities of channels. Whoever may see the page may then do so. Default: false.
	Actions bool `json:"actions,omitempty"`

	// The addresses of the dashboards of the other nodes, such as
	// `https://b.example.com/jobrunner/`. A page whose process stands by links to them, because only
	// the leader knows what runs. Default: none.
	Nodes []string `json:"nodes,omitempty"`

	// The address of Caddy's admin API, through which visitors change capacities if they may act:
	// `localhost:2019` or `unix//run/caddy/admin.sock`. Default: `CADDY_ADMIN` or `localhost:2019`.
	Admin string `json:"admin,omitempty"`

	files map[string]file
	pages map[string]caddyhttp.HandlerFunc
	// live and failed are answers that visitors share.
	live, failed *shared
	// read is what is known of failed jobs; failed lets one of its users in at a time.
	read readings
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.jobrunner_dashboard",
		New: func() caddy.Module { return new(Handler) },
	}
}

// parseDirective reads the directive and gives it a route for its path.
func parseDirective(helper httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(helper.Dispenser); err != nil {
		return nil, err
	}
	paths := []string{h.base(), h.base() + "/*"}
	if h.base() == "" {
		paths = []string{"/*"}
	}
	return helper.NewRoute(caddy.ModuleMap{"path": caddyconfig.JSON(paths, nil)}, h), nil
}

// UnmarshalCaddyfile reads the directive:
//
//	jobrunner_dashboard [<path>] {
//		actions
//		nodes <url>...
//		admin <address>
//	}
func (h *Handler) UnmarshalCaddyfile(disp *caddyfile.Dispenser) error {
	disp.Next()
	if disp.NextArg() {
		h.Path = strings.TrimSuffix(disp.Val(), "*")
		if err := h.check(); err != nil {
			return disp.WrapErr(err)
		}
	}
	if disp.NextArg() {
		return disp.Errf("jobrunner_dashboard takes one path, or none, but here is %q, too", disp.Val())
	}
	for disp.NextBlock(0) {
		switch option := disp.Val(); {
		case option == "nodes" && h.Nodes != nil:
			return disp.Err("nodes may stand only once")
		case option == "nodes":
			if h.Nodes = disp.RemainingArgs(); len(h.Nodes) == 0 {
				return disp.Err("nodes takes one or more URLs, as in: nodes https://ops-b.example.com/jobrunner/")
			}
			if err := h.check(); err != nil {
				return disp.WrapErr(err)
			}
		case option == "admin" && h.Admin != "":
			return disp.Err("admin may stand only once")
		case option == "admin":
			if !disp.Args(&h.Admin) || disp.NextArg() {
				return disp.Err("admin takes one address of Caddy's admin API, as in: admin localhost:2019")
			}
			if err := h.check(); err != nil {
				return disp.WrapErr(err)
			}
		case option != "actions":
			return disp.Errf("unrecognized option %q", option)
		case h.Actions:
			return disp.Err("actions may stand only once")
		case disp.NextArg():
			return disp.Errf("actions takes no argument, but here is %q; without the line, they are off", disp.Val())
		default:
			h.Actions = true
		}
	}
	return nil
}

// base is the path without a slash at its end; empty for the whole site.
func (h *Handler) base() string {
	if h.Path == "" {
		return defaultPath
	}
	return strings.TrimRight(h.Path, "/")
}

func (h *Handler) check() error {
	if h.Path != "" && (!strings.HasPrefix(h.Path, "/") || strings.ContainsAny(h.Path, "*?# ")) {
		return fmt.Errorf("path %q: it begins with a slash and has no wildcards", h.Path)
	}
	for _, node := range h.Nodes {
		if u, err := url.Parse(node); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return fmt.Errorf("node %q is no address of a page, such as https://b.example.com/jobrunner/", node)
		}
	}
	if h.Admin != "" {
		if _, err := api.NewClient(h.Admin); err != nil {
			return err
		}
	}
	return nil
}

// file is a static part of the page.
type file struct {
	content   []byte
	kind, tag string
}

//go:embed index.html app.css app.js explorer.js history.js icon.svg
var embedded embed.FS

// Provision implements [caddy.Provisioner].
func (h *Handler) Provision(caddy.Context) error {
	if err := h.check(); err != nil {
		return err
	}
	h.live, h.failed = &shared{fresh: dataFresh}, &shared{fresh: failuresFresh}
	h.read = make(readings)
	h.files = make(map[string]file)
	kinds := map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	entries, err := fs.ReadDir(embedded, ".")
	if err != nil {
		return fmt.Errorf("the dashboard's files: %w", err)
	}
	for _, entry := range entries {
		content, err := embedded.ReadFile(entry.Name())
		if err != nil {
			return fmt.Errorf("the dashboard's files: %w", err)
		}
		sum := sha256.Sum256(content)
		name := entry.Name()
		if name == "index.html" {
			name = ""
		}
		h.files[name] = file{content: content, kind: kinds[path.Ext(entry.Name())], tag: `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	h.pages = map[string]caddyhttp.HandlerFunc{
		"data": h.data, "history": h.history, "failures": h.failures,
		"waiting": asking(getWaiting), "why": asking(getWhy), "jobs": asking(getJobs), "job": asking(getJob),
		"past": asking(admin.GetHistory), "forecast": asking(admin.GetForecast), "simulate": asking(admin.GetSimulation),
		"pause": h.acting(admin.PostPause), "resume": h.acting(admin.PostResume),
		"drain": h.acting(admin.PostDrain), "undrain": h.acting(admin.PostUndrain),
		"requeue": h.acting(admin.ChangeJobs(driver.Requeue, bulkLimit)), "cancel": h.acting(admin.ChangeJobs(driver.Cancel, bulkLimit)),
		"set-done": h.acting(admin.ChangeJobs(driver.SetDone, bulkLimit)), "capacity": h.acting(admin.PostCapacity(h.Admin)),
	}
	return nil
}

// actionPages are the pages that change something.
var actionPages = []string{"pause", "resume", "drain", "undrain", "requeue", "cancel", "set-done", "capacity"}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	name, below := strings.CutPrefix(r.URL.Path, h.base()+"/")
	switch {
	case r.URL.Path == h.base() && h.base() != "":
		// Relative, for the path that the browser sees can be another one.
		w.Header().Set("Location", path.Base(h.base())+"/")
		w.WriteHeader(http.StatusPermanentRedirect)
		return nil
	case !below:
		return next.ServeHTTP(w, r)
	}
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	if err := h.serve(w, r, name); err != nil {
		return answerError(w, err)
	}
	return nil
}

// serve answers a request for a file, or for one of the pages.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, name string) error {
	if file, ok := h.files[name]; ok {
		if err := admin.OnlyMethod(w, r, http.MethodGet); err != nil {
			return err
		}
		return file.serve(w, r)
	}
	page, ok := h.pages[name]
	if !ok {
		return admin.Error(http.StatusNotFound, "there is no such page")
	}
	w.Header().Set("Cache-Control", "no-store")
	if !slices.Contains(actionPages, name) {
		if err := admin.OnlyMethod(w, r, http.MethodGet); err != nil {
			return err
		}
		return page(w, r)
	}
	if err := admin.OnlyMethod(w, r, http.MethodPost); err != nil {
		return err
	}
	if !h.Actions {
		return admin.Error(http.StatusForbidden, "this dashboard only shows: the configuration does not allow actions")
	}
	if err := sameOrigin(r); err != nil {
		return admin.Error(http.StatusForbidden, "%w", err)
	}
	return page(w, r)
}

func (f file) serve(w http.ResponseWriter, r *http.Request) error {
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
	if r.Header.Get(actionHeader) == "" {
		return fmt.Errorf("the header %s is missing", actionHeader)
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		return fmt.Errorf("the request comes from another site: %w", err)
	}
	return nil
}

// answerError answers with an error; one that is not meant for people is left
// to Caddy.
func answerError(w http.ResponseWriter, err error) error {
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

// asking and acting take over handlers of the admin API. The latter log who it
// was: the user that an authentication before the dashboard has found, and the
// visitor's address.
func asking(h caddy.AdminHandlerFunc) caddyhttp.HandlerFunc { return caddyhttp.HandlerFunc(h) }

func (h *Handler) acting(action caddy.AdminHandlerFunc) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		r = r.Clone(r.Context())
		r.RemoteAddr = visitor(r)
		r.TLS = nil // a client certificate of the site is none of the admin API
		defer h.live.expire()
		return action(w, r)
	}
}

func visitor(r *http.Request) string {
	who := "dashboard"
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if user, ok := repl.GetString("http.auth.user.id"); ok && user != "" {
			who = `user "` + strings.ReplaceAll(api.Printable(user), `"`, "'") + `" at the dashboard`
		}
	}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && ip != "" {
		who += ", " + ip
	}
	return who
}

// Interface guards.
var (
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
