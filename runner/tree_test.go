package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// next puts pending jobs into a channel of a tree, and returns how many of all may start.
func next(tree *channels.Forest, channel string, jobs int) int {
	for i := range jobs {
		key := channels.Key{DB: "prod", UUID: channel + string(rune('a'+i))}
		tree.Set(channels.Job{Key: key, Channel: channel}, channels.Pending)
	}
	return len(tree.Next(time.Now(), 100))
}

// A tree to try something with has the channels and the policies of the configuration, which stays
// as it is, but no pools.
func TestTree(t *testing.T) {
	t.Parallel()
	for auto, capacity := range map[int]int{0: 1, 5: 5} {
		cfg := Config{Channels: []channels.Config{{Name: "root", Auto: true}, {Name: "mail", Capacity: 2}}}
		tree, err := Tree(cfg, nil, auto)
		require.NoError(t, err)
		require.Zero(t, cfg.Channels[0].Capacity)
		require.Equal(t, capacity, next(tree, "", 9))
		st, ok := tree.Channel("prod", "root.mail")
		require.True(t, ok)
		require.Equal(t, 2, st.Capacity)
	}
	_, err := Tree(Config{Channels: []channels.Config{{Name: "root", Capacity: 2, Sequential: true}}}, nil, 0)
	require.ErrorContains(t, err, "channels: channel root: a sequential channel must have a capacity of 1")

	cfg := Config{
		Channels: []channels.Config{{Name: "root", Capacity: 9}},
		Policies: []policy.Policy{
			{Channels: []string{"root.few"}, Limit: &policy.Limit{Jobs: 2, Per: policy.PerDatabase}},
			{Channels: []string{"root.slow"}, Rate: &channels.Rate{Starts: 1, Period: time.Hour, Burst: 1}},
			{Channels: []string{"root.heavy"}, Pool: &policy.Pool{Pool: "heavy"}},
		},
	}
	for channel, want := range map[string]int{"root.few": 2, "root.slow": 0, "root.heavy": 4} {
		tree, err := Tree(cfg, nil, 0)
		require.NoError(t, err)
		require.Equal(t, want, next(tree, channel, 4), channel)
	}
	require.NotNil(t, cfg.Policies[2].Pool)
}

// Where each database has its own tree, those are taken that are configured in it.
func TestTreesOfDatabases(t *testing.T) {
	t.Parallel()
	cfg := Config{DatabaseChannels: &channels.Capacities{Max: 7}}
	tree, err := Tree(cfg, map[string][]channels.Config{"prod": {{Name: "root", Capacity: 5}, {Name: "root.mail", Capacity: 3}}}, 0)
	require.NoError(t, err)
	require.Equal(t, 3, next(tree, "root.mail", 9))
	require.Equal(t, 2, next(tree, "root", 9))
	_, err = Tree(cfg, map[string][]channels.Config{"prod": {{Name: "root.mail", Capacity: 2, Sequential: true}}}, 0)
	require.ErrorContains(t, err, "database prod: channel root.mail: a sequential channel must have a capacity of 1")
}
