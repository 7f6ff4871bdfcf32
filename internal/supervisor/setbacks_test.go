package supervisor

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

func TestSetbacks(t *testing.T) {
	m := &memory{}
	s := newSetbacks("default", m)
	list, err := s.LoadSetbacks(t.Context())
	require.NoError(t, err)
	require.Empty(t, list, "nothing has been stored")

	want := []runner.Setback{{
		Database: "prod", UUID: "a", At: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC), Ran: time.Second,
		Upstream: "odoo1", Cause: "it died", Retry: 1, Shared: true,
	}}
	require.NoError(t, s.StoreSetbacks(t.Context(), want))
	require.JSONEq(t, `[{"database": "prod", "uuid": "a", "at": "2026-11-26T12:00:00Z", "ran": 1000000000,
		"upstream": "odoo1", "cause": "it died", "retry": 1, "shared": true}]`, m.text())
	list, err = s.LoadSetbacks(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, list)

	m.doc = []byte("not JSON")
	_, err = s.LoadSetbacks(t.Context())
	require.ErrorContains(t, err, "jobrunner/default/setbacks.json")
	m.doc = append([]byte("[]"), bytes.Repeat([]byte(" "), setbacksLimit-2)...)
	_, err = s.LoadSetbacks(t.Context())
	require.NoError(t, err, "as many bytes as may be")
	m.doc = bytes.Repeat([]byte(" "), setbacksLimit+1)
	_, err = s.LoadSetbacks(t.Context())
	require.ErrorContains(t, err, "bytes are too many")
	m.err = errors.New("the storage is away")
	_, err = s.LoadSetbacks(t.Context())
	require.ErrorIs(t, err, m.err)
	require.ErrorIs(t, s.StoreSetbacks(t.Context(), want), m.err)
}
