package site

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/oneshot"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// TestFindProxy finds the right pool in configurations as people write them.
func TestFindProxy(t *testing.T) {
	t.Setenv("ODOO_ADDR", "10.0.0.9:8069")
	t.Setenv("DOMAIN", "odoo.example.com")
	for name, c := range map[string]struct {
		address, sites string
		want           []string
		host           string
	}{
		"plain": {"", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069 10.0.0.6:8069
}`, []string{"http://10.0.0.5:8069", "http://10.0.0.6:8069"}, "odoo.example.com"},
		"beyond ASCII": {"Bücher.example.com", `
bücher.example.com {
	reverse_proxy 10.0.0.5:8069
}
other.example.com {
	reverse_proxy 10.0.0.6:8069
}`, []string{"http://10.0.0.5:8069"}, "xn--bcher-kva.example.com"},
		"in punycode": {"xn--bcher-kva.example.com", `
bücher.example.com {
	reverse_proxy 10.0.0.5:8069
}
*.example.com {
	reverse_proxy 10.0.0.6:8069
}`, []string{"http://10.0.0.5:8069"}, "xn--bcher-kva.example.com"},
		"path matchers": {"", `
odoo.example.com {
	reverse_proxy /websocket 10.0.0.5:8072
	reverse_proxy /longpolling/* 10.0.0.5:8072
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"handle blocks": {"", `
odoo.example.com {
	encode gzip
	handle /websocket {
		reverse_proxy 10.0.0.5:8072
	}
	handle_path /static/* {
		reverse_proxy 10.0.0.5:8080
	}
	handle {
		reverse_proxy 10.0.0.5:8069
	}
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"negated path": {"", `
odoo.example.com {
	@ws path /websocket*
	@web not path /websocket*
	reverse_proxy @ws 10.0.0.5:8072
	reverse_proxy @web 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"snippet": {"", `
(odoo) {
	reverse_proxy /websocket {args[0]}:8072
	reverse_proxy {args[0]}:8069
}
odoo.example.com {
	import odoo 10.0.0.5
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"named route": {"", `
&(odoo) {
	handle /websocket {
		reverse_proxy 10.0.0.5:8072
	}
	handle {
		reverse_proxy 10.0.0.5:8069
	}
}
odoo.example.com {
	invoke odoo
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"forward_auth": {"", `
odoo.example.com {
	forward_auth 10.0.0.7:9091 {
		uri /api/verify
		copy_headers Remote-User
	}
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"basic_auth": {"", `
odoo.example.com {
	basic_auth {
		user $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG
	}
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"php beside": {"", `
odoo.example.com {
	handle /blog* {
		php_fastcgi 10.0.0.8:9000
	}
	handle {
		reverse_proxy 10.0.0.5:8069
	}
}
blog.example.com {
	php_fastcgi 10.0.0.8:9000
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"error page": {"", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069
	handle_errors {
		reverse_proxy 10.0.0.7:8080
	}
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"respond blocks the public": {"", `
odoo.example.com {
	@queue path /queue_job/*
	respond @queue 404
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"respond in a handle group": {"", `
odoo.example.com {
	@queue path /queue_job/*
	handle @queue {
		respond 404
	}
	handle /websocket {
		reverse_proxy 10.0.0.5:8072
	}
	handle {
		reverse_proxy 10.0.0.5:8069
	}
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"abort, error and redir in the way": {"", `
odoo.example.com {
	abort /queue_job/*
	error /queue_job/* 403
	redir /queue_job/* /
	route /queue_job/* {
		respond "no" 403
	}
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"public path kept for one network": {"", `
odoo.example.com {
	@outside {
		path /queue_job/*
		not remote_ip 10.0.0.0/8
	}
	respond @outside 403
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"two sites, one named": {"odoo.example.com", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069
}
grafana.example.com {
	reverse_proxy 10.0.0.5:3000
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"two sites, named by a variable": {"odoo.example.com", `
http://{env.DOMAIN} {
	reverse_proxy 10.0.0.5:8069
}
grafana.example.com {
	reverse_proxy 10.0.0.5:3000
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"one pool under two names": {"", `
odoo.example.com, www.example.com {
	reverse_proxy 10.0.0.5:8069
}
other.example.com {
	reverse_proxy 10.0.0.5:8069
}
files.example.com {
	file_server
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"the same name on two ports": {"https://odoo.example.com:8443", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069
}
odoo.example.com:8443 {
	reverse_proxy 10.0.0.6:8069
}`, []string{"http://10.0.0.6:8069"}, "odoo.example.com:8443"},
		"http and https": {"http://odoo.example.com", `
https://odoo.example.com {
	reverse_proxy 10.0.0.5:8069
}
http://odoo.example.com {
	reverse_proxy 10.0.0.6:8069
}`, []string{"http://10.0.0.6:8069"}, "odoo.example.com"},
		"named site goes before catch-all": {"odoo.example.com", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069
}
:8080 {
	reverse_proxy 10.0.0.5:3000
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"catch-all": {"odoo.example.com", `
:8080 {
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "odoo.example.com"},
		"catch-all by port": {":8080", `
:8080 {
	reverse_proxy 10.0.0.5:8069
}
:8081 {
	reverse_proxy 10.0.0.5:3000
}`, []string{"http://10.0.0.5:8069"}, ""},
		"catch-all alone": {"", `
:8080 {
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, ""},
		"wildcard": {"a.example.com", `
*.example.com {
	@odoo host a.example.com
	handle @odoo {
		reverse_proxy 10.0.0.5:8069
	}
	handle {
		reverse_proxy 10.0.0.5:3000
	}
}`, []string{"http://10.0.0.5:8069"}, "a.example.com"},
		"wildcard itself": {"*.example.com", `
*.example.com {
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, ""},
		"a site without proxy is no way through": {"", `
http://odoo.example.com {
	respond "moved"
}
http://other.example.com {
	reverse_proxy 10.0.0.5:8069
}`, []string{"http://10.0.0.5:8069"}, "other.example.com"},
		"https upstream": {"", `
odoo.example.com {
	reverse_proxy https://10.0.0.5
}`, []string{"https://10.0.0.5:443"}, "odoo.example.com"},
		"https with exceptions": {"", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8443 10.0.0.6:8069 {
		transport http {
			tls_except_ports 8069
			tls_server_name odoo.internal
			local_address 127.0.0.1
			read_timeout 5s
		}
	}
}`, []string{"http://10.0.0.6:8069", "https://10.0.0.5:8443"}, "odoo.example.com"},
		"unix upstream": {"", `
odoo.example.com {
	reverse_proxy unix//run/odoo.sock
}`, []string{"unix//run/odoo.sock"}, "odoo.example.com"},
		"address by variable": {"", `
odoo.example.com {
	reverse_proxy {env.ODOO_ADDR}
}`, []string{"http://10.0.0.9:8069"}, "odoo.example.com"},
		"load balancing and health checks": {"", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069 10.0.0.6:8069 {
		lb_policy least_conn
		lb_retries 2
		fail_duration 30s
		unhealthy_request_count 5
	}
}`, []string{"http://10.0.0.5:8069", "http://10.0.0.6:8069"}, "odoo.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			targets, err := ofProxy(t, c.address, c.sites)
			require.NoError(t, err)
			ups, err := targets.Upstreams(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.want, slices.Sorted(slices.Values(names(ups))))
			for _, up := range ups {
				require.Equal(t, c.host, up.HostHeader)
				require.NotEmpty(t, up.Host)
				require.True(t, up.Available())
				require.Zero(t, up.Load())
			}
		})
	}
}

// TestFindProxyErrors: what cannot be decided is an error that says what to do.
func TestFindProxyErrors(t *testing.T) {
	transport := func(lines string) string {
		return "\nodoo.example.com {\n\treverse_proxy https://10.0.0.5 {\n\t\ttransport http {\n" + lines + "\n\t\t}\n\t}\n}\n"
	}
	for name, c := range map[string]struct {
		address, sites string
		want           []string
	}{
		"no site":  {"", "", []string{"there is no site whose reverse_proxy could be used"}},
		"no proxy": {"", "\nodoo.example.com {\n\tfile_server\n}\n", []string{"no reverse_proxy of any site handles /queue_job/runjob; set site"}},
		"no proxy of that site": {"nope.example.com", "\nodoo.example.com {\n\treverse_proxy 10.0.0.5:8069\n}\n", []string{
			"no reverse_proxy of the site nope.example.com handles /queue_job/runjob",
		}},
		"a named route that invokes itself": {"", `
&(loop) {
	invoke loop
}
odoo.example.com {
	invoke loop
}`, []string{"no reverse_proxy of any site"}},
		"only the websocket": {"", "\nodoo.example.com {\n\treverse_proxy /websocket 10.0.0.5:8072\n}\n", []string{"no reverse_proxy of any site"}},
		"a site without proxy before a catch-all": {"http://odoo.example.com:8080", `
http://odoo.example.com:8080 {
	respond "moved"
}
http://:8080 {
	reverse_proxy 10.0.0.5:8069
}`, []string{"no reverse_proxy of the site"}},
		"two pools": {"", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069
}
grafana.example.com {
	reverse_proxy 10.0.0.5:3000
}`, []string{
			"2 reverse_proxy handlers of any site match /queue_job/runjob: ",
			"https://grafana.example.com/queue_job/runjob -> 10.0.0.5:3000, https://odoo.example.com/queue_job/runjob -> 10.0.0.5:8069",
			"; set site or upstream",
		}},
		"the same name on two ports": {"odoo.example.com", `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069
}
odoo.example.com:8443 {
	reverse_proxy 10.0.0.6:8069
}`, []string{"2 reverse_proxy handlers of the site odoo.example.com match"}},
		"bad site": {"odoo.example.com/odoo", "\nodoo.example.com {\n\treverse_proxy 10.0.0.5:8069\n}\n", []string{"it must be a host, without path"}},
		"request placeholder": {"", "\nodoo.example.com {\n\treverse_proxy {http.request.header.X-Backend}\n}\n", []string{
			"unrecognized placeholder {http.request.header.X-Backend}", "name the Odoo servers with upstream",
		}},
		"h2c":               {"", "\nodoo.example.com {\n\treverse_proxy h2c://10.0.0.5:8069\n}\n", []string{"HTTP/2 without TLS"}},
		"h3":                {"", transport("versions 3"), []string{"HTTP/3 only"}},
		"proxy protocol":    {"", transport("proxy_protocol v2"), []string{"uses proxy_protocol"}},
		"resolver":          {"", transport("resolvers 10.0.0.53"), []string{"uses its own resolvers"}},
		"tls by request":    {"", transport("tls_server_name {http.request.host}"), []string{"tls_server_name depends on the request"}},
		"forward proxy":     {"", transport("network_proxy url http://proxy.example.com:3128"), []string{"goes through a forward proxy"}},
		"local unix socket": {"", transport("local_address unix//tmp/x.sock"), []string{"its local_address: network unix is not supported"}},
		"other dynamic source": {"", `
odoo.example.com {
	reverse_proxy {
		dynamic multi {
			a odoo.internal 8069
		}
	}
}`, []string{"are neither a nor srv"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ofProxy(t, c.address, c.sites)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

func TestParseUpstream(t *testing.T) {
	for address, want := range map[string]string{
		"http://10.0.0.5:8069":  "http://10.0.0.5:8069",
		"http://10.0.0.5:8069/": "http://10.0.0.5:8069",
		"http://odoo":           "http://odoo:80",
		"https://odoo":          "https://odoo:443",
		"https://odoo:8443":     "https://odoo:8443",
		"odoo:8069":             "http://odoo:8069",
		"[::1]:8069":            "http://[::1]:8069",
		"http://[::1]:8069":     "http://[::1]:8069",
		"unix//run/odoo.sock":   "unix//run/odoo.sock",
	} {
		e, err := parseUpstream(address)
		require.NoError(t, err, address)
		require.Equal(t, want, e.Name())
		up := upstream(e, "")
		require.NotNil(t, up.Transport)
		require.Equal(t, oneshot.NewSender(e) != nil, up.Sender != nil, address)
	}
	for _, address := range []string{
		"", "odoo", ":8069", "http://", "http://:8069", "ftp://odoo", "http://odoo/path", "http://odoo?x=y",
		"http://odoo:x", "http://odoo:0", "http://odoo:70000", "odoo:", "unix/odoo.sock", "unix/", "http://a b", "http://odoo#x",
	} {
		_, err := parseUpstream(address)
		require.Error(t, err, address)
	}
	for _, address := range []string{"http://user:secret@odoo", "http://user:/secret@odoo", "postgres://user:secret@db", "user:secret@odoo:8069"} {
		_, err := parseUpstream(address)
		require.ErrorContains(t, err, "must not contain a user or password")
		require.NotContains(t, err.Error(), "secret")
	}
}

func FuzzParseUpstream(f *testing.F) {
	for _, seed := range []string{"http://10.0.0.5:8069", "unix//run/odoo.sock", "[::1]:8069", "https://a:1/", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		e, err := parseUpstream(address)
		if err != nil {
			return
		}
		again, err := parseUpstream(e.Name())
		require.NoError(t, err)
		require.Equal(t, e.Name(), again.Name())
	})
}

func FuzzParseSite(f *testing.F) {
	for _, seed := range []string{"odoo.example.com", "https://odoo.example.com:8443", ":8080", "[::1]", "*.example.com", "bücher.example.com", "Ａ.example", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseSite(s)
		if err != nil {
			return
		}
		require.True(t, a.host != "" || a.port != "")
		_ = a.authority(a.host)
	})
}

// TestProxyTransport takes the transport settings of a reverse_proxy along: its
// certificate authority, but not its timeouts.
func TestProxyTransport(t *testing.T) {
	answer := make(chan struct{})
	secure := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-answer }))
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600))
	targets, err := ofProxy(t, "", `
odoo.example.com {
	reverse_proxy https://`+secure.Listener.Addr().String()+` {
		transport http {
			tls_trust_pool file `+ca+`
			tls_server_name example.com
			read_timeout 1ms
			response_header_timeout 1ms
		}
	}
}`)
	require.NoError(t, err)
	ups, err := targets.Upstreams(t.Context())
	require.NoError(t, err)
	require.Len(t, ups, 1)
	time.AfterFunc(20*time.Millisecond, func() { close(answer) })
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+ups[0].Host+runjobPath, http.NoBody)
	require.NoError(t, err)
	resp, err := ups[0].Transport.RoundTrip(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// fakeSource answers as told.
type fakeSource struct {
	calls  atomic.Int32
	dials  []string
	err    error
	panics bool
	slow   time.Duration
}

func (s *fakeSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	s.calls.Add(1)
	if s.panics {
		panic("source")
	}
	if s.slow > 0 {
		select {
		case <-time.After(s.slow):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	var ups []*reverseproxy.Upstream
	for _, dial := range s.dials {
		ups = append(ups, &reverseproxy.Upstream{Dial: dial})
	}
	return ups, s.err
}

func newDynamic(source reverseproxy.UpstreamSource) *dynamicTargets {
	d := &dialer{transport: new(reverseproxy.HTTPTransport)}
	return &dynamicTargets{
		source: source,
		prepare: func(ctx context.Context) *http.Request {
			return (&http.Request{URL: new(url.URL)}).WithContext(ctx)
		},
		build: func(dial string) (driver.Upstream, error) {
			e, err := d.endpoint(dial)
			return upstream(e, "odoo.example.com"), err
		},
		log: zap.NewNop(),
	}
}

func names(ups []driver.Upstream) (names []string) {
	for _, up := range ups {
		names = append(names, up.Name)
	}
	return names
}

// TestDynamicTargets: lookups happen beside the caller, at most once a second,
// and a failing one does not lose the servers at once.
func TestDynamicTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{dials: []string{"10.0.0.6:8069", "10.0.0.5:8069", "10.0.0.5:8069", "10.0.0.7:1-9"}, slow: 100 * time.Millisecond}
		d := newDynamic(source)
		ups, err := d.Upstreams(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"http://10.0.0.5:8069", "http://10.0.0.6:8069"}, names(ups))
		require.Equal(t, "odoo.example.com", ups[0].HostHeader)

		for range 5 {
			_, err = d.Upstreams(t.Context())
			require.NoError(t, err)
		}
		require.EqualValues(t, 1, source.calls.Load())

		source.dials = []string{"10.0.0.6:8069", "10.0.0.8:8069"}
		pass(lookupFresh)
		begin := time.Now()
		again, err := d.Upstreams(t.Context())
		require.NoError(t, err)
		require.Equal(t, names(ups), names(again), "the last answer, while the next lookup is under way")
		require.Zero(t, time.Since(begin))
		pass(200 * time.Millisecond)
		next, err := d.Upstreams(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"http://10.0.0.6:8069", "http://10.0.0.8:8069"}, names(next))
		require.Same(t, ups[1].Transport, next[0].Transport, "who stays keeps the transport")

		source.err = errFake
		pass(lookupFresh)
		_, err = d.Upstreams(t.Context())
		require.NoError(t, err)
		pass(200 * time.Millisecond)
		stale, err := d.Upstreams(t.Context())
		require.NoError(t, err)
		require.Equal(t, names(next), names(stale))

		pass(lookupStale)
		_, err = d.Upstreams(t.Context())
		require.NoError(t, err)
		pass(200 * time.Millisecond)
		_, err = d.Upstreams(t.Context())
		require.ErrorIs(t, err, errFake)
		synctest.Wait()
	})
}

// TestDynamicTargetsFailures: no caller waits for ever, and nothing panics.
func TestDynamicTargetsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, err := newDynamic(&fakeSource{slow: time.Hour}).Upstreams(t.Context())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, lookupTimeout, time.Since(begin))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		_, err = newDynamic(&fakeSource{slow: time.Hour}).Upstreams(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))

		_, err = newDynamic(&fakeSource{panics: true}).Upstreams(t.Context())
		require.ErrorContains(t, err, "panic: source")

		d := newDynamic(&fakeSource{err: errors.New("no such host")})
		d.fallback = staticTargets{{Name: "static"}}
		ups, err := d.Upstreams(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{"static"}, names(ups))
		pass(lookupTimeout)
		synctest.Wait()
	})
}

// TestDynamicForwardProxy: a forward proxy is left out for addresses that are
// looked up, too, instead of being passed by.
func TestDynamicForwardProxy(t *testing.T) {
	targets, err := ofProxy(t, "", `
odoo.example.com {
	reverse_proxy {
		dynamic a {
			name localhost
			port 8069
			versions ipv4
		}
		transport http {
			network_proxy url http://proxy.example.com:3128
		}
	}
}`)
	require.NoError(t, err)
	ups, err := targets.Upstreams(t.Context())
	require.NoError(t, err)
	require.Empty(t, ups)
}

// TestDynamicSources looks up real names through Caddy's own sources.
func TestDynamicSources(t *testing.T) {
	targets, err := ofProxy(t, "", `
odoo.example.com {
	reverse_proxy {
		dynamic a {
			name localhost
			port 8069
			versions ipv4
		}
	}
}`)
	require.NoError(t, err)
	ups, err := targets.Upstreams(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"http://127.0.0.1:8069"}, names(ups))

	// No DNS server answers here: the source is asked, and its error comes back.
	targets, err = ofProxy(t, "", `
odoo.example.com {
	reverse_proxy {
		dynamic srv {
			service odoo
			proto tcp
			name {http.request.host}
			resolvers 127.0.0.1:1
		}
	}
}`)
	require.NoError(t, err)
	_, err = targets.Upstreams(t.Context())
	require.ErrorContains(t, err, "_odoo._tcp.odoo.example.com")
}

// pass lets time go by; in a bubble of synctest that takes none.
func pass(d time.Duration) { <-time.After(d) }
