package odoo

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// How long a job ran is told if it is a time at all.
func TestRan(t *testing.T) {
	t.Parallel()
	const most = math.MaxInt64 / float64(time.Second)
	for seconds, want := range map[float64]time.Duration{
		0: 0, 1.5: 1500 * time.Millisecond, -1: 0, 1e300: 0, most: 0, 9e9: 9_000_000_000 * time.Second,
		math.NaN(): 0, math.Inf(1): 0, math.Inf(-1): 0,
	} {
		r := recordRow{ran: pgtype.Float8{Float64: seconds, Valid: true}}
		require.Equal(t, want, r.record(driver.Detail{}, false).Ran, seconds)
	}
	r := recordRow{}
	require.True(t, r.record(driver.Detail{}, false).Cancelled.IsZero())
	r.cancelled = pgtype.Timestamp{Time: time.Unix(7, 0), Valid: true}
	require.Equal(t, time.Unix(7, 0), r.record(driver.Detail{}, false).Cancelled)
}

// Without a list of relatives there is no problem, and a uuid that is as long as may be is one.
func TestListOfRelatives(t *testing.T) {
	t.Parallel()
	o := &operations{}
	for name, r := range map[string]recordRow{
		"none": {}, "empty": {size: pgtype.Int8{Valid: true}}, "blank": {dependencies: pgtype.Text{Valid: true}},
	} {
		var out driver.Record
		require.NoError(t, o.relatives(t.Context(), &out, &r), name)
		require.Empty(t, out.RelativesProblem, name)
		require.Empty(t, out.Relatives, name)
	}
	var out driver.Record
	r := recordRow{dependencies: pgtype.Text{Valid: true, String: `{"depends_on": ["` + strings.Repeat("x", UUIDLimit+1) + `"]}`}}
	require.NoError(t, o.relatives(t.Context(), &out, &r))
	require.Empty(t, out.Relatives)
}

// A cause is cut where it is too long, and no earlier.
func TestCauseText(t *testing.T) {
	t.Parallel()
	just := strings.Repeat("ä", causeLimit)
	require.Equal(t, just, causeText(just))
	require.Equal(t, strings.Repeat("ä", causeLimit-1)+"…", causeText(just+"ä"))
}

// The Host header names a database where there is one, and the other one who asks.
func TestHost(t *testing.T) {
	t.Parallel()
	up := driver.Upstream{HostHeader: "odoo"}
	require.Equal(t, "odoo", New(Options{}).host(up, "db"))
	named := New(Options{HostTemplate: "{database}.example.com"})
	require.Equal(t, "db.example.com", named.host(up, "db"))
	require.Equal(t, "odoo", named.host(up, ""))
	require.Equal(t, UserAgentDefault, New(Options{}).options.UserAgent)
	require.Equal(t, "me", New(Options{UserAgent: "me"}).options.UserAgent)
}
