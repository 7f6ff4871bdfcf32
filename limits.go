package jobrunner

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// The least that the durations of a configuration may be. What is shorter is a mistake, mostly a
// number in JSON, which counts nanoseconds.
const (
	leastDiscoverInterval   = 500 * time.Millisecond
	leastRescueStartedAfter = time.Second
	leastShutdownTimeout    = time.Millisecond
	leastThrottle           = time.Millisecond
)

// checkDuration refuses a duration that is neither 0 nor at least as long as it may be.
func checkDuration(option string, d caddy.Duration, least time.Duration) error {
	switch {
	case d < 0:
		return fmt.Errorf("%s must not be negative", option)
	case d > 0 && time.Duration(d) < least:
		return fmt.Errorf("%s: %s is too short, it must be at least %s; write it with a unit, such as \"30s\", because a bare number counts nanoseconds in JSON",
			option, time.Duration(d), least)
	}
	return nil
}

// checkDurations refuses what no duration of the runner may be. Zero means the default.
func (r *Runner) checkDurations() error {
	shutdown := caddy.Duration(0)
	if r.ShutdownTimeout != nil {
		shutdown = *r.ShutdownTimeout
	}
	return errors.Join(
		checkDuration("discover_interval", r.DiscoverInterval, leastDiscoverInterval),
		checkDuration("rescue_started_after", r.RescueStartedAfter, leastRescueStartedAfter),
		r.Hibernate.check(),
		r.Pooler.check(),
		checkDuration("shutdown_timeout", shutdown, leastShutdownTimeout),
	)
}

// check refuses what a channel may not be, however it was configured.
func (c *Channel) check(name string) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("channel %s: %w", channels.Normalize(name), fmt.Errorf(format, args...))
	}
	if err := checkChannelName(name); err != nil {
		return err
	}
	if c.Capacity != nil {
		if c.OCACapacity != nil {
			return fail("capacity and oca_capacity exclude each other")
		}
		if err := checkCapacity(*c.Capacity); err != nil {
			return fail("%w", err)
		}
	}
	switch {
	case c.Auto && (c.Capacity != nil || c.OCACapacity != nil || c.Percent != 0):
		return fail("capacity, percent and auto exclude each other")
	case c.Percent != 0 && (c.Capacity != nil || c.OCACapacity != nil):
		return fail("capacity and percent exclude each other")
	case c.OCACapacity != nil && *c.OCACapacity > 0:
		return fail("oca_capacity %d: it is only for what a capacity of 0 or less means to OCA's runner; use capacity", *c.OCACapacity)
	case c.CapacityDefault < 0:
		return fail("invalid capacity_default %d: it must be at least 1; leave it out for no limit", c.CapacityDefault)
	case c.OCACapacityDefault > 0:
		return fail("oca_capacity_default %d: it is only for what a negative capacity_default means to OCA's runner; use capacity_default", c.OCACapacityDefault)
	case c.OCACapacityDefault < 0 && c.CapacityDefault != 0:
		return fail("capacity_default and oca_capacity_default exclude each other")
	}
	if err := checkDuration("throttle", c.Throttle, leastThrottle); err != nil {
		return fail("%w", err)
	}
	return c.config(name).Validate()
}

// checkCapacity refuses what 0 and negative numbers mean to OCA's runner: that is hardly what a reader
// expects.
func checkCapacity(n int) error {
	if n < 1 {
		return fmt.Errorf("invalid capacity %d: it must be at least 1; leave the channel out for no limit, or use paused to stop it", n)
	}
	return nil
}

// checkChannelName refuses names that cannot be written in a configuration string of OCA's, and those
// that do not look like what they are.
func checkChannelName(name string) error {
	if strings.TrimSpace(name) == "" || strings.ContainsAny(name, ",:") {
		return fmt.Errorf("invalid channel name %q", name)
	}
	return checkText("channel name", name)
}

// checkText refuses control characters, and those that change the direction of what follows or cannot
// be seen: a text with them looks like another one in tables and logs.
func checkText(what, s string) error {
	if i := strings.IndexFunc(s, deceptive); i >= 0 {
		return fmt.Errorf("invalid %s %q: it contains a control character or one that cannot be seen", what, s)
	}
	return nil
}

// deceptive reports whether a character is a control or format character (Unicode's Cc and Cf, which
// has those that change the direction), a line or paragraph separator, or broken UTF-8.
func deceptive(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar
}

// checkFileLimit compares the jobs that may run at once with the files that the process may have open:
// each running job is a connection, and without one to spare no site answers any more.
func checkFileLimit(capacity int, log *zap.Logger) error {
	files := filesFor(capacity)
	switch limit := files.Limit; {
	case limit == 0:
	case capacity >= limit:
		return fmt.Errorf("up to %d jobs may run at once, each with a connection, and the process may have only %d files open: lower the capacity of root, or raise the limit (LimitNOFILE)", capacity, limit)
	case files.Scarce():
		log.Warn("running jobs may take more than half of the files that the process may have open, which the sites need too: lower the capacity of root, or raise the limit (LimitNOFILE)",
			zap.Int("capacity", capacity), zap.Int("limit", limit))
	}
	return nil
}

// filesFor is what is known of the files that so many jobs, and the rest of Caddy, need.
func filesFor(jobs int) doctor.Files {
	limit, _ := fileLimit()
	return doctor.Files{Jobs: jobs, Limit: limit}
}

// mostJobs is how many jobs may run at once; 0 if there is no limit.
func mostJobs(cfg runner.Config) int {
	if cfg.DatabaseChannels != nil {
		return cfg.DatabaseChannels.Max
	}
	for _, c := range cfg.Channels {
		if channels.Normalize(c.Name) == "root" {
			return max(c.Capacity, 0)
		}
	}
	return 1
}
