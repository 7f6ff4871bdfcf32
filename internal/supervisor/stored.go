package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/caddyserver/certmagic"
)

// stored is a list that a runner's leader keeps in Caddy's storage, where the next leader finds it if
// it shares that.
type stored[T any] struct {
	storage certmagic.Storage
	key     string
	// limit bounds the document in bytes; 0 is no bound.
	limit int
}

// newStored returns the list of a runner that is in a file of that name.
func newStored[T any](runner, file string, storage certmagic.Storage, limit int) stored[T] {
	return stored[T]{storage: storage, key: "jobrunner/" + runner + "/" + file, limit: limit}
}

// load reads the list; there is none before the first store.
func (s *stored[T]) load(ctx context.Context) ([]T, error) {
	raw, err := bounded(ctx, func(ctx context.Context) ([]byte, error) { return s.storage.Load(ctx, s.key) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []T
	switch {
	case err != nil:
	case s.limit > 0 && len(raw) > s.limit:
		err = fmt.Errorf("%d bytes are too many", len(raw))
	default:
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.key, err)
	}
	return list, nil
}

// store replaces the list.
func (s *stored[T]) store(ctx context.Context, list []T) error {
	raw, err := json.Marshal(list)
	if err == nil {
		_, err = bounded(ctx, func(ctx context.Context) ([]byte, error) { return nil, s.storage.Store(ctx, s.key, raw) })
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", s.key, err)
	}
	return nil
}
