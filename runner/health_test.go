package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestProblems(t *testing.T) {
	now := time.Now()
	heard := DatabaseStatus{Name: "a", State: DatabaseReady, Connected: now, Heard: now}
	silent := DatabaseStatus{Name: "b", State: DatabaseUnreachable, Detail: "refused"}
	up := []UpstreamStatus{{Name: "down"}, {Name: "up", Up: true}}
	for name, test := range map[string]struct {
		status Status
		want   []string
	}{
		"ready":          {Status{Leader: true, LeaderKnown: true, Upstreams: up, Databases: []DatabaseStatus{heard}}, nil},
		"another leads":  {Status{LeaderKnown: true, Upstreams: up, Databases: []DatabaseStatus{silent}}, nil},
		"no leader":      {Status{LeaderDetail: "refused", Upstreams: up}, []string{"no leader is known: refused"}},
		"stopping":       {Status{Stopping: true, Upstreams: up}, []string{"it is stopping"}},
		"all drained":    {Status{LeaderKnown: true, Upstreams: []UpstreamStatus{{Up: true, Drain: &Drain{}}}}, []string{"no Odoo server is healthy"}},
		"no servers":     {Status{LeaderKnown: true}, []string{"no Odoo server is healthy"}},
		"taking over":    {Status{Leader: true, LeaderKnown: true, TakingOver: true, Upstreams: up}, []string{"it is taking over"}},
		"no database": {
			Status{Leader: true, LeaderKnown: true, Upstreams: up},
			[]string{"no database is found: check the patterns of databases, and which databases the role owns"},
		},
		"not one served": {
			Status{Leader: true, LeaderKnown: true, Upstreams: up, Databases: []DatabaseStatus{{State: DatabaseUndetected}}},
			[]string{"none of the 1 databases has the add-on"},
		},
		"only copies": {
			Status{Leader: true, LeaderKnown: true, Upstreams: up, Databases: []DatabaseStatus{{State: DatabaseUndetected}, {State: DatabaseNeutralized}}}, nil,
		},
		"a silent session": {
			Status{Leader: true, LeaderKnown: true, Upstreams: up, Databases: []DatabaseStatus{heard, silent}},
			[]string{"database b has no fresh session, it is unreachable: refused"},
		},
		"heard long ago": {
			Status{Leader: true, LeaderKnown: true, Upstreams: up, Databases: []DatabaseStatus{
				{Name: "c", State: DatabaseReady, Connected: now.Add(-time.Hour), Heard: now.Add(-freshWithin)},
			}},
			[]string{"database c has no fresh session, it is ready"},
		},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, test.status.Problems(now)) })
	}
}

func TestWarnings(t *testing.T) {
	now := time.Now()
	st := Status{Databases: []DatabaseStatus{
		{Name: "fine", State: DatabaseReady, Connected: now, Heard: now},
		{Name: "down", State: DatabaseUnhealthy, Detail: "no trigger"},
		{Name: "odd", State: DatabaseUnhealthy, Detail: "channel x is there twice", Connected: now, Heard: now},
	}}
	require.Equal(t, []string{"database odd runs no jobs: channel x is there twice"}, st.Warnings(now))
}

func TestPauseScope(t *testing.T) {
	require.Equal(t, "all", (&Pause{}).Scope())
	require.Equal(t, "database", (&Pause{Database: "a"}).Scope())
	require.Equal(t, "channel", (&Pause{Channel: "root.mail"}).Scope())
}
