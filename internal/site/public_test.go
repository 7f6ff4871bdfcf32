package site

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOpen: which sites let the public have jobs run, with every way to close the route that people
// use. An empty string means that it is closed.
func TestOpen(t *testing.T) {
	const proxy = "\n\treverse_proxy 10.0.0.5:8069\n}"
	for name, c := range map[string]struct{ sites, want string }{
		"nothing":          {"odoo.example.com {" + proxy, "https://odoo.example.com/queue_job/runjob"},
		"another port":     {"odoo.example.com:8443 {" + proxy, "https://odoo.example.com:8443/queue_job/runjob"},
		"guard":            {"odoo.example.com {\n\tjobrunner_guard" + proxy, ""},
		"guard, handle":    {"odoo.example.com {\n\tjobrunner_guard\n\thandle {\n\treverse_proxy 10.0.0.5:8069\n\t}\n}", ""},
		"guard inside":     {"odoo.example.com {\n\thandle {\n\tjobrunner_guard\n\treverse_proxy 10.0.0.5:8069\n\t}\n}", ""},
		"guard, elsewhere": {"odoo.example.com {\n\thandle /x/* {\n\tjobrunner_guard\n\t}\n\thandle {\n\treverse_proxy 10.0.0.5:8069\n\t}\n}", "https://odoo.example.com/queue_job/runjob"},
		"guard too late":   {"odoo.example.com {\n\troute {\n\treverse_proxy 10.0.0.5:8069\n\tjobrunner_guard\n\t}\n}", "https://odoo.example.com/queue_job/runjob"},
		"respond": {
			"odoo.example.com {\n\thandle /queue_job/* {\n\t\trespond 404\n\t}" + proxy,
			"https://odoo.example.com/connector/runjob",
		},
		"both names": {
			"odoo.example.com {\n\t@run path /queue_job/* /connector/*\n\trespond @run 404" + proxy,
			"https://odoo.example.com/fr/queue_job/runjob",
		},
		"regular expression": {"odoo.example.com {\n\t@run path_regexp (queue_job|connector)/+runjob\n\trespond @run 404" + proxy, ""},
		"authentication":     {"odoo.example.com {\n\tbasic_auth {\n\t\tx $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n\t}" + proxy, ""},
		"forward_auth":       {"odoo.example.com {\n\tforward_auth 10.0.0.9:80 {\n\t\turi /auth\n\t}" + proxy, ""},
		"private addresses":  {"odoo.example.com {\n\t@out not remote_ip private_ranges\n\tabort @out" + proxy, ""},
		"public addresses":   {"odoo.example.com {\n\t@in remote_ip private_ranges\n\tabort @in" + proxy, "https://odoo.example.com/queue_job/runjob"},
		"rewritten":          {"odoo.example.com {\n\thandle_path /erp/* {\n\t\treverse_proxy 10.0.0.5:8069\n\t}\n\trespond 404\n}", ""},
		"this machine":       {"http://odoo.example.com {\n\tbind 127.0.0.1" + proxy, ""},
		"another server":     {"odoo.example.com {\n\treverse_proxy 10.0.0.6:8069\n}", ""},
		"named route":        {"&(odoo) {" + proxy + "\nodoo.example.com {\n\tinvoke odoo\n}", "https://odoo.example.com/queue_job/runjob"},
	} {
		t.Run(name, func(t *testing.T) {
			open := openOf(t, "http://10.0.0.5:8069", c.sites)
			if c.want == "" {
				require.Empty(t, open)
				return
			}
			require.Contains(t, open, c.want)
		})
	}
}

// TestOpenOfPools: a site that leads to a server of a pool is as open as any other.
func TestOpenOfPools(t *testing.T) {
	for _, server := range []string{"10.0.0.5:8069", "10.0.0.6:8069"} {
		open := openOf(t, "http://10.0.0.5:8069", "odoo.example.com {\n\treverse_proxy "+server+"\n}", "10.0.0.6:8069")
		require.Contains(t, open, "https://odoo.example.com/queue_job/runjob", server)
	}
	require.Empty(t, openOf(t, "http://10.0.0.5:8069", "odoo.example.com {\n\treverse_proxy 10.0.0.7:8069\n}", "10.0.0.6:8069"))
}

// TestCandidates: sites that differ in their port differ in the error that lists them.
func TestCandidates(t *testing.T) {
	_, err := ofProxy(t, "", "a.example.com:8443 {\n\treverse_proxy 10.0.0.5:8069\n}\na.example.com:9443 {\n\treverse_proxy 10.0.0.6:8069\n}")
	require.ErrorContains(t, err, "https://a.example.com:8443/queue_job/runjob -> 10.0.0.5:8069, https://a.example.com:9443/queue_job/runjob -> 10.0.0.6:8069")
}
