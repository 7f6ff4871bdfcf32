package driver_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

func TestKeysInclude(t *testing.T) {
	t.Parallel()
	none, companies := driver.Keys{}, driver.Keys{Companies: true}
	identities, both := driver.Keys{Identities: true}, driver.Keys{Companies: true, Identities: true}
	for _, c := range []struct {
		keys    driver.Keys
		include []driver.Keys
	}{
		{none, []driver.Keys{none}},
		{companies, []driver.Keys{none, companies}},
		{identities, []driver.Keys{none, identities}},
		{both, []driver.Keys{none, companies, identities, both}},
	} {
		for _, k := range []driver.Keys{none, companies, identities, both} {
			want := false
			for _, included := range c.include {
				want = want || k == included
			}
			require.Equal(t, want, c.keys.Include(k), "%+v %+v", c.keys, k)
		}
	}
}
