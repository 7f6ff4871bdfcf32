package runner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// TestStartedJobsAreCounted: who looks at many jobs that are enqueued and none that is started takes
// Odoo for dead. What Odoo has begun counts as started while its request is open.
func TestStartedJobsAreCounted(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		r := b.start(b.config("root:2"))
		b.jobs("prod", "", "job", 3)
		b.settle(10 * time.Second)
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		db := st.Databases[0]
		require.Equal(b, []int{1, 0, 2}, []int{db.Pending, db.Enqueued, db.Started})
		b.settle(3 * time.Minute)
		st, err = r.Status(b.Context())
		require.NoError(b, err)
		db = st.Databases[0]
		require.Zero(b, db.Pending+db.Enqueued+db.Started)
	})
}
