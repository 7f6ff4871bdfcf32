package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// TestHealth: what keeps jobs from running is named, and says how bad it is.
func TestHealth(t *testing.T) {
	now := time.Now()
	heard := DatabaseStatus{Name: "a", State: DatabaseReady, Connected: now, Heard: now}
	silent := DatabaseStatus{Name: "b", State: DatabaseUnreachable, Detail: "refused"}
	held := DatabaseStatus{Name: "h", State: DatabaseHeld, Connected: now, Heard: now, Pending: 12, Detail: "not run", HeldUntil: time.Unix(0, 0)}
	up := []UpstreamStatus{{Name: "up", Up: true}}
	leading := func(dbs ...DatabaseStatus) Status {
		return Status{Leader: true, LeaderKnown: true, Upstreams: up, Databases: dbs}
	}
	changed := func(st Status, f func(*Status)) Status { f(&st); return st }
	for name, test := range map[string]struct {
		status             Status
		want               Health
		problems, warnings []string
	}{
		"ready":         {leading(heard), Ready, nil, nil},
		"another leads": {Status{LeaderKnown: true, Upstreams: up, Databases: []DatabaseStatus{silent}}, Ready, nil, nil},
		"no leader":     {Status{LeaderDetail: "refused", Upstreams: up}, NotReady, []string{"no leader is known: refused" + leaderAdvice}, nil},
		"stopping":      {Status{Stopping: true, Upstreams: up}, NotReady, []string{"it is stopping"}, nil},
		"all drained": {
			Status{LeaderKnown: true, Upstreams: []UpstreamStatus{{Name: "x", Up: true, Drain: &Drain{By: "ana"}}}}, NotReady,
			[]string{"no Odoo server is healthy: x is being drained by ana; undrain one of them"}, nil,
		},
		"no servers": {Status{LeaderKnown: true}, NotReady, []string{"no Odoo server is healthy: none is known; check the upstreams of the reverse_proxy, or name them with upstream"}, nil},
		"no server is up": {
			Status{LeaderKnown: true, Upstreams: []UpstreamStatus{{Name: "x", Reason: "refused"}, {Name: "y", Drain: &Drain{}}}}, NotReady,
			[]string{"no Odoo server is healthy: x takes no jobs: refused; y is being drained; start Odoo, or correct its address"}, nil,
		},
		"a server is down": {
			changed(leading(heard), func(st *Status) {
				st.Upstreams = []UpstreamStatus{{Name: "x", Reason: "refused"}, {Name: "y", Drain: &Drain{}}, {Name: "z", Up: true}}
			}),
			Degraded, nil, []string{"Odoo server x takes no jobs: refused"},
		},
		"taking over":  {changed(leading(silent), func(st *Status) { st.TakingOver = true }), NotReady, []string{"it is taking over"}, nil},
		"no database":  {leading(), NotReady, []string{"no database is found: check databases, and the role that connects to PostgreSQL"}, nil},
		"no queue_job": {leading(DatabaseStatus{State: DatabaseUndetected}), NotReady, []string{"no database has jobs: queue_job is installed in none of those that are found"}, nil},
		"only copies": {
			leading(DatabaseStatus{State: DatabaseUndetected}, DatabaseStatus{State: DatabaseNeutralized}), Degraded, nil,
			[]string{"no job runs: the databases are neutralized copies, whose jobs are left alone"},
		},
		"a silent session": {leading(heard, silent), Degraded, nil, []string{"1 of 2 databases served", "database b has no fresh session, it is unreachable: refused"}},
		"the only one is held": {
			leading(held), NotReady, []string{"database h is held back: not run, next attempt at 1970-01-01T00:00:00Z; " + heldAdvice + " (12 jobs wait)"}, nil,
		},
		"of another runner": {
			leading(DatabaseStatus{Name: "o", State: DatabaseStandby, Detail: "odoo-14"}), NotReady, []string{"database o is served by another runner: odoo-14; if it is Odoo's own, switch it off with channels = root:0 in [queue_job] and restart Odoo"}, nil,
		},
		"of another Caddy": {
			leading(DatabaseStatus{Name: "o", State: DatabaseStandby, Detail: "pid 7, application caddy-jobrunner/session"}), NotReady,
			[]string{"database o is served by another runner: pid 7, application caddy-jobrunner/session"}, nil,
		},
		"bad channels": {
			leading(heard, DatabaseStatus{Name: "odd", State: DatabaseUnhealthy, Detail: "channel x is there twice", Connected: now, Heard: now}), Degraded, nil,
			[]string{"1 of 2 databases served", "database odd runs no jobs: channel x is there twice"},
		},
		"heard long ago": {
			leading(DatabaseStatus{Name: "c", State: DatabaseReady, Connected: now.Add(-time.Hour), Heard: now.Add(-freshWithin)}), NotReady,
			[]string{"database c has no fresh session, it is ready"}, nil,
		},
		"all is paused": {
			changed(leading(heard), func(st *Status) { st.Controls.Pauses = []Pause{{By: "ana", Note: "lunch"}} }), Degraded, nil,
			[]string{"everything is paused by ana (lunch)"},
		},
		"the only one is paused": {
			leading(DatabaseStatus{Name: "a", State: DatabaseReady, Connected: now, Heard: now, Pause: &Pause{Database: "a", By: "ana"}}), Degraded, nil,
			[]string{"database a is paused by ana"},
		},
		"one of two is paused": {
			leading(heard, DatabaseStatus{Name: "p", State: DatabaseReady, Connected: now, Heard: now, Pause: &Pause{Database: "p"}}), Ready, nil, nil,
		},
		"root is paused by hand": {
			changed(leading(heard), func(st *Status) { st.Controls.Pauses = []Pause{{Channel: "root", By: "ana"}} }), Degraded, nil,
			[]string{"channel root is paused by ana"},
		},
		"being copied": {
			leading(DatabaseStatus{Name: "y", State: DatabaseYielding}), NotReady,
			[]string{"no database has jobs: queue_job is installed in none of those that are found, apart from those that are being dropped, renamed or copied: y"}, nil,
		},
		"jobs are stuck": {
			changed(leading(heard), func(st *Status) {
				st.Stuck = []StuckTask{{Key: channels.Key{DB: "b", UUID: "2"}, Text: "why"}, {Key: channels.Key{DB: "a", UUID: "1"}, Text: "so"}}
			}), Degraded, nil,
			[]string{"job 1 of database a is stuck: so", "job 2 of database b is stuck: why"},
		},
		"no capacity": {changed(leading(heard), func(st *Status) { st.DatabaseChannels = true }), Degraded, nil, []string{"no job runs: max_capacity is 0"}},
		"root is paused": {
			changed(leading(heard), func(st *Status) {
				st.Channels = []ChannelStatus{{Status: channels.Status{FullName: "root", Paused: true}}}
			}), Degraded, nil,
			[]string{"no job runs: channel root is paused by its configuration"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, test.status.Health(now))
			require.Equal(t, test.problems, test.status.Problems(now))
			require.Equal(t, test.warnings, test.status.Warnings(now))
		})
	}
}

// TestHealthIsShort: three hundred databases that are down are not three hundred lines.
func TestHealthIsShort(t *testing.T) {
	st := Status{Leader: true, LeaderKnown: true, Upstreams: []UpstreamStatus{{Up: true}}, Databases: make([]DatabaseStatus, 300)}
	problems := st.Problems(time.Now())
	require.Len(t, problems, healthNamed+1)
	require.Equal(t, "and 290 more", problems[healthNamed])
	require.Equal(t, "not_ready", st.Health(time.Now()).String())
	require.Equal(t, "invalid", Health(9).String())
}

func TestPauseScope(t *testing.T) {
	require.Equal(t, "all", (&Pause{}).Scope())
	require.Equal(t, "database", (&Pause{Database: "a"}).Scope())
	require.Equal(t, "channel", (&Pause{Channel: "root.mail"}).Scope())
}

// A session is fresh as long as probes could have kept it silent, and a little longer.
func TestFreshSessions(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for silent, fresh := range map[time.Duration]bool{0: true, 20*time.Second - 1: true, 20 * time.Second: false} {
		db := DatabaseStatus{Connected: now.Add(-time.Hour), Heard: now.Add(-silent)}
		require.Equal(t, fresh, db.Fresh(now), silent)
	}
	require.False(t, (&DatabaseStatus{Heard: now}).Fresh(now), "there is none")
}
