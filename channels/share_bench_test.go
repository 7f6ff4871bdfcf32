package channels

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkShares is BenchmarkChange with a thousand keys: the jobs of a thousand companies in one
// channel, without shares and with them.
func BenchmarkShares(b *testing.B) {
	const jobs, keys = 1_000_000, 1000
	for _, bench := range []struct {
		name   string
		shares Shares
	}{
		{"plain", nil},
		{"limit", shareList{{"root", "*", Share{Limit: 2, Per: PerCompany}}}},
		{"fair", shareList{{"root", "*", Share{Fair: PerCompany}}}},
		{"fair and limit", shareList{{"root", "*", Share{Fair: PerCompany, Limit: 2, Per: PerCompany}}}},
		{"limit below", shareList{{"root*", "*", Share{Limit: 2, Per: PerCompany}}}},
	} {
		b.Run(fmt.Sprintf("%s/jobs=%d/keys=%d", bench.name, jobs, keys), func(b *testing.B) {
			m := loaded(b, 0, 1, "root:8,root.c0:100")
			m.SetShares(bench.shares)
			job := func(i int) Job {
				j := benchJob(i, 1)
				j.Company = int32(i*31%keys) + 1
				return j
			}
			for i := range jobs {
				m.Set(job(i), Pending)
			}
			now := at(1)
			running := m.Next(now, 0)
			b.ReportAllocs()
			for b.Loop() {
				j, _, _ := m.Lookup(running[0])
				m.Set(j, Done)
				j.Created += jobs
				m.Set(j, Pending)
				running = append(running[1:], m.Next(now, 0)...)
			}
			require.Len(b, running, 8)
		})
	}
}
