package odoo

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// requests are the buffers that requests are written into. One is in use until its request is over.
var requests = sync.Pool{New: func() any {
	b := make([]byte, 0, 512)
	return &b
}}

// appendRequest writes the request that runs a task, byte for byte as net/http writes what
// [Driver.request] builds. It returns false where net/http would change something, or refuse it, and
// where the attempt is traced, because the headers are another package's then.
func (d *Driver) appendRequest(b []byte, up driver.Upstream, t driver.Task) ([]byte, bool) {
	host := d.host(up, t.DB)
	if host == "" {
		host = up.Host
	}
	if up.Scheme != "http" || t.Trace != nil || t.DB == "" || !plainHost(host) || !plainValue(t.DB) || !plainValue(d.options.UserAgent) {
		return b, false
	}
	b = append(b, "GET "...)
	b = append(b, runPath(t)...)
	b = append(b, "?db="...)
	b = append(b, url.QueryEscape(t.DB)...)
	b = append(b, "&job_uuid="...)
	b = append(b, url.QueryEscape(t.UUID)...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\nUser-Agent: "...)
	b = append(b, d.options.UserAgent...)
	b = append(b, "\r\nConnection: close"...)
	// The others in the order of their names.
	if d.options.BasicAuthUser != "" {
		b = append(b, "\r\nAuthorization: Basic "...)
		b = base64.StdEncoding.AppendEncode(b, []byte(d.options.BasicAuthUser+":"+d.options.BasicAuthPassword))
	}
	named := isTraceID(t.ID)
	if named {
		b = append(b, "\r\nTraceparent: 00-"...)
		b = append(b, t.ID...)
		b = append(b, '-')
		b = append(b, t.ID[16:]...)
		b = append(b, "-01"...)
	}
	b = append(b, "\r\nX-Odoo-Database: "...)
	b = append(b, t.DB...)
	if named {
		b = append(b, "\r\nX-Request-Id: "...)
		b = append(b, t.ID...)
	}
	return append(b, "\r\n\r\n"...), true
}

// plainHost reports whether a Host header is sent as it is.
func plainHost(host string) bool {
	for i := range len(host) {
		c := host[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' && c != ':' && c != '[' && c != ']' {
			return false
		}
	}
	return host != ""
}

// plainValue reports whether the value of a header is sent as it is. It knows no signs beyond ASCII.
func plainValue(value string) bool {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return value != "" && strings.TrimSpace(value) == value
}

// sendWritten sends a request that has been written, and reads its answer.
func sendWritten(ctx context.Context, s driver.Sender, text []byte) exchange {
	res, connected, err := sendOnce(ctx, s, text)
	if err != nil {
		return exchange{connected: connected, unsent: !connected, err: err}
	}
	return read(res)
}

// sendOnce turns a panic into an error, as [roundTrip] does. Something may have been sent by then.
func sendOnce(ctx context.Context, s driver.Sender, text []byte) (res *http.Response, connected bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			res, connected, err = nil, true, fmt.Errorf("the transport panicked: %v", p)
		}
	}()
	return s.Send(ctx, text)
}
