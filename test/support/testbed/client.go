package testbed

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// loadTimeout is how long an older socket may stay after a load, and loadPoll the time between two
	// looks for it.
	loadTimeout = 5 * time.Second
	loadPoll    = 5 * time.Millisecond
	dialTimeout = 5 * time.Second
)

// Client asks a Caddy that may just have loaded a configuration. Caddy answers to a load before it has
// closed the older of the two sockets that listen on one port meanwhile, and the kernel resets the
// connections that it has given to that one. So a connection is opened when only one listens.
var Client = &http.Client{Transport: &http.Transport{DialContext: dial}}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	for until := time.Now().Add(loadTimeout); listeners(address) > 1 && time.Now().Before(until); {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(loadPoll):
		}
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	return dialer.DialContext(ctx, network, address)
}

// listeners counts the sockets that listen on an address of IPv4, where the system tells.
var listeners = func(address string) (n int) {
	addr, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil || addr.IP.To4() == nil {
		return 0
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0
	}
	ip := addr.IP.To4()
	local := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], addr.Port)
	const listening = "0A"
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == local && f[3] == listening {
			n++
		}
	}
	return n
}
