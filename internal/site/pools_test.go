package site

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// failing is a set of servers that cannot be looked up.
type failing struct{}

func (failing) Upstreams(context.Context) ([]driver.Upstream, error) { return nil, errFake }

// TestWithPools: a server that is there already stays what it is, and belongs to the pool; another one is
// asked for with the site's host.
func TestWithPools(t *testing.T) {
	load := func() int { return 3 }
	rest := staticTargets{
		{Name: "http://10.0.0.5:8069", HostHeader: "odoo.example.com"},
		{Name: "http://10.0.0.7:8069", HostHeader: "odoo.example.com", Load: load},
	}
	p, err := WithPools(rest, map[string][]string{"heavy": {"10.0.0.7:8069", "https://10.0.0.8"}, "night": {"unix//run/odoo.sock"}})
	require.NoError(t, err)
	p.pools[0].Load = func() int { return 0 }
	ups, err := p.Upstreams(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, ups[1].Load(), "as the site's own proxy counts")
	var pools []string
	for _, up := range ups {
		require.Equal(t, "odoo.example.com", up.HostHeader)
		pools = append(pools, up.Name+" "+up.Pool)
	}
	require.Equal(t, []string{
		"http://10.0.0.5:8069 ", "http://10.0.0.7:8069 heavy", "https://10.0.0.8:443 heavy", "unix//run/odoo.sock night",
	}, pools)
	require.Empty(t, rest[1].Pool, "the set itself is what it was")

	p, err = WithPools(failing{}, map[string][]string{"heavy": {"10.0.0.7:8069"}})
	require.NoError(t, err)
	_, err = p.Upstreams(t.Context())
	require.ErrorIs(t, err, errFake)
	_, err = WithPools(rest, map[string][]string{"a": {"10.0.0.7:8069"}, "b": {"http://10.0.0.7:8069"}})
	require.EqualError(t, err, "pool b: upstream http://10.0.0.7:8069 is named twice, in pool a before")
	_, err = WithPools(rest, map[string][]string{"a": {"ftp://x"}})
	require.ErrorContains(t, err, `pool a: upstream "ftp://x"`)
}
