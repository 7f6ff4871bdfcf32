package site

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Address is the address for people of the site whose proxy [OfProxy] takes, without a path; its host may be a
// wildcard. It is empty if there is none.
func Address(ctx caddy.Context, address string) string {
	mod, err := ctx.AppIfConfigured("http")
	if err != nil {
		return ""
	}
	app, ok := mod.(*caddyhttp.App)
	if !ok {
		return ""
	}
	found, err := findProxy(app, address)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(found.url, runjobPath)
}
