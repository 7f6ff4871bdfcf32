package driver

import (
	"context"
	"errors"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// ChannelReader is implemented by sessions of applications that keep a configuration of channels in
// each database. It is optional, and declared by [Capabilities.DatabaseChannels].
type ChannelReader interface {
	// Channels reads the configuration. A capacity of 0 is unlimited. [Notifications.Reload] tells
	// when it has changed. An error for which [ErrChannels] holds is about the configuration, not
	// about the session.
	Channels(ctx context.Context) ([]channels.Config, error)
}

// ErrChannels is matched, with errors.Is, by the error of [ChannelReader] in a database that has no
// configuration that could be read.
var ErrChannels = errors.New("the channels of this database cannot be read")
