package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// handover keeps what a runner's leader runs in Caddy's storage, where the next leader finds it if it
// shares that.
type handover struct {
	storage certmagic.Storage
	key     string
}

var _ runner.Handover = (*handover)(nil)

func newHandover(name string, storage certmagic.Storage) *handover {
	return &handover{storage: storage, key: "jobrunner/" + name + "/running.json"}
}

// Load implements [runner.Handover].
func (h *handover) Load(ctx context.Context) ([]runner.Slots, error) {
	raw, err := bounded(ctx, func(ctx context.Context) ([]byte, error) { return h.storage.Load(ctx, h.key) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var slots []runner.Slots
	if err == nil {
		err = json.Unmarshal(raw, &slots)
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", h.key, err)
	}
	return slots, nil
}

// Store implements [runner.Handover].
func (h *handover) Store(ctx context.Context, slots []runner.Slots) error {
	raw, err := json.Marshal(slots)
	if err == nil {
		_, err = bounded(ctx, func(ctx context.Context) ([]byte, error) { return nil, h.storage.Store(ctx, h.key, raw) })
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", h.key, err)
	}
	return nil
}
