package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// channelOptions tells of options of channels that do nothing, because they are not known.
func (e *examination) channelOptions() {
	for _, name := range slices.Sorted(maps.Keys(e.subject.Ignored)) {
		for _, option := range e.subject.Ignored[name] {
			e.add(foundIgnored, "the option %q of channel %s is not known and does nothing: correct or remove it; "+
				"sequential, throttle, paused, capacity_default and sequential_default are known", option, name)
		}
	}
}

// databaseChannels checks the channels of a database that has its own channel tree.
func (e *examination) databaseChannels(ctx context.Context, name string) {
	bounds := e.subject.Config.DatabaseChannels
	if bounds == nil {
		return
	}
	cfgs, err := e.readChannels(ctx, name)
	if err == nil {
		forest := channels.NewForest()
		forest.ConfigureDatabases(*bounds)
		err = forest.ConfigureDatabase(name, cfgs)
	}
	switch {
	case err != nil:
		e.add(foundBadChannels, "its jobs would wait because its channels cannot be used: %s", err).Database = name
	case bounds.Of(name) <= 0:
		e.add(foundStopped, "its jobs would wait: its db_max_capacity, or without one max_capacity, is 0").Database = name
	default:
		e.add(foundChannels, "it has its own channels, below a capacity of %d", bounds.Of(name)).Database = name
	}
}

func (e *examination) readChannels(ctx context.Context, name string) ([]channels.Config, error) {
	cfg := e.subject.Config
	s, err := cfg.Driver.OpenSession(ctx, cfg.Postgres, name)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer s.Close(ctx)
	reader, ok := s.(driver.ChannelReader)
	if !ok {
		return nil, errors.New("the driver knows of no channels in databases")
	}
	if _, err := s.Fingerprint(ctx); err != nil {
		return nil, fmt.Errorf("examine: %w", err)
	}
	return reader.Channels(ctx)
}
