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

// setbacksLimit bounds the document in bytes. The runner bounds what it stores well below that.
const setbacksLimit = 16 << 20

// setbacks keeps what a runner's quarantine counts in Caddy's storage, where the next leader finds it
// if it shares that.
type setbacks struct {
	storage certmagic.Storage
	key     string
}

var _ runner.SetbackStore = (*setbacks)(nil)

func newSetbacks(name string, storage certmagic.Storage) *setbacks {
	return &setbacks{storage: storage, key: "jobrunner/" + name + "/setbacks.json"}
}

// LoadSetbacks implements [runner.SetbackStore].
func (s *setbacks) LoadSetbacks(ctx context.Context) ([]runner.Setback, error) {
	raw, err := bounded(ctx, func(ctx context.Context) ([]byte, error) { return s.storage.Load(ctx, s.key) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []runner.Setback
	switch {
	case err != nil:
	case len(raw) > setbacksLimit:
		err = fmt.Errorf("%d bytes are too many", len(raw))
	default:
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.key, err)
	}
	return list, nil
}

// StoreSetbacks implements [runner.SetbackStore].
func (s *setbacks) StoreSetbacks(ctx context.Context, list []runner.Setback) error {
	raw, err := json.Marshal(list)
	if err == nil {
		_, err = bounded(ctx, func(ctx context.Context) ([]byte, error) { return nil, s.storage.Store(ctx, s.key, raw) })
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", s.key, err)
	}
	return nil
}
