package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// adminTimeout bounds one request to the admin endpoint.
const adminTimeout = 2 * time.Minute

// Admin is the address of a Caddy's admin endpoint.
type Admin string

// URL returns the address of a path.
func (a Admin) URL(path string) string { return "http://" + string(a) + path }

// Request sends a request with a body of JSON, or of another type, and returns
// the status and the body of the answer.
func (a Admin) Request(ctx context.Context, method, path, contentType, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.URL(path), strings.NewReader(body))
	if err != nil {
		return 0, "", fmt.Errorf("asking caddy for %s: %w", path, err)
	}
	req.Header.Set("Content-Type", contentType)
	// A load ends the endpoint of before, and its connections with it.
	req.Close = method != http.MethodGet
	res, err := Client.Do(req)
	if err != nil {
		return 0, "", fmt.Errorf("asking caddy for %s: %w", path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, "", fmt.Errorf("asking caddy for %s: %w", path, err)
	}
	return res.StatusCode, string(text), nil
}

// Get returns the body of an answer. Another status than 200 is an error.
func (a Admin) Get(ctx context.Context, path string) (string, error) {
	status, text, err := a.Request(ctx, http.MethodGet, path, "", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("asking caddy for %s: %d: %s", path, status, text)
	}
	return text, err
}

// Decode gets a document of JSON.
func (a Admin) Decode(ctx context.Context, path string, into any) error {
	text, err := a.Get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("asking caddy for %s: %w", path, err)
	}
	return nil
}

// ErrRefused is a configuration that Caddy did not accept.
var ErrRefused = errors.New("caddy refuses the configuration")

// Load puts a Caddyfile in force. Any error but [ErrRefused] leaves it open
// whether that has happened: the endpoint that should answer ends meanwhile.
func (a Admin) Load(ctx context.Context, caddyfile []byte) error {
	status, text, err := a.Request(ctx, http.MethodPost, "/load", "text/caddyfile", string(caddyfile))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%w: %d: %s", ErrRefused, status, text)
	}
	return err
}

// Answers reports whether the endpoint answers. It does so once the first
// configuration is in force.
func (a Admin) Answers(ctx context.Context) bool {
	_, err := a.Get(ctx, "/config/")
	return err == nil
}

// Ready reports whether all runners can do their work.
func (a Admin) Ready(ctx context.Context) (bool, error) {
	status, _, err := a.Request(ctx, http.MethodGet, "/jobrunner/ready", "", "")
	return status == http.StatusOK, err
}

// Databases returns the states of the runners' databases.
func (a Admin) Databases(ctx context.Context) (map[string]string, error) {
	var doc api.Databases
	if err := a.Decode(ctx, "/jobrunner/databases", &doc); err != nil {
		return nil, err
	}
	states := make(map[string]string, len(doc.Databases))
	for _, db := range doc.Databases {
		states[db.Database] = db.State
	}
	return states, nil
}

// LiveHeap returns the bytes that are in use after a collection of garbage.
func (a Admin) LiveHeap(ctx context.Context) (int, error) {
	var text string
	for range 2 { // the second collection finds what finalizers let go
		var err error
		if text, err = a.Get(ctx, "/debug/pprof/heap?gc=1&debug=1"); err != nil {
			return 0, err
		}
	}
	_, rest, _ := strings.Cut(text, "# HeapAlloc = ")
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(value)
	if err != nil {
		return 0, fmt.Errorf("reading the heap: %w", err)
	}
	return n, nil
}

// Goroutines returns the number of goroutines.
func (a Admin) Goroutines(ctx context.Context) (n int, err error) {
	text, err := a.Get(ctx, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscanf(text, "goroutine profile: total %d", &n); err != nil {
		return 0, fmt.Errorf("reading the goroutines: %w", err)
	}
	return n, nil
}
