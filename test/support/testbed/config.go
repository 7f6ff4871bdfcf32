package testbed

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
)

// Config is what a Caddyfile says. The texts in it are Caddyfile.
type Config struct {
	// Admin is the address of the admin endpoint, Site that of the site. Default:
	// free ones, see [FreeAddress].
	Admin, Site string
	// Global holds further global options.
	Global string
	// Runners are the jobrunner blocks.
	Runners []Runner
	// Snippets precede the site, which may import or invoke them.
	Snippets string
	// Host is the name of the site. Default: the host in its address.
	Host string
	// Routes is what the site does. Without it there is no site.
	Routes string
}

// Runner is one jobrunner block.
type Runner struct {
	// Name is that of the runner. Default: none.
	Name string
	// Postgres is the URL of any database of the cluster.
	Postgres string
	// Databases are the patterns of the databases.
	Databases string
	// Channels is the configuration string. Default: none, for channels that
	// stand in Options.
	Channels string
	// Options holds further options.
	Options string
}

// Caddyfile writes the configuration.
func (c *Config) Caddyfile() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "{\n\tadmin %s\n\tpersist_config off\n\tauto_https off\n\tgrace_period 1s\n", c.Admin)
	indented(&b, 1, c.Global)
	for _, r := range c.Runners {
		fmt.Fprintf(&b, "\tjobrunner %s{\n\t\tpostgres %q\n", strings.TrimLeft(r.Name+" ", " "), r.Postgres)
		if r.Databases != "" {
			fmt.Fprintf(&b, "\t\tdatabases %s\n", r.Databases)
		}
		if r.Channels != "" {
			fmt.Fprintf(&b, "\t\tchannels %q\n", r.Channels)
		}
		indented(&b, 2, r.Options)
		b.WriteString("\t}\n")
	}
	fmt.Fprintf(&b, "}\n\n%s\n", c.Snippets)
	if c.Routes != "" {
		host, port, _ := strings.Cut(c.Site, ":")
		if c.Host != "" {
			host = c.Host
		}
		fmt.Fprintf(&b, "http://%s:%s {\n\tbind 127.0.0.1\n", host, port)
		indented(&b, 1, c.Routes)
		b.WriteString("}\n")
	}
	return []byte(b.String())
}

func indented(b *strings.Builder, tabs int, text string) {
	for line := range strings.Lines(text) {
		b.WriteString(strings.Repeat("\t", tabs) + strings.TrimRight(line, "\n") + "\n")
	}
}

// setAddresses chooses the addresses that are not given.
func (c *Config) setAddresses() (err error) {
	for _, address := range []*string{&c.Admin, &c.Site} {
		if *address == "" && err == nil {
			*address, err = FreeAddress()
		}
	}
	return err
}

// FreeAddress returns an address of this machine that no program listens on. Its
// port is below those that systems hand out for connections: otherwise one could
// take it before Caddy does.
func FreeAddress() (string, error) {
	const first, ports, attempts = 10_000, 20_000, 100
	var err error
	for range attempts {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(ports)))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("finding a free port: %w", err)
}
