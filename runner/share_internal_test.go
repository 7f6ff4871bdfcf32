package runner

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// Where a policy names a pool, all jobs have to pass a gate: those of its channels that of the pool, the
// others that of root.
func TestGatesOfChannels(t *testing.T) {
	t.Parallel()
	const others = "the servers that belong to no pool"
	pool := policy.Policy{Channels: []string{"root.export"}, Pool: &policy.Pool{Pool: "heavy"}}
	limit := policy.Policy{Channels: []string{"root"}, Limit: &policy.Limit{Jobs: 1, Per: policy.PerDatabase}}
	for _, c := range []struct {
		policies           []policy.Policy
		root, mail, export string
	}{
		{[]policy.Policy{limit}, "", "", ""},
		{[]policy.Policy{limit, pool}, others, "", "pool heavy"},
	} {
		s := channelShares(c.policies)
		require.Equal(t, c.root, s.Share("root", "prod").Gate)
		require.Equal(t, c.mail, s.Share("root.mail", "prod").Gate)
		require.Equal(t, c.export, s.Share("root.export", "prod").Gate)
	}
	require.Nil(t, channelShares(nil))
}

// Policies that tell jobs apart in another way have rows read anew where there is a session.
func TestSharesOfADatabaseWithoutASession(t *testing.T) {
	t.Parallel()
	e, _ := served()
	require.Nil(t, e.databases.get("lost").session)
	policies := []policy.Policy{{Channels: []string{"root"}, Serialize: policy.ByIdentityKey}}
	require.NotPanics(t, func() { e.databases.share(policies) })
	require.Equal(t, policies, e.databases.shares)
}
