package runner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// ofCompany has a job belong to a company.
func ofCompany(company int32) func(*mock.Job) { return func(j *mock.Job) { j.Company = company } }

// perCompany is a configuration in which one job of each company runs at a time.
func (b *bench) perCompany(tree string) runner.Config {
	return b.shared(tree, policy.Limit{Jobs: 1, Per: policy.PerCompany})
}

// lockSnapshots has snapshots meet a lock, or not any more.
func (b *bench) lockSnapshots(locked bool) {
	b.Fault("prod", func(f *mock.Faults) {
		if f.SnapshotErr = nil; locked {
			f.SnapshotErr = driver.ErrUpgrading
		}
	})
}

// A reload that takes the only policy away that asks for companies has them forgotten. One that brings
// it back has everything read again, and until then a question about a job is told so.
func TestCompaniesAreAskedForAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		r := b.start(b.perCompany("root:9"))
		b.one("prod", "a", ofCompany(1))
		b.settle(time.Second)
		b.lockSnapshots(true)
		require.NoError(b, r.Reconfigure(b.config("root:1")))
		b.settle(time.Second)
		k := b.one("prod", "b", ofCompany(1))
		b.settle(time.Second)
		require.NoError(b, r.Reconfigure(b.perCompany("root:9")))
		b.settle(time.Second)
		require.Equal(b, 1, b.Count("prod", channels.Started), "b was read without its company")
		b.requireState(r, "prod", runner.DatabaseLoading)
		w, err := r.Why(b.Context(), k)
		require.NoError(b, err)
		require.Equal(b, "database_loading", w.Code)
		require.Equal(b, "database prod is loading: all jobs are read anew, because policies tell them apart by more", w.Text)
		b.lockSnapshots(false)
		b.settle(time.Minute)
		require.Equal(b, 1, b.Count("prod", channels.Started))
		b.requireState(r, "prod", runner.DatabaseReady)
		w, err = r.Why(b.Context(), k)
		require.NoError(b, err)
		require.Equal(b, channels.ReasonLimit.String(), w.Code)
	})
}
