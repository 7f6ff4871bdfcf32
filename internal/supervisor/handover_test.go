package supervisor

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

func TestHandover(t *testing.T) {
	m := &memory{}
	h := newHandover("default", m)
	slots, err := h.Load(t.Context())
	require.NoError(t, err)
	require.Empty(t, slots, "nothing has been stored")

	want := []runner.Slots{{Database: "prod", Channel: "root.mail", Jobs: 2}}
	require.NoError(t, h.Store(t.Context(), want))
	require.JSONEq(t, `[{"database": "prod", "channel": "root.mail", "jobs": 2}]`, m.text())
	slots, err = h.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, slots)

	m.doc = []byte("not JSON")
	_, err = h.Load(t.Context())
	require.ErrorContains(t, err, "jobrunner/default/running.json")
	m.err = errors.New("the storage is away")
	_, err = h.Load(t.Context())
	require.ErrorIs(t, err, m.err)
	require.ErrorIs(t, h.Store(t.Context(), want), m.err)
}
