package testbed

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentile(t *testing.T) {
	values := []float64{5, 3, 1, 4, 2}
	require.Equal(t, 3.0, Percentile(values, 50))
	require.Equal(t, 5.0, Percentile(values, 99))
	require.Equal(t, 1.0, Percentile(values, 0))
	require.Equal(t, 2.0, Percentile([]float64{1, 2, 3, 4}, 50))
	require.Zero(t, Percentile([]float64(nil), 50))
	require.Equal(t, time.Duration(5), Percentile([]time.Duration{5, 3, 1, 4, 2}, 99))
}

func TestProcessorTime(t *testing.T) {
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
	}
	used, err := ProcessorTime(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, used)
	_, err = ProcessorTime(0)
	require.Error(t, err)
}

func TestCaddyfile(t *testing.T) {
	c := Config{
		Admin: "127.0.0.1:1", Site: "127.0.0.1:2", Host: "odoo.localhost", Global: "debug", Snippets: "(s) {\n}\n",
		Runners: []Runner{{Postgres: "postgres://a/b", Databases: "x y", Channels: "root:2", Options: "rescue off\nsite a"}, {Name: "b"}},
		Routes:  "respond 404",
	}
	require.Equal(t, `{
	admin 127.0.0.1:1
	persist_config off
	auto_https off
	grace_period 1s
	debug
	jobrunner {
		postgres "postgres://a/b"
		databases x y
		channels "root:2"
		rescue off
		site a
	}
	jobrunner b {
		postgres ""
	}
}

(s) {
}

http://odoo.localhost:2 {
	bind 127.0.0.1
	respond 404
}
`, string(c.Caddyfile()))
}
