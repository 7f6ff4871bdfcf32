// Command caddy is Caddy with the jobrunner module compiled in, for people who do not want to build
// it with xcaddy.
package main

import (
	_ "time/tzdata"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-jobrunner/caddy-jobrunner"
)

func main() {
	caddycmd.Main()
}
