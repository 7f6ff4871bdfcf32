package jobrunner

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// withOdooConfig returns the runner with what its odoo_config says in all the
// places that it leaves open itself, and what the file says. Nothing of that gets
// into the configuration that Caddy shows. Without odoo_config it is the runner
// itself, and nil.
func (r *Runner) withOdooConfig(log *zap.Logger) (*Runner, *odooconf.Config, error) {
	if r.OdooConfig == "" {
		return r, nil, nil
	}
	path, err := resolve("odoo_config", r.OdooConfig)
	if err != nil {
		return nil, nil, err
	}
	conf, err := odooconf.Load(path, os.LookupEnv)
	if err != nil {
		return nil, nil, fmt.Errorf("odoo_config: %w", err)
	}
	out := *r
	fields := []zap.Field{zap.String("file", path), zap.Any("taken", conf.Taken)}
	open := len(out.Channels) == 0 && out.DatabaseChannels == nil
	if open {
		if out.DatabaseChannels = odooDatabaseChannels(conf); out.DatabaseChannels != nil {
			fields = append(fields, zap.String("channels",
				"those of the databases (channels database), because there is max_capacity or db_max_capacity and no channels"))
		}
	}
	for _, note := range conf.Notes {
		log.Warn("odoo_config: "+note, zap.String("file", path))
	}
	log.Info("taking settings from Odoo's configuration, where the jobrunner block has none", fields...)
	if len(out.Databases) == 0 {
		if out.found.databases, err = odooDatabases(conf, log); err != nil {
			return nil, nil, fmt.Errorf("odoo_config: %s: %w", path, err)
		}
	}
	if out.Site == "" && len(out.Upstreams) == 0 {
		out.found.upstream = conf.URL
	}
	if open {
		if err := out.takeChannels(conf, log); err != nil {
			return nil, nil, fmt.Errorf("odoo_config: %s: %s: %w", path, conf.Source("channels"), err)
		}
		if d := out.DatabaseChannels; d != nil {
			if _, err := d.config(); err != nil {
				return nil, nil, fmt.Errorf("odoo_config: %s: %s: %w", path, conf.Source("db_max_capacity"), err)
			}
		}
	}
	return &out, conf, nil
}

// found are values from Odoo's configuration. They are data: braces in them mean nothing, unlike in
// Caddy's own configuration, where a value may be a placeholder for a secret.
type found struct {
	databases []string
	upstream  string
}

// connectionString is how to reach PostgreSQL, without password and database.
func connectionString(conf *odooconf.Config) string {
	var params []string
	for _, p := range []struct{ name, value string }{
		{"host", conf.DBHost}, {"user", conf.DBUser}, {"sslmode", conf.SSLMode},
	} {
		if p.value != "" {
			params = append(params, p.name+"="+quoteValue(p.value))
		}
	}
	if conf.DBPort != 0 {
		params = append(params, fmt.Sprintf("port=%d", conf.DBPort))
	}
	return strings.Join(params, " ")
}

// odooDatabases are the databases to serve. A dbfilter that is more than a name
// cannot choose them: those are then all that Odoo would list.
func odooDatabases(conf *odooconf.Config, log *zap.Logger) ([]string, error) {
	for _, name := range conf.Databases {
		if strings.ContainsAny(name, `*?[]\!`) {
			return nil, fmt.Errorf("%s: %q cannot be taken for the name of a database; set databases", conf.Source("db_name"), name)
		}
	}
	if len(conf.Databases) > 0 {
		return conf.Databases, nil
	}
	glob, err := conf.FilterGlob()
	switch {
	case errors.Is(err, odooconf.ErrHostFilter):
		log.Warn("dbfilter goes by the host name: all databases are served, and Odoo only finds theirs if a job's request has the right Host header; set it with driver odoo { host {database}.example.com }",
			zap.String("dbfilter", conf.DBFilter))
	case err != nil:
		log.Warn("dbfilter is not taken for the choice of databases; set databases if not all of them are to be served",
			zap.String("dbfilter", conf.DBFilter), zap.Error(err))
	case glob != "":
		return []string{glob}, nil
	}
	return nil, nil
}

// odooDatabaseChannels are the limits of the mode in which each database has its own
// channels, nil if it is not that mode. A max_capacity that switches Odoo's own
// runner off is none of ours.
func odooDatabaseChannels(conf *odooconf.Config) *DatabaseChannels {
	limit := conf.MaxCapacity
	if limit != nil && *limit <= 0 {
		limit = nil
	}
	if conf.Channels != "" || limit == nil && conf.DBMaxCapacity == "" {
		return nil
	}
	return &DatabaseChannels{MaxCapacity: limit, DBMaxCapacity: conf.DBMaxCapacity}
}

// takeChannels takes the channels. Odoo's own runner being switched off is no
// capacity of ours.
func (r *Runner) takeChannels(conf *odooconf.Config, log *zap.Logger) error {
	r.Channels = nil
	if conf.Channels != "" {
		warnings, err := r.addChannelString(conf.Channels)
		for _, w := range warnings {
			log.Warn(w, zap.String("source", conf.Source("channels")))
		}
		return err
	}
	if conf.RunnerOff && (r.DatabaseChannels == nil || r.DatabaseChannels.MaxCapacity == nil) {
		log.Warn("Odoo's own runner is switched off, as it should be, and there are no channels in the jobrunner block: one job runs at a time; set channels")
	}
	return nil
}

// ignored are the options of channels that do nothing, because they are not known, by channel.
func (r *Runner) ignored(odoo *odooconf.Config) map[string][]string {
	if len(r.Channels) == 0 && r.DatabaseChannels == nil && odoo != nil {
		return unknownOptions(odoo.Channels)
	}
	all := make(map[string][]string)
	for name, c := range r.Channels {
		if c != nil && len(c.OCAIgnored) > 0 {
			all[name] = c.OCAIgnored
		}
	}
	return all
}

// useBasicAuth lets the driver authenticate as Odoo's configuration says, unless
// it has been told otherwise.
func useBasicAuth(drv driver.Driver, conf *odooconf.Config) {
	if d, ok := drv.(*OdooDriver); ok && conf.AuthUser != "" && d.BasicAuth == nil {
		d.options.BasicAuthUser, d.options.BasicAuthPassword = conf.AuthUser, conf.AuthPassword
		d.build()
	}
}
