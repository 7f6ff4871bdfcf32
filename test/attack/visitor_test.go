//go:build attack

package attack

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

// visitorAttacks are those of visitors of the site and its dashboard.
var visitorAttacks = []attack{
	{
		name: "1,000 visitors who read nothing",
		strike: func(b *bed) {
			for i := range 1000 {
				c, err := net.Dial("tcp", b.caddy().Config.Site)
				require.NoError(b, err)
				b.Cleanup(func() { _ = c.Close() })
				request := fmt.Sprintf("GET /jobrunner/data HTTP/1.1\r\nHost: %s\r\n", b.caddy().Config.Site)
				if i%2 == 0 { // the others never end their request
					request += "\r\n"
				}
				_, err = c.Write([]byte(request))
				require.NoError(b, err)
			}
			b.wait(8 * time.Second)
		},
	},
	{
		name: "100 visitors poll the dashboard",
		strike: func(b *bed) {
			client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
			defer client.CloseIdleConnections()
			end := time.Now().Add(10 * time.Second)
			var all sync.WaitGroup
			for i := range 100 {
				all.Go(func() {
					tick := time.NewTicker(time.Second)
					defer tick.Stop()
					for n := 0; time.Now().Before(end); n++ {
						page := []string{"data", "history", "failures", "waiting"}[(i+n)%4]
						res, err := client.Get("http://" + b.caddy().Config.Site + "/jobrunner/" + page)
						if err == nil {
							_ = res.Body.Close()
						}
						<-tick.C
					}
				})
			}
			all.Wait()
		},
	},
	{
		name: "pauses of things that do not exist, by a visitor",
		strike: func(b *bed) {
			for i := range 2000 {
				res, err := http.Post("http://"+b.caddy().Config.Site+"/jobrunner/pause", "application/json",
					//nolint:bodyclose // closed below
					nil)
				require.NoError(b, err)
				_ = res.Body.Close()
				require.Equal(b, http.StatusForbidden, res.StatusCode, "request %d", i)
			}
		},
	},
}
