package odoo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
)

// TestPage: a job's form in Odoo is found at the site for people, if that is known.
func TestPage(t *testing.T) {
	for _, c := range []struct{ site, template, database, want string }{
		{"https://odoo.example.com", "", "prod", "https://odoo.example.com/web?db=prod#id=7&model=queue.job&view_type=form"},
		{"http://odoo.example.com:8080", "", "a b&c#", "http://odoo.example.com:8080/web?db=a+b%26c%23#id=7&model=queue.job&view_type=form"},
		{"https://*.example.com", "{database}.example.com", "prod", "https://prod.example.com/web?db=prod#id=7&model=queue.job&view_type=form"},
		{"https://*.example.com:8443", "{database}.example.com", "prod", "https://prod.example.com:8443/web?db=prod#id=7&model=queue.job&view_type=form"},
		{"https://*.example.com", "", "prod", ""},
		{"https://", "", "prod", ""},
		{"", "", "prod", ""},
		{":8069", "", "prod", ""},
	} {
		require.Equal(t, c.want, odoo.New(odoo.Options{HostTemplate: c.template}).Page(c.site, c.database, 7), c)
	}
}
