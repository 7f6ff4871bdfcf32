package odoo

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Linker = (*Driver)(nil)

// Page implements [driver.Linker]: it is the form of a job. Releases that write such addresses in another way
// understand this one, too.
func (d *Driver) Page(site, database string, id int64) string {
	u, err := url.Parse(site)
	if err != nil || u.Scheme == "" {
		return ""
	}
	if d.options.HostTemplate != "" {
		host, port := d.host(driver.Upstream{}, database), u.Port()
		if u.Host = host; port != "" && !strings.Contains(host, ":") {
			u.Host = net.JoinHostPort(host, port)
		}
	}
	if u.Hostname() == "" || strings.Contains(u.Host, "*") {
		return ""
	}
	page := url.URL{
		Scheme: u.Scheme, Host: u.Host, Path: "/web", RawQuery: url.Values{"db": {database}}.Encode(),
		Fragment: fmt.Sprintf("id=%d&model=queue.job&view_type=form", id),
	}
	return page.String()
}
