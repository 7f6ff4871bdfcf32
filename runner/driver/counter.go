package driver

import (
	"context"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// CountLimit bounds the jobs that [Counter] counts.
const CountLimit = 1_000_000

// Counter is implemented by sessions that can count the jobs of a database that cannot be served, so
// that people learn how many wait there. It is optional, and needs no declaration.
type Counter interface {
	// Count counts the jobs of the database by state, whatever their channels, by one query whose
	// cost is bounded: of more than [CountLimit] it counts so many. It is called after a
	// [Session.Fingerprint] that has named a generation.
	Count(ctx context.Context) (channels.Count, error)
}
