package testbed

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

const (
	// dialTries is how often a connection is opened that gets reset before a byte was sent.
	dialTries = 10
	// dialTimeout is for one try.
	dialTimeout = 5 * time.Second
)

// Client asks a Caddy that may be loading a configuration. During a load, two sockets listen on one
// port, and the kernel resets the connections that it has given to the older one when that closes
// before it has accepted them. Of one that is reset while it is opened, nothing was sent, so that
// another one is opened.
var Client = &http.Client{Transport: &http.Transport{DialContext: dial}}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	for try := 1; ; try++ {
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil || try == dialTries || !errors.Is(err, syscall.ECONNRESET) {
			return conn, err
		}
	}
}
