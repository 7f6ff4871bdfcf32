package runner

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRepairsAreBounded: what is remembered of a snapshot does not grow with the database.
func TestRepairsAreBounded(t *testing.T) {
	t.Parallel()
	var db database
	for i := range repairsLimit + 10 {
		db.repair(strconv.Itoa(i))
	}
	require.Len(t, db.repairs, repairsLimit)
}
