package command

import (
	"context"
	"slices"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// completeTimeout bounds the question behind a press of the tab key.
const completeTimeout = 2 * time.Second

// completion lists what a shell may offer; nothing where Caddy does not answer.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// offer asks the Caddy that runs for names.
func offer(names func(ctx context.Context, c *api.Client, runner string) []string) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		const nothing = cobra.ShellCompDirectiveNoFileComp
		c, err := newCall(cmd, caddycmd.Flags{FlagSet: cmd.Flags()}, args)
		if err != nil {
			return nil, nothing
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
		defer cancel()
		return names(ctx, c.quiet, c.runner), nothing
	}
}

func databaseNames(ctx context.Context, c *api.Client, runner string) (names []string) {
	doc, _ := c.Databases(ctx, api.ListQuery{Runner: runner}) // without an answer there is nothing to offer
	for i := range doc.Databases {
		names = append(names, doc.Databases[i].Database)
	}
	return names
}

func channelNames(ctx context.Context, c *api.Client, runner string) (names []string) {
	doc, _ := c.Channels(ctx, api.ListQuery{Runner: runner}) // without an answer there is nothing to offer
	for i := range doc.Channels {
		names = append(names, doc.Channels[i].Channel)
	}
	slices.Sort(names)
	return slices.Compact(names) // with trees of their own, databases have the same ones
}

func serverNames(ctx context.Context, c *api.Client, runner string) (names []string) {
	list, _ := c.Upstreams(ctx, runner) // without an answer there is nothing to offer
	for i := range list {
		names = append(names, list[i].Upstream)
	}
	return names
}

func runnerNames(ctx context.Context, c *api.Client, _ string) (names []string) {
	list, _ := c.Status(ctx, "") // without an answer there is nothing to offer
	for i := range list {
		names = append(names, list[i].Runner)
	}
	return names
}

func eventNames(context.Context, *api.Client, string) []string { return api.EventKinds() }

// completeFlags lets the flags of a command be completed that have names as values.
func completeFlags(cmd *cobra.Command) {
	for flag, names := range map[string]func(context.Context, *api.Client, string) []string{
		"database": databaseNames, "channel": channelNames, "event": eventNames,
	} {
		if cmd.Flags().Lookup(flag) != nil {
			_ = cmd.RegisterFlagCompletionFunc(flag, offer(names)) // fails only for a flag that does not exist
		}
	}
}
