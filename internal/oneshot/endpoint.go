package oneshot

import (
	"crypto/tls"
	"net"
)

// Endpoint is a socket that accepts requests.
type Endpoint struct {
	// Network is "tcp", "tcp4", "tcp6" or "unix".
	Network string
	// Address is "host:port", or the path of a unix socket.
	Address string
	// TLS is nil for plain HTTP.
	TLS *tls.Config
	// Local is the address to connect from, nil for any.
	Local net.Addr
}

// Name returns the endpoint as users write it: "http://10.0.0.5:8069",
// "https://odoo.internal:443" or "unix//run/odoo.sock".
func (e Endpoint) Name() string {
	if e.Network == "unix" {
		return "unix/" + e.Address
	}
	return e.Scheme() + "://" + e.Address
}

// Scheme returns "http" or "https".
func (e Endpoint) Scheme() string {
	if e.TLS != nil {
		return "https"
	}
	return "http"
}
