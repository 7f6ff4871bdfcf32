package supervisor

import (
	"context"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// handover keeps what a runner's leader runs.
type handover struct{ stored[runner.Slots] }

var _ runner.Handover = (*handover)(nil)

func newHandover(name string, storage certmagic.Storage) *handover {
	return &handover{newStored[runner.Slots](name, "running.json", storage, 0)}
}

// Load implements [runner.Handover].
func (h *handover) Load(ctx context.Context) ([]runner.Slots, error) { return h.load(ctx) }

// Store implements [runner.Handover].
func (h *handover) Store(ctx context.Context, slots []runner.Slots) error { return h.store(ctx, slots) }
