package driver_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

func TestKeysOfBoth(t *testing.T) {
	t.Parallel()
	none, companies := driver.Keys{}, driver.Keys{Companies: true}
	identities, both := driver.Keys{Identities: true}, driver.Keys{Companies: true, Identities: true}
	for _, c := range []struct{ a, b, want driver.Keys }{
		{none, both, none},
		{companies, companies, companies},
		{companies, identities, none},
		{companies, both, companies},
		{identities, identities, identities},
		{identities, both, identities},
		{both, both, both},
	} {
		require.Equal(t, c.want, c.a.And(c.b), "%+v", c)
		require.Equal(t, c.want, c.b.And(c.a), "%+v", c)
	}
}
