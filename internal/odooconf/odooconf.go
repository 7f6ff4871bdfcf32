// Package odooconf reads what a job runner needs to know out of Odoo's
// configuration file and environment, with the meaning and the precedence that
// they have for the runners that Odoo itself starts (docs/contract.md 1.6): an
// environment variable goes before the add-on's section, and that before Odoo's
// own options. It knows all series from 7.0 on.
package odooconf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Config is what was found. What is not set anywhere is zero, except the address
// of the HTTP server, which has defaults.
type Config struct {
	// DBHost, DBPort, DBUser and DBPassword are how to connect to PostgreSQL, and
	// SSLMode is Odoo's db_sslmode.
	DBHost     string `json:"db_host,omitempty"`
	DBPort     int    `json:"db_port,omitempty"`
	DBUser     string `json:"db_user,omitempty"`
	DBPassword string `json:"-"`
	SSLMode    string `json:"db_sslmode,omitempty"`

	// Databases are those that db_name names, and DBFilter is the option dbfilter.
	Databases []string `json:"databases,omitempty"`
	DBFilter  string   `json:"dbfilter,omitempty"`

	// URL is the address of Odoo's HTTP server. Default: http://localhost:8069.
	URL string `json:"url"`
	// AuthUser and AuthPassword are for basic authentication in front of it.
	AuthUser     string `json:"http_auth_user,omitempty"`
	AuthPassword string `json:"-"`

	// Channels is the configuration string, without one that begins with root:0:
	// by that RunnerOff is set, Odoo's own runner is switched off.
	Channels  string `json:"channels,omitempty"`
	RunnerOff bool   `json:"runner_off,omitempty"`
	// MaxCapacity and DBMaxCapacity are the limits of the mode in which channels
	// stand in each database; nil and empty if not set.
	MaxCapacity   *int   `json:"max_capacity,omitempty"`
	DBMaxCapacity string `json:"db_max_capacity,omitempty"`

	// Workers is Odoo's number of workers, 0 for the threaded server, and
	// ServerWide the modules that are loaded for all databases.
	Workers    int      `json:"workers,omitempty"`
	ServerWide []string `json:"server_wide_modules,omitempty"`
	// LimitTimeReal is after how many seconds a worker is killed that serves one request; 0 is never,
	// nil if it is not set.
	LimitTimeReal *int `json:"limit_time_real,omitempty"`

	// Taken says where each value comes from, in the order of the fields.
	Taken []Taken `json:"taken,omitempty"`

	// Notes are what the people who wrote the file may have meant otherwise, a
	// sentence each.
	Notes []string `json:"notes,omitempty"`
}

// Taken is one value with its origin.
type Taken struct {
	// Name is the add-on's or Odoo's name for it.
	Name string `json:"name"`
	// Value is what stands there, "(secret)" for a password.
	Value string `json:"value"`
	// Source names the variable, or section and key.
	Source string `json:"source"`
}

// Source returns where a value comes from, empty if it is a default.
func (c *Config) Source(name string) string {
	for _, t := range c.Taken {
		if t.Name == name {
			return t.Source
		}
	}
	return ""
}

// Load reads a file, and the environment through lookup, for example
// [os.LookupEnv]. Errors name the file and, where it is about one, the key.
func Load(path string, lookup func(string) (string, bool)) (*Config, error) {
	f, err := open(path)
	if err != nil {
		return nil, err // it names the file
	}
	defer f.Close()
	file, err := parseINI(io.LimitReader(f, sizeLimit))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r := &reader{file: file, lookup: lookup, config: new(Config)}
	r.family = r.findFamily()
	if err := r.read(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r.note()
	return r.config, nil
}

// sizeLimit bounds a file, in bytes.
const sizeLimit = 4 << 20

// open opens a regular file of a sensible size. A pipe or a device could make
// reading wait for ever, or never end.
func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // reading this file is what the option asks for
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s: it is no regular file", path)
	case info.Size() > sizeLimit:
		err = fmt.Errorf("%s: it is larger than %d bytes", path, sizeLimit)
	default:
		return f, nil
	}
	_ = f.Close()
	return nil, err
}

// family is the names of one of the add-ons.
type family struct{ env, section string }

var (
	queueJob  = family{"ODOO_QUEUE_JOB_", "queue_job"}
	connector = family{"ODOO_CONNECTOR_", "options-connector"}
)

// options is Odoo's own section.
const options = "options"

// reader collects a [Config].
type reader struct {
	file   ini
	lookup func(string) (string, bool)
	family family
	config *Config
}

// keys are those of the add-on's section; the variables have the same names in
// capitals.
var keys = []string{
	"channels", "scheme", "host", "port", "http_auth_user", "http_auth_password",
	"jobrunner_db_host", "jobrunner_db_port", "jobrunner_db_user", "jobrunner_db_password",
	"max_capacity", "db_max_capacity",
}

// findFamily decides whose names count. Only one add-on can be installed, so those
// of queue_job do if there are any.
func (r *reader) findFamily() family {
	if _, ok := r.file[queueJob.section]; ok || r.anyVariable(queueJob) {
		return queueJob
	}
	if _, ok := r.file[connector.section]; ok || r.anyVariable(connector) {
		return connector
	}
	return queueJob
}

func (r *reader) anyVariable(f family) bool {
	return slices.ContainsFunc(keys, func(key string) bool {
		_, ok := r.lookup(f.env + strings.ToUpper(key))
		return ok
	})
}

// found is a value with its origin.
type found struct{ value, source string }

// addon looks a key of the add-on up: the variable, then the section. A variable
// that is empty counts as not set.
func (r *reader) addon(key string) found {
	name := r.family.env + strings.ToUpper(key)
	if v, _ := r.lookup(name); v != "" {
		return found{v, name}
	}
	return r.stands(r.family.section, key)
}

// option looks one of Odoo's own options up, under its newest name first.
func (r *reader) option(names ...string) found {
	for _, name := range names {
		if f := r.stands(options, name); f.value != "" {
			return f
		}
	}
	return found{}
}

// stands looks a key of the file up. What Odoo writes for "not set" is not set: its reader makes
// False of that word in any section, and the add-on then falls back.
func (r *reader) stands(section, key string) found {
	v, _ := r.file.value(section, key)
	rest, comment := splitComment(v)
	source := "[" + section + "] " + key
	switch {
	case !comment:
	case !slices.Contains(secrets, key):
		v = rest // with the comment it would be no value of its kind
	case r.python2():
		v = rest
		r.noteOnce("%s: what follows \" ;\" is a comment, as in Odoo up to 10.0", source)
	default:
		r.noteOnce("%s: \" ;\" is part of it, as in Odoo from 11.0 on; in older ones it begins a comment", source)
	}
	switch v {
	case "", "False", "false", "None":
		return found{}
	}
	return found{v, source}
}

// either returns the first one that is set.
func either(list ...found) found {
	for _, f := range list {
		if f.value != "" {
			return f
		}
	}
	return found{}
}

// take notes where a value comes from.
func (r *reader) take(name string, f found, secret bool) string {
	if f.value == "" {
		return ""
	}
	t := Taken{name, f.value, f.source}
	if secret {
		t.Value = "(secret)"
	}
	r.config.Taken = append(r.config.Taken, t)
	return f.value
}

func (r *reader) read() (err error) {
	c := r.config
	c.DBHost = r.take("db_host", either(r.addon("jobrunner_db_host"), r.option("db_host")), false)
	if c.DBPort, err = r.port("db_port", either(r.addon("jobrunner_db_port"), r.option("db_port"))); err != nil {
		return err
	}
	c.DBUser = r.take("db_user", either(r.addon("jobrunner_db_user"), r.option("db_user")), false)
	c.DBPassword = r.take("db_password", either(r.addon("jobrunner_db_password"), r.option("db_password")), true)
	c.SSLMode = r.take("db_sslmode", r.option("db_sslmode"), false)
	if modes := []string{"", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"}; !slices.Contains(modes, c.SSLMode) {
		return invalid(r.option("db_sslmode"), "is no sslmode")
	}
	c.Databases = list(r.take("db_name", r.option("db_name"), false))
	c.DBFilter = r.take("dbfilter", r.option("dbfilter"), false)
	if err := r.readServer(); err != nil {
		return err
	}
	return r.readChannels()
}

// readServer reads where Odoo listens.
func (r *reader) readServer() error {
	c := r.config
	scheme := either(r.addon("scheme"), found{value: "http"})
	if scheme.source != "" {
		r.take("scheme", scheme, false)
	}
	if scheme.value != "http" && scheme.value != "https" {
		return invalid(scheme, "is neither http nor https")
	}
	named := either(r.addon("host"), r.option("http_interface", "xmlrpc_interface"))
	host := r.take("host", named, false)
	if net.ParseIP(host) == nil && strings.ContainsAny(host, ":/?#@{} \t\n") {
		return invalid(named, "is no host")
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // it listens everywhere
	}
	port, err := r.port("port", either(r.addon("port"), r.option("http_port", "xmlrpc_port")))
	if err != nil {
		return err
	}
	c.URL = scheme.value + "://" + net.JoinHostPort(host, strconv.Itoa(cmp.Or(port, 8069)))
	c.AuthUser = r.take("http_auth_user", r.addon("http_auth_user"), false)
	c.AuthPassword = r.take("http_auth_password", r.addon("http_auth_password"), true)
	workers := r.option("workers")
	if c.Workers, err = number(workers); err != nil {
		return err
	}
	r.take("workers", workers, false)
	if limit := r.option("limit_time_real"); limit.value != "" {
		seconds, err := number(limit)
		if err != nil {
			return err
		}
		r.take("limit_time_real", limit, false)
		c.LimitTimeReal = &seconds
	}
	c.ServerWide = list(r.take("server_wide_modules", r.option("server_wide_modules"), false))
	return nil
}

// readChannels reads capacities. Odoo's own runner is off if the string begins
// with root:0, exactly so (docs/contract.md 4), or if an empty variable is set for
// connector, or if no database may run anything.
func (r *reader) readChannels() error {
	c := r.config
	channels := r.addon("channels")
	if r.family == connector {
		v, ok := r.lookup(connector.env + "CHANNELS")
		c.RunnerOff = ok && v == ""
	}
	r.take("channels", channels, false)
	if strings.HasPrefix(strings.TrimSpace(channels.value), "root:0") {
		c.RunnerOff = true
	} else {
		c.Channels = channels.value
	}
	limit := r.addon("max_capacity")
	if limit.value != "" {
		n, err := number(limit)
		if err != nil {
			return err
		}
		n = max(n, 0)
		c.MaxCapacity = &n
		c.RunnerOff = c.RunnerOff || n == 0 && channels.value == ""
		r.take("max_capacity", limit, false)
	}
	perDB := r.addon("db_max_capacity")
	for _, rule := range list(perDB.value) {
		_, n, ok := strings.Cut(rule, ":")
		if !ok {
			n = rule
		}
		if _, err := number(found{n, perDB.source}); err != nil {
			return err
		}
	}
	c.DBMaxCapacity = r.take("db_max_capacity", perDB, false)
	return nil
}

func (r *reader) port(name string, f found) (int, error) {
	if f.value == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(f.value))
	if err != nil || n < 1 || n > 65535 {
		return 0, invalid(f, "is no port")
	}
	r.take(name, f, false)
	return n, nil
}

func number(f found) (int, error) {
	if f.value == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimSpace(f.value))
	if err != nil {
		return 0, invalid(f, "is no whole number")
	}
	return n, nil
}

// invalid says what is wrong with a value that is no secret.
func invalid(f found, what string) error {
	return fmt.Errorf("%s: %q %s", f.source, f.value, what)
}

// list splits at commas and drops what is empty.
func list(s string) []string {
	var out []string
	for v := range strings.SplitSeq(s, ",") {
		if v = strings.TrimSpace(v); v != "" {
			out = append(out, v)
		}
	}
	return out
}

// plainFilter is a dbfilter that is a name, or the beginning of names: with
// regular expressions, Odoo matches from the beginning.
var plainFilter = regexp.MustCompile(`^\^?([A-Za-z0-9_-]+)(\$|\.\*\$?)?$`)

// Errors of [Config.FilterGlob].
var (
	// ErrHostFilter means that the database follows from the Host header.
	ErrHostFilter = errors.New("it depends on the Host header of a request")
	// ErrRegexp means that it is a regular expression.
	ErrRegexp = errors.New("it is a regular expression")
)

// FilterGlob returns dbfilter as a glob, empty if there is none.
func (c *Config) FilterGlob() (string, error) {
	if c.DBFilter == "" || c.DBFilter == ".*" {
		return "", nil
	}
	if strings.Contains(c.DBFilter, "%d") || strings.Contains(c.DBFilter, "%h") {
		return "", ErrHostFilter
	}
	m := plainFilter.FindStringSubmatch(c.DBFilter)
	switch {
	case m == nil:
		return "", ErrRegexp
	case m[2] == "$":
		return m[1], nil
	}
	return m[1] + "*", nil
}
