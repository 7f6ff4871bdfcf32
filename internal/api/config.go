package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// ProcessHeader is set in every answer about the job runners, to a value that each process has for itself.
const ProcessHeader = "X-Jobrunner-Process"

// Process returns the value of [ProcessHeader].
func (c *Client) Process(ctx context.Context) (string, error) {
	resp, err := c.send(ctx, http.MethodGet, "live", nil, nil)
	if err != nil {
		return "", err
	}
	return resp.Header.Get(ProcessHeader), resp.Body.Close()
}

// ConfigPath is the path of a part of Caddy's configuration, by the names that lead there.
func ConfigPath(names ...string) string {
	escaped := make([]string, len(names))
	for i, name := range names {
		escaped[i] = url.PathEscape(name)
	}
	return "/config/" + strings.Join(escaped, "/")
}

// Config reads a part of Caddy's configuration, with its tag.
func (c *Client) Config(ctx context.Context, path string) (raw []byte, tag string, err error) {
	resp, err := c.sendTo(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if raw, err = readAll(resp.Body, answerLimit); err != nil {
		return nil, "", fmt.Errorf("reading the configuration: %w", err)
	}
	return raw, resp.Header.Get("ETag"), nil
}

// SetConfig changes a part of Caddy's configuration, which is then loaded. It is a PATCH of what is there,
// if what has the tag has not changed, or a POST of what is new.
func (c *Client) SetConfig(ctx context.Context, path, tag string, isNew bool, value any) error {
	method := http.MethodPatch
	if isNew {
		method = http.MethodPost
	}
	if strings.Contains(tag, " ") && len(strings.Fields(tag)) != 2 {
		tag = "" // Caddy cannot read that of a path with blanks
	}
	resp, err := c.sendTo(ctx, method, path, tag, value)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
