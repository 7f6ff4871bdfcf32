package runner

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// Where a policy names a pool, all jobs have to pass a gate: those of its channels that of the pool, the
// others that of root.
func TestGatesOfChannels(t *testing.T) {
	t.Parallel()
	const others = "the servers that belong to no pool"
	pool := policy.Policy{Channels: []string{"root.export"}, Pool: &policy.Pool{Pool: "heavy"}}
	limit := policy.Policy{Channels: []string{"root"}, Limit: &policy.Limit{Jobs: 1, Per: policy.PerDatabase}}
	for _, c := range []struct {
		policies           []policy.Policy
		root, mail, export string
	}{
		{[]policy.Policy{limit}, "", "", ""},
		{[]policy.Policy{limit, pool}, others, "", "pool heavy"},
	} {
		s := channelShares(c.policies)
		require.Equal(t, c.root, s.Share("root", "prod").Gate)
		require.Equal(t, c.mail, s.Share("root.mail", "prod").Gate)
		require.Equal(t, c.export, s.Share("root.export", "prod").Gate)
	}
	require.Nil(t, channelShares(nil))
}

// Nothing starts in a database while its rows have not told what policies tell jobs apart by, and a
// snapshot that began before is not enough.
func TestNothingStartsUntold(t *testing.T) {
	t.Parallel()
	companies, both := driver.Keys{Companies: true}, driver.Keys{Companies: true, Identities: true}
	per := policy.Policy{Channels: []string{"root"}, Limit: &policy.Limit{Jobs: 1, Per: policy.PerCompany}}
	serialize := policy.Policy{Channels: []string{"root"}, Serialize: policy.ByIdentityKey}
	e, db := served()
	ready := func(want bool) {
		t.Helper()
		require.Equal(t, want, db.serving())
		require.Equal(t, want, db.state == DatabaseReady)
		if !want {
			require.Equal(t, DatabaseLoading, db.state)
			require.Equal(t, "all jobs are read anew, because policies tell them apart by more", db.reason)
		}
	}
	read := func(keys driver.Keys) {
		e.snapshotBegin(db)
		e.snapshotEnd(db, nil, keys)
	}
	e.databases.derive(db)
	ready(true)
	e.databases.share([]policy.Policy{per})
	ready(false)
	read(driver.Keys{})
	ready(false)
	read(companies)
	ready(true)
	e.databases.share([]policy.Policy{per, serialize})
	ready(false)
	read(companies)
	ready(false)
	read(both)
	ready(true)
	e.databases.share([]policy.Policy{serialize})
	ready(true)
	read(driver.Keys{Identities: true})
	ready(true)
	e.databases.share(nil)
	ready(true)

	// What is not asked for any more is forgotten, although a snapshot that began before still tells it.
	e.databases.share([]policy.Policy{per})
	ready(false)
	read(companies)
	ready(true)
	e.snapshotBegin(db)
	e.databases.share(nil)
	e.snapshotEnd(db, nil, companies)
	ready(true)
	e.databases.share([]policy.Policy{per})
	ready(false)
	read(companies)
	ready(true)
}

// What a job is told apart by is taken in while it has a slot, where a policy asks for it.
func TestKeysOfWhatRuns(t *testing.T) {
	t.Parallel()
	serialize := policy.Policy{Channels: []string{"root"}, Serialize: policy.ByIdentityKey}
	for name, c := range map[string]struct {
		policies  []policy.Policy
		row, want channels.Job
	}{
		"company":   {[]policy.Policy{serialize}, channels.Job{Company: 3}, channels.Job{Company: 3}},
		"identity":  {[]policy.Policy{serialize}, channels.Job{Identity: 5}, channels.Job{Identity: 5}},
		"no policy": {nil, channels.Job{Company: 3, Identity: 5}, channels.Job{}},
	} {
		for _, is := range []struct {
			phase phase
			state channels.State
		}{
			{phaseClaiming, channels.Pending}, {phaseOpen, channels.Enqueued}, {phaseOpen, channels.Started},
			{phaseOpen, channels.Unknown}, {phaseUnclaiming, channels.Enqueued},
		} {
			e, _ := served()
			e.databases.share(c.policies)
			key := e.holds("prod", "a", &task{phase: is.phase})
			row := jobRow(key, is.state, 5)
			row.Company, row.Identity = c.row.Company, c.row.Identity
			e.applyRow(row, 0, e.tree.Set)
			job, state, ok := e.tree.Lookup(key)
			require.True(t, ok, "%s %+v", name, is)
			require.True(t, state.Running(), "%s %+v", name, is)
			require.Equal(t, c.want.Company, job.Company, "%s %+v", name, is)
			require.Equal(t, c.want.Identity, job.Identity, "%s %+v", name, is)
		}
		e, _ := served()
		e.databases.share(c.policies)
		key := channels.Key{DB: "prod", UUID: "unknown"}
		row := jobRow(key, channels.Enqueued, 5)
		row.Company = 3
		e.retell(row)
		_, _, ok := e.tree.Lookup(key)
		require.False(t, ok, name)
	}
}

// Policies that tell jobs apart in another way have rows read anew where there is a session.
func TestSharesOfADatabaseWithoutASession(t *testing.T) {
	t.Parallel()
	e, _ := served()
	require.Nil(t, e.databases.get("lost").session)
	policies := []policy.Policy{{Channels: []string{"root"}, Serialize: policy.ByIdentityKey}}
	require.NotPanics(t, func() { e.databases.share(policies) })
	require.Equal(t, policies, e.databases.shares)
}
