package jobrunner

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"
)

// BenchmarkAdapt turns a Caddyfile with many channels into JSON.
func BenchmarkAdapt(b *testing.B) {
	for _, channels := range []int{10, 1_000} {
		b.Run(fmt.Sprintf("channels=%d", channels), func(b *testing.B) {
			var text strings.Builder
			text.WriteString("{\n\tjobrunner {\n\t\tupstream http://127.0.0.1:1\n")
			for i := range channels {
				fmt.Fprintf(&text, "\t\tchannel root.c%d 2 {\n\t\t\tthrottle 1s\n\t\t}\n", i)
			}
			text.WriteString("\t}\n}\n")
			adapter := caddyconfig.GetAdapter("caddyfile")
			for b.Loop() {
				_, _, err := adapter.Adapt([]byte(text.String()), nil)
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkReload is a reload with another capacity, from Caddy's side: the old
// configuration is released, the new one provisioned and handed to the engine.
func BenchmarkReload(b *testing.B) {
	record(b)
	b.Cleanup(func() { require.NoError(b, caddy.Stop()) })
	capacity := 1
	for b.Loop() {
		capacity++
		require.NoError(b, caddy.Load(config(one("default", dsnA, capacity), ""), true))
	}
}
