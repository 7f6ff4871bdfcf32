package doctor

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFiles: a finding from the number of jobs on that the log warns of, too.
func TestFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		files Files
		found int
	}{
		{Files{Jobs: 512, Limit: 1024}, 0},
		{Files{Jobs: 513, Limit: 1024}, 1},
		{Files{Jobs: 100000}, 0},
		{Files{Limit: 1024}, 0},
	} {
		e := &examination{subject: Subject{Files: test.files}}
		e.files()
		require.Len(t, e.found, test.found, "%+v", test.files)
		for _, f := range e.found {
			require.Equal(t, "file_limit", f.Code)
			require.Equal(t, Warning, f.Severity)
			require.Contains(t, f.Message, "up to 513 jobs run at once")
			require.Contains(t, f.Message, "may have 1024 files open")
		}
	}
}
