package runner_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// waits makes a job wait for others.
func waits(parents ...string) func(*mock.Job) {
	return func(j *mock.Job) { j.State, j.DependsOn = channels.WaitDependencies, parents }
}

// releasing is a runner with the option on.
func (b *bench) releasing(channels string, j *journal) *runner.Runner {
	b.AddDatabase("prod")
	cfg := b.config(channels)
	cfg.ReleaseDependents = true
	if j != nil {
		cfg.Events = j.add
	}
	return b.start(cfg)
}

// byEngine counts the jobs that the engine has released.
func (b *bench) byEngine() (n int) {
	for _, r := range b.Releases() {
		if !r.Worker {
			n++
		}
	}
	return n
}

// TestReleaseAfterADeath: what a worker has left waiting runs ten seconds after its death, and is told of.
func TestReleaseAfterADeath(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.releasing("root:4", &j)
		b.PlanFor(channels.Key{DB: "prod", UUID: "a"}, mock.Plan{RunFor: time.Second, DieAfter: true})
		b.one("prod", "a")
		b.one("prod", "b", waits("a"))
		b.settle(9 * time.Second)
		require.Equal(b, channels.WaitDependencies, b.jobState("prod", "b"))
		b.settle(10 * time.Second)
		require.Equal(b, channels.Done, b.jobState("prod", "b"))
		require.Equal(b, 1, b.byEngine())
		ev := j.of("", runner.EventDependentsReleased)
		require.Len(b, ev, 1)
		require.Equal(b, 1, ev[0].Count)
		require.Equal(b, 1, b.logged("job was released that a dead worker had left waiting for others: b"))
	})
}

// TestReleaseWaitsForOtherParents: if another parent was done less than five seconds ago, by whomever, its
// worker is left the time to release.
func TestReleaseWaitsForOtherParents(t *testing.T) {
	for ago, released := range map[time.Duration]bool{4 * time.Second: false, 5 * time.Second: true} {
		inBubble(t, func(b *bench) {
			b.releasing("root:4", nil)
			b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Second, DieAfter: true})
			b.one("prod", "a")
			b.one("prod", "other", func(j *mock.Job) { j.State = channels.WaitDependencies })
			b.one("prod", "b", waits("a", "other"))
			b.settle(11*time.Second - ago) // a is looked after ten seconds after its end
			b.Update(key("prod", "other"), func(j *mock.Job) { j.State, j.Done = channels.Done, time.Now() })
			b.settle(ago + 2*time.Second)
			require.Equal(b, released, b.jobState("prod", "b") == channels.Done)
			b.settle(10 * time.Minute)
			require.Equal(b, channels.Done, b.jobState("prod", "b"))
		})
	}
}

// TestNothingToRelease: where no worker dies nothing is asked but with snapshots, and nothing released.
func TestNothingToRelease(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.releasing("root:4", nil)
		b.SetPlan(mock.Plan{RunFor: time.Second, ReleaseAfter: 2 * time.Second})
		b.one("prod", "a")
		b.one("prod", "b", waits("a"))
		b.settle(2 * time.Minute)
		require.Equal(b, channels.Done, b.jobState("prod", "b"))
		require.Zero(b, b.byEngine())
		require.Equal(b, 1, b.Calls("prod", "Dependents"), "with the first snapshot")
	})
}

// TestReleaseOfAnAbandonedRequest: a worker that takes long to release, and to answer, does it itself.
func TestReleaseOfAnAbandonedRequest(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.releasing("root:4", nil)
		b.SetPlan(mock.Plan{RunFor: time.Second, ReleaseAfter: 30 * time.Second})
		b.one("prod", "a")
		b.one("prod", "b", waits("a"))
		b.settle(5 * time.Minute)
		require.Equal(b, channels.Done, b.jobState("prod", "b"))
		require.Zero(b, b.byEngine())
	})
}

// TestReleaseOfAFormerLeader: what was left before this process was there is found by the first snapshot,
// once its last parent was done a while ago.
func TestReleaseOfAFormerLeader(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.one("prod", "old", func(j *mock.Job) { j.State, j.Done = channels.Done, time.Now().Add(-time.Hour) })
		b.one("prod", "b", waits("old"))
		b.one("prod", "new", func(j *mock.Job) { j.State, j.Done = channels.Done, time.Now() })
		b.one("prod", "c", waits("new"))
		cfg := b.config("root:1")
		cfg.ReleaseDependents = true
		b.start(cfg)
		b.settle(5 * time.Second)
		require.Equal(b, channels.Done, b.jobState("prod", "b"))
		require.Equal(b, channels.WaitDependencies, b.jobState("prod", "c"))
		b.settle(10 * time.Minute)
		require.Equal(b, channels.Done, b.jobState("prod", "c"))
	})
}

// TestReleaseIsAnOption: without it nothing is asked, and the job waits.
func TestReleaseIsAnOption(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{DieAfter: true})
		b.start(b.config("root:1"))
		b.one("prod", "a")
		b.one("prod", "b", waits("a"))
		b.settle(time.Hour)
		require.Equal(b, channels.WaitDependencies, b.jobState("prod", "b"))
		require.Zero(b, b.Calls("prod", "Dependents"))
		require.Zero(b, b.Calls("prod", "Release"))
	})
}

// TestReleaseOfAGraph: workers die at random after their jobs are done. Every job runs once, none
// before its parents are done, and what the engine releases is what the dead have left.
func TestReleaseOfAGraph(t *testing.T) {
	for seed := range uint64(5) {
		inBubble(t, func(b *bench) {
			random := rand.New(rand.NewPCG(seed, 1))
			b.releasing("root:16", nil)
			const jobs = 200
			var list []mock.Job
			for i := range jobs {
				job := mock.NewJob("prod", fmt.Sprint(i))
				for range random.IntN(3) {
					if i > 4 {
						job.DependsOn = append(job.DependsOn, fmt.Sprint(random.IntN(i)))
					}
				}
				if len(job.DependsOn) > 0 {
					job.State, job.RawState = channels.WaitDependencies, channels.WaitDependencies.String()
				}
				list = append(list, job)
				b.PlanFor(job.Key, mock.Plan{RunFor: time.Duration(random.IntN(1000)) * time.Millisecond, DieAfter: random.IntN(5) == 0})
			}
			b.Insert(list...)
			b.settle(30 * time.Minute)
			require.Equal(b, jobs, b.Count("prod", channels.Done))
			released := map[channels.Key]int{}
			for _, r := range b.Releases() {
				released[r.Key]++
			}
			started := map[string]time.Time{}
			ended := map[string]time.Time{}
			for _, r := range b.Runs() {
				require.NotContains(b, started, r.Task.UUID, "twice")
				started[r.Task.UUID], ended[r.Task.UUID] = r.Started, r.Ended
			}
			for _, job := range list {
				if len(job.DependsOn) > 0 {
					require.Equal(b, 1, released[job.Key], job.UUID)
				}
				for _, parent := range job.DependsOn {
					require.False(b, started[job.UUID].Before(ended[parent]), "%s before %s", job.UUID, parent)
				}
			}
			require.NotZero(b, b.byEngine())
		})
	}
}

// TestWhyOfJobsThatWait: what a job waits for, and that it waits for nothing any more.
func TestWhyOfJobsThatWait(t *testing.T) {
	for releases, says := range map[bool]string{
		false: "should have done so, for which there is release_dependents",
		true:  "should have done so, the runner does it, soon or with the next full read of the jobs",
	} {
		inBubble(t, func(b *bench) {
			b.AddDatabase("prod")
			b.SetPlan(mock.Plan{RunFor: time.Minute, DieAfter: true})
			cfg := b.config("root:1")
			cfg.ReleaseDependents = releases
			r := b.start(cfg)
			b.one("prod", "a")
			k := b.one("prod", "b", waits("a"))
			b.settle(time.Second)
			w, err := r.Why(b.Context(), k)
			require.NoError(b, err)
			require.Equal(b, "the job waits for one other job that is not done, a", w.Text)
			require.Equal(b, key("prod", "a"), w.Blocker)
			b.settle(time.Minute + time.Second)
			w, err = r.Why(b.Context(), k)
			require.NoError(b, err)
			require.Equal(b, runner.WhyWaitDependencies, w.Code)
			require.Contains(b, w.Text, says)
			require.Zero(b, w.Blocker)
		})
	}
}

// TestReleaseNeedsTheDriver: a driver that cannot makes it an error.
func TestReleaseNeedsTheDriver(t *testing.T) {
	inBubble(t, func(b *bench) {
		cfg := b.config("root:1")
		cfg.ReleaseDependents = true
		require.NoError(b, cfg.Validate())
		cfg.Driver = other{b.Driver(), driver.Capabilities{Application: "Tryton"}}
		require.ErrorContains(b, cfg.Validate(), "release_dependents: this driver cannot release jobs of Tryton that wait for others")
	})
}
