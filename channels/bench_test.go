package channels

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchJob is the i-th of jobs that are spread over so many channels.
func benchJob(i, channels int) Job {
	return Job{
		// Scattered like the random uuids of real jobs.
		Key:      Key{DB: "db", UUID: fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(i)*2654435761, i)},
		Channel:  fmt.Sprintf("root.c%d", i%channels),
		ID:       int64(i + 1),
		Priority: int32(i*7919) % 20,
		Created:  int64(i),
	}
}

// loaded returns a Manager with so many pending jobs.
func loaded(t require.TestingT, jobs, channels int, config string) *Manager {
	m := NewManager()
	cfgs, _, err := ParseConfigs(config)
	require.NoError(t, err)
	require.NoError(t, m.Configure(cfgs))
	for i := range jobs {
		m.Set(benchJob(i, channels), Pending)
	}
	return m
}

type benchSize struct{ jobs, channels int }

func (s benchSize) String() string { return fmt.Sprintf("jobs=%d/channels=%d", s.jobs, s.channels) }

// all returns the jobs.
func (s benchSize) all() []Job {
	jobs := make([]Job, s.jobs)
	for i := range jobs {
		jobs[i] = benchJob(i, s.channels)
	}
	return jobs
}

var benchSizes = []benchSize{
	{1_000, 10}, {100_000, 10}, {100_000, 1_000}, {100_000, 100_000}, {1_000_000, 10}, {1_000_000, 1_000}, {1_000_000, 100_000},
}

// BenchmarkChange is what a busy runner does all the time: a job ends, the next one starts. Root is
// full and all others wait.
func BenchmarkChange(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.String(), func(b *testing.B) {
			m := loaded(b, s.jobs, s.channels, "root:8")
			now := at(1)
			running := m.Next(now, 0)
			for b.Loop() {
				// What ended comes again, so that the queue stays as long as it is.
				j, _, _ := m.Lookup(running[0])
				m.Set(j, Done)
				j.Created++
				m.Set(j, Pending)
				running = append(running[1:], m.Next(now, 0)...)
			}
			require.Len(b, running, 8)
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.String(), func(b *testing.B) {
			jobs := s.all()
			for b.Loop() {
				m := NewManager()
				for _, j := range jobs {
					m.Set(j, Pending)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*s.jobs), "ns/job")
		})
	}
}

// BenchmarkTakeIn is what a runner does when it starts: it takes the jobs of a database in, lets
// them into the queues, and starts the first.
func BenchmarkTakeIn(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.String(), func(b *testing.B) {
			jobs := s.all()
			b.ReportAllocs()
			for b.Loop() {
				f := NewForest()
				f.Suspend("db")
				f.BeginSnapshot("db")
				for _, j := range jobs {
					f.SetFromSnapshot(j, Pending)
				}
				_, removed := f.RemoveStale("db", nil, 1)
				require.Empty(b, removed)
				f.Resume("db")
				require.Len(b, f.Next(at(1), 1000), 1)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*s.jobs), "ns/job")
		})
	}
}

// BenchmarkHold takes all jobs of a database out of the queues and puts them back: its connection is
// lost, or Odoo does not run them. They are up in root's queue.
func BenchmarkHold(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.String(), func(b *testing.B) {
			m := loaded(b, s.jobs, s.channels, "root:8")
			m.Set(Job{Key: Key{DB: "other", UUID: "x"}}, Pending)
			for b.Loop() {
				m.Next(at(1), 0)
				m.Suspend("db")
				m.Resume("db")
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*s.jobs), "ns/job")
		})
	}
}

// BenchmarkDrain starts every job there is, 100 a pass.
func BenchmarkDrain(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.String(), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				m := loaded(b, s.jobs, s.channels, "root:0")
				b.StartTimer()
				for m.Pending() {
					m.Next(at(1), 100)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*s.jobs), "ns/job")
		})
	}
}

// BenchmarkMemory reports the live heap per waiting job.
func BenchmarkMemory(b *testing.B) {
	for _, s := range benchSizes {
		b.Run(s.String(), func(b *testing.B) {
			var used float64
			for b.Loop() {
				before := liveHeap()
				m := loaded(b, s.jobs, s.channels, "root:8")
				m.Next(at(1), 0)
				used = float64(liveHeap()-before) / float64(s.jobs)
				runtime.KeepAlive(m)
			}
			b.ReportMetric(used, "bytes/job")
		})
	}
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
