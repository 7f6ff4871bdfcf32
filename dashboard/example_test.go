package dashboard_test

import (
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/dashboard"
)

func ExampleHandler_UnmarshalCaddyfile() {
	var h dashboard.Handler
	err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`jobrunner_dashboard /ops/jobs {
	actions
}`))
	fmt.Println(h.Path, h.Actions, err)
	// Output: /ops/jobs true <nil>
}
