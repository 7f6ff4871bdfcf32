package jobrunner

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
)

func init() {
	caddy.RegisterModule(OdooDriver{})
}

// OdooDriver runs the jobs of Odoo's `queue_job`, 10.0 to 19.0, and of its ancestor
// `connector`, 7.0 to 9.0. Which variant a database has is found out, not
// configured.
//
//	{
//		"driver": "odoo",
//		"host": "{database}.example.com",
//		"basic_auth": {"user": "jobrunner", "password": "{env.RUNJOB_PASSWORD}"}
//	}
type OdooDriver struct {
	*odoo.Driver `json:"-"`
	options      odoo.Options
	// maintenance is the database of the maintenance connection if the role may not
	// enter the default one; empty for none.
	maintenance string

	// The Host header of a job's request, for Odoo servers that choose the
	// database by host name (`dbfilter`). `{database}` stands for the name of the
	// job's database, other placeholders are resolved when the configuration is
	// loaded. Default: the host of the site, or the address of the upstream.
	Host string `json:"host,omitempty"`

	// User and password for Odoo servers behind HTTP basic authentication.
	// Default: none.
	BasicAuth *BasicAuth `json:"basic_auth,omitempty"`

	// Runs the jobs of neutralized databases too. Odoo 16.0 and later neutralize
	// copies for trials: no mail, no scheduled actions, no payments leave them. The
	// jobs that came with such a copy would do all that, so they are left alone.
	// Default: false.
	RunNeutralized bool `json:"run_neutralized,omitempty"`
}

// BasicAuth has the user and the password for HTTP basic authentication.
type BasicAuth struct {
	// The user. Placeholders are resolved.
	User string `json:"user"`

	// The password, usually a placeholder such as `{env.RUNJOB_PASSWORD}`.
	Password string `json:"password"`
}

// CaddyModule returns the Caddy module information.
func (OdooDriver) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "jobrunner.drivers.odoo",
		New: func() caddy.Module { return new(OdooDriver) },
	}
}

// Provision resolves the options.
func (d *OdooDriver) Provision(ctx caddy.Context) error {
	repl := caddy.NewReplacer()
	repl.Set("database", "{database}")
	host, err := repl.ReplaceOrErr(d.Host, true, true)
	if err != nil {
		return fmt.Errorf("host: %w", err)
	}
	d.options.HostTemplate = host
	opts := &d.options
	opts.RunNeutralized = d.RunNeutralized
	if d.BasicAuth != nil {
		if opts.BasicAuthUser, err = resolve("basic_auth user", d.BasicAuth.User); err != nil {
			return err
		}
		if opts.BasicAuthPassword, err = resolve("basic_auth password", d.BasicAuth.Password); err != nil {
			return err
		}
		if opts.BasicAuthUser == "" {
			return errors.New("basic_auth needs a user")
		}
		if literal(d.BasicAuth.Password) {
			ctx.Logger().Warn("the password of basic_auth is written out, so everyone who reaches the admin API can read it; use {file.*} or {env.*}")
		}
	}
	d.build()
	return nil
}

// build makes the driver of the resolved options.
func (d *OdooDriver) build() { d.Driver = odoo.New(d.options) }

// OpenCluster implements [driver.Driver].
func (d *OdooDriver) OpenCluster(ctx context.Context, pg *pgx.ConnConfig) (driver.Cluster, error) {
	c, err := d.Driver.OpenCluster(ctx, pg)
	if err == nil || d.maintenance == "" || !shutOut(err) {
		return c, err
	}
	other := pg.Copy()
	other.Database = d.maintenance
	if c, failed := d.Driver.OpenCluster(ctx, other); failed == nil {
		return c, nil
	}
	return nil, err
}

// shutOut reports whether a server refused a connection because of its database: no CONNECT, no line
// in pg_hba.conf, or no such database.
func shutOut(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && slices.Contains([]string{"42501", "28000", "3D000"}, refused.Code)
}

// UnmarshalCaddyfile reads the options of the driver:
//
//	odoo {
//		host       <template>
//		basic_auth <user> <password>
//		run_neutralized
//	}
func (d *OdooDriver) UnmarshalCaddyfile(disp *caddyfile.Dispenser) error {
	disp.Next() // the driver's name
	if disp.NextArg() {
		return wrongArguments(disp, "driver")
	}
	return parseOptions(disp, "driver odoo", "driver odoo", odooOptions, d)
}

// odooOptions are the options of the driver's block. A parser starts at the option's name.
var odooOptions = map[string]func(*OdooDriver, *caddyfile.Dispenser) error{
	"host": func(o *OdooDriver, d *caddyfile.Dispenser) error {
		if !d.AllArgs(&o.Host) {
			return wrongArguments(d, "host")
		}
		return nil
	},
	"basic_auth": func(o *OdooDriver, d *caddyfile.Dispenser) error {
		o.BasicAuth = new(BasicAuth)
		if !d.AllArgs(&o.BasicAuth.User, &o.BasicAuth.Password) {
			return wrongArguments(d, "basic_auth")
		}
		return nil
	},
	"run_neutralized": func(o *OdooDriver, d *caddyfile.Dispenser) error { return parseFlag(d, &o.RunNeutralized) },
}

// Interface guards.
var (
	_ driver.Driver         = (*OdooDriver)(nil)
	_ driver.Operator       = (*OdooDriver)(nil)
	_ caddy.Provisioner     = (*OdooDriver)(nil)
	_ caddyfile.Unmarshaler = (*OdooDriver)(nil)
)
