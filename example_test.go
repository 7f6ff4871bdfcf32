package jobrunner

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// The least that a site needs. The Odoo servers are those of the reverse_proxy.
func Example() {
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`{
	jobrunner {
		postgres postgres://odoo@db.internal:5432/postgres?sslmode=verify-full
		postgres_password {file./run/secrets/odoo_db}
		channels root:4,root.mail:2
	}
}

odoo.example.com {
	jobrunner_guard
	reverse_proxy 10.0.0.5:8069
}
`), nil)
	if err != nil || len(warnings) > 0 {
		fmt.Println(err, warnings)
		return
	}
	var cfg struct {
		Apps struct{ Jobrunner json.RawMessage }
	}
	if err := json.Unmarshal(config, &cfg); err != nil {
		fmt.Println(err)
		return
	}
	var out bytes.Buffer
	if err := json.Indent(&out, cfg.Apps.Jobrunner, "", "  "); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(out.String())
	// Output:
	// {
	//   "runners": {
	//     "default": {
	//       "postgres": "postgres://odoo@db.internal:5432/postgres?sslmode=verify-full",
	//       "postgres_password": "{file./run/secrets/odoo_db}",
	//       "channels": {
	//         "root": {
	//           "capacity": 4
	//         },
	//         "root.mail": {
	//           "capacity": 2
	//         }
	//       }
	//     }
	//   }
	// }
}
