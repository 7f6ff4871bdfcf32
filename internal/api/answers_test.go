package api_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// TestAnswersKeepTheirOrder: clients that compare texts see the fields of an answer
// sorted by their names.
func TestAnswersKeepTheirOrder(t *testing.T) {
	some := []string{"a"}
	for _, doc := range []any{
		api.JobPage{Next: "n", Problems: some},
		api.Readiness{Problems: some},
		api.OrderAnswer{Runner: "r", Warning: "w"},
		api.ChangeAnswer{Runner: "r", Problems: some},
		api.JobKey{},
		api.ResyncAnswer{},
	} {
		raw, err := json.Marshal(doc)
		require.NoError(t, err)
		var fields map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &fields))
		sorted, err := json.Marshal(fields)
		require.NoError(t, err)
		require.Equal(t, string(sorted), string(raw))
	}
}
