package supervisor

import (
	"context"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// setbacksLimit bounds the document in bytes. The runner bounds what it stores well below that.
const setbacksLimit = 16 << 20

// setbacks keeps what a runner's quarantine counts.
type setbacks struct{ stored[runner.Setback] }

var _ runner.SetbackStore = (*setbacks)(nil)

func newSetbacks(name string, storage certmagic.Storage) *setbacks {
	return &setbacks{newStored[runner.Setback](name, "setbacks.json", storage, setbacksLimit)}
}

// LoadSetbacks implements [runner.SetbackStore].
func (s *setbacks) LoadSetbacks(ctx context.Context) ([]runner.Setback, error) { return s.load(ctx) }

// StoreSetbacks implements [runner.SetbackStore].
func (s *setbacks) StoreSetbacks(ctx context.Context, list []runner.Setback) error {
	return s.store(ctx, list)
}
