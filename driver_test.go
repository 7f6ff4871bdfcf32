package jobrunner_test

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
)

func init() {
	caddy.RegisterModule(TryDriver{})
}

// TryDriver is a driver from elsewhere: it speaks to a fork of Odoo, which differs
// in the User-Agent that it lets pass. It embeds Odoo's driver itself and so has all
// its optional abilities. A driver that has nothing in common with Odoo implements
// [driver.Driver].
type TryDriver struct {
	*odoo.Driver `json:"-"`

	Agent string `json:"agent,omitempty"`
}

func (TryDriver) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "jobrunner.drivers.try",
		New: func() caddy.Module { return new(TryDriver) },
	}
}

func (d *TryDriver) Provision(caddy.Context) error {
	d.Driver = odoo.New(odoo.Options{UserAgent: d.Agent})
	return nil
}

func (d *TryDriver) UnmarshalCaddyfile(disp *caddyfile.Dispenser) error {
	disp.Next() // the driver's name
	if !disp.NextArg() {
		return disp.ArgErr()
	}
	d.Agent = disp.Val()
	return nil
}

// A third party adds a driver by compiling one more Caddy module in, in the
// namespace jobrunner.drivers.
func Example_driver() {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`{
	jobrunner {
		postgres host=127.0.0.1
		upstream http://127.0.0.1:8069
		driver try my-agent
	}
}
`), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(config))

	var cfg *caddy.Config
	if err := json.Unmarshal(config, &cfg); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(caddy.Validate(cfg))
	// Output:
	// {"apps":{"jobrunner":{"runners":{"default":{"postgres":"host=127.0.0.1","upstreams":["http://127.0.0.1:8069"],"driver":{"agent":"my-agent","driver":"try"}}}}}}
	// <nil>
}
