package api

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMistyped: what is wrong with a value is said as people do, for each kind of it.
func TestMistyped(t *testing.T) {
	type inner struct {
		N int
	}
	var into struct {
		Text  string           `json:"text"`
		Flag  bool             `json:"flag"`
		Whole int32            `json:"whole"`
		Part  float64          `json:"part"`
		List  []string         `json:"list"`
		Map   map[string]inner `json:"map"`
	}
	for doc, want := range map[string]string{
		`{"text": 4}`:                 "text: a number where a text belongs",
		`{"flag": "yes"}`:             "flag: a text where true or false belongs",
		`{"whole": "4"}`:              "whole: a text where a whole number belongs",
		`{"whole": 1.5}`:              "whole: 1.5 is not a whole number",
		`{"whole": 99999999999}`:      "whole: 99999999999 is out of range",
		`{"part": true}`:              "part: true or false where a number belongs",
		`{"list": {}}`:                "list: an object where a list belongs",
		`{"map": []}`:                 "map: a list where an object belongs",
		`{"map": {"one": {"N": ""}}}`: "map.N: a text where a whole number belongs",
		`[]`:                          "a list where an object belongs",
	} {
		require.EqualError(t, Mistyped(json.Unmarshal([]byte(doc), &into)), want, doc)
	}
	require.NoError(t, Mistyped(nil))
	other := errors.New("other")
	require.Equal(t, other, Mistyped(other))
}
