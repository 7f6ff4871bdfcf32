package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

const (
	// capacityTimeout bounds a change of the configuration, which loads all of it.
	capacityTimeout = 30 * time.Second
	// capacityMost is more than any installation runs at once; a greater number is a slip.
	capacityMost = 100_000
)

// process tells the answers of this process from those of another.
var process = rand.Text()

// PostCapacity changes the capacity of a channel in Caddy's configuration, by the way that everyone has to
// change it: Caddy's admin API at an address, empty for the default. That must be the one of this process.
func PostCapacity(address string) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		var req api.CapacityRequest
		if err := body(w, r, &req, &req.Actor); err != nil {
			return err
		}
		if req.Capacity < 1 || req.Capacity > capacityMost {
			return Error(http.StatusBadRequest, "capacity %d is not a number from 1 to %d", req.Capacity, capacityMost)
		}
		name, _, err := OneRunner(req.Runner)
		if err != nil {
			return err
		}
		// The request's own context ends with the configuration that it belongs to.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), capacityTimeout)
		defer cancel()
		c, err := configClient(ctx, address)
		if err != nil {
			return err
		}
		answer, err := setCapacity(ctx, c, name, &req)
		if err != nil {
			return err
		}
		if !req.DryRun {
			logAction("capacity", name, &req.Actor, zap.String("channel", answer.Channel), zap.Int("before", answer.Before), zap.Int("after", answer.After))
		}
		return Answer(w, http.StatusOK, answer)
	}
}

// configClient returns a client of the admin API of this process.
func configClient(ctx context.Context, address string) (*api.Client, error) {
	c, err := api.NewClient(cmp.Or(address, caddy.DefaultAdminListen))
	if err != nil {
		return nil, Error(http.StatusInternalServerError, "%w", err)
	}
	switch other, err := c.Process(ctx); {
	case err != nil:
		return nil, Error(http.StatusBadGateway, "capacities are changed through Caddy's admin API, and that does not answer: %w", err)
	case other != process:
		return nil, Error(http.StatusBadGateway, "the admin API at %s is that of another Caddy: name this one's with the option admin of jobrunner_dashboard",
			cmp.Or(address, caddy.DefaultAdminListen))
	}
	return c, nil
}

// configured is what the configuration says of a channel's capacity.
type configured struct {
	Capacity    *int `json:"capacity"`
	Percent     int  `json:"percent"`
	Auto        bool `json:"auto"`
	OCACapacity *int `json:"oca_capacity"`
	Sequential  bool `json:"sequential"`
}

// fixed says why the capacity is not simply a number, or nothing.
func (c *configured) fixed() string {
	switch {
	case c.Sequential:
		return "is sequential: its jobs run one by one"
	case c.Percent != 0:
		return fmt.Sprintf("has %d %% of the channel above it", c.Percent)
	case c.Auto:
		return "has as many slots as the servers bear"
	case c.OCACapacity != nil:
		return "has a capacity that only OCA's runner understands as it is"
	}
	return ""
}

func setCapacity(ctx context.Context, c *api.Client, name string, req *api.CapacityRequest) (a api.CapacityAnswer, err error) {
	raw, tag, err := c.Config(ctx, api.ConfigPath("apps", "jobrunner", "runners", name))
	if err != nil {
		return a, configFailure(err)
	}
	var doc struct {
		Channels map[string]*configured `json:"channels"`
		Own      json.RawMessage        `json:"database_channels"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return a, Error(http.StatusBadGateway, "the configuration of runner %s cannot be read: %w", name, err)
	}
	if doc.Own != nil {
		return a, Error(http.StatusConflict, "the channels are those of the databases: change them in Odoo")
	}
	key, ch := findChannel(doc.Channels, req.Channel)
	wanted := channels.Normalize(req.Channel)
	switch {
	case ch == nil:
		return a, Error(http.StatusConflict, "Caddy's configuration does not name channel %s: add it there first, as in: channel %s %d", api.Printable(wanted), api.Printable(wanted), req.Capacity)
	case ch.fixed() != "":
		return a, Error(http.StatusConflict, "channel %s %s", wanted, ch.fixed())
	}
	a = api.CapacityAnswer{
		Runner: name, Channel: wanted, Before: 1, After: req.Capacity, Line: fmt.Sprintf("channel %s %d", wanted, req.Capacity),
		Path: api.ConfigPath("apps", "jobrunner", "runners", name, "channels", key, "capacity"),
	}
	if ch.Capacity != nil {
		a.Before = *ch.Capacity
	}
	if req.DryRun {
		return a, nil
	}
	return a, configFailure(c.SetConfig(ctx, a.Path, tag, ch.Capacity == nil, req.Capacity))
}

// findChannel returns the channel that is meant, with the name that the configuration has for it. One with
// a slash has no path.
func findChannel(all map[string]*configured, name string) (string, *configured) {
	for key, ch := range all {
		if ch != nil && channels.Normalize(key) == channels.Normalize(name) && !strings.Contains(key, "/") {
			return key, ch
		}
	}
	return "", nil
}

// configFailure turns what Caddy says of a configuration into the answer to who wanted it.
func configFailure(err error) error {
	refused, ok := errors.AsType[*api.Error](err)
	switch {
	case err == nil:
		return nil
	case ok && refused.Status == http.StatusPreconditionFailed:
		return Error(http.StatusConflict, "the configuration has just been changed by another, try again")
	case ok:
		return Error(http.StatusConflict, "Caddy refuses the configuration, and nothing was changed: %w", err)
	}
	return Error(http.StatusBadGateway, "Caddy's admin API: %w", err)
}
