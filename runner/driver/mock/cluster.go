package mock

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// cluster implements [driver.Cluster].
type cluster struct {
	w    *World
	pid  uint32
	lost bool
}

// lose ends the connection from the server's side, with the mutex held.
func (c *cluster) lose() {
	c.lost = true
	delete(c.w.clusters, c)
	maps.DeleteFunc(c.w.leaders, func(_ int64, leader *cluster) bool { return leader == c })
}

// reach says why a statement cannot be run, with the mutex held.
func (c *cluster) reach(ctx context.Context, method string) error {
	c.w.checkDeadline(ctx, method)
	if !c.lost && ctx.Err() != nil {
		c.lose()
	}
	if c.lost {
		return fmt.Errorf("%s: %w", strings.ToLower(method), driver.ErrLost)
	}
	return nil
}

func (c *cluster) Databases(ctx context.Context, patterns []string) (list []driver.Database, err error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if err := c.reach(ctx, "Databases"); err != nil {
		return nil, err
	}
	match, err := postgres.Patterns(patterns)
	if err != nil {
		return nil, err
	}
	for name, db := range c.w.databases {
		if match(name) {
			list = append(list, driver.Database{Name: name, OID: db.oid})
		}
	}
	slices.SortFunc(list, func(a, b driver.Database) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// Warnings implements [driver.Adviser] with what [World.SetWarnings] has set.
func (c *cluster) Warnings(ctx context.Context) ([]string, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.warnings, c.reach(ctx, "Warnings")
}

func (c *cluster) Busy(ctx context.Context) ([]string, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if err := c.reach(ctx, "Busy"); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(c.w.busy)), nil
}

func (c *cluster) Lead(ctx context.Context, key int64) (driver.Lock, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if err := c.reach(ctx, "Lead"); err != nil {
		return driver.Lock{}, err
	}
	if holder := c.w.foreign[key]; holder != "" {
		return driver.Lock{Holder: holder}, nil
	}
	if leader := c.w.leaders[key]; leader != nil && leader != c {
		return driver.Lock{Holder: fmt.Sprintf("pid %d, application mock", leader.pid)}, nil
	}
	c.w.leaders[key] = c
	return driver.Lock{Held: true}, nil
}

func (c *cluster) Unlead(ctx context.Context, key int64) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if err := c.reach(ctx, "Unlead"); err != nil {
		return err
	}
	if c.w.leaders[key] == c {
		delete(c.w.leaders, key)
	}
	return nil
}

func (c *cluster) Close(context.Context) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.lose()
	return nil
}
