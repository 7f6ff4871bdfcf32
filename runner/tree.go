package runner

import (
	"fmt"
	"slices"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// Tree returns a channel tree as a runner with a configuration has it, without jobs, to try what it would do
// with some. own are the channels of each database, where each has its own; auto is the capacity of a root
// channel that follows the servers. Pools are left out: all jobs may run anywhere. It fails if the channels
// contradict each other.
func Tree(cfg Config, own map[string][]channels.Config, auto int) (*channels.Forest, error) {
	tree := channels.NewForest()
	if cfg.DatabaseChannels != nil {
		tree.ConfigureDatabases(*cfg.DatabaseChannels)
		for db, cfgs := range own {
			if err := tree.ConfigureDatabase(db, cfgs); err != nil {
				return nil, fmt.Errorf("database %s: %w", db, err)
			}
		}
	} else {
		cfgs := slices.Clone(cfg.Channels)
		for i := range cfgs {
			if cfgs[i].Auto {
				cfgs[i].Capacity = max(auto, 1)
			}
		}
		if err := tree.Configure(cfgs); err != nil {
			return nil, fmt.Errorf("channels: %w", err)
		}
	}
	tree.Govern(channelRules(cfg.Policies))
	list := policy.Shares(cfg.Policies)
	for i := range list {
		list[i].Pool = nil
	}
	tree.SetShares(channelShares(list))
	return tree, nil
}
