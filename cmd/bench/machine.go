package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/procfs"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// machine returns what the figures depend on. PostgreSQL adds itself once it runs.
func machine() []fact {
	return []fact{
		{"processor", fmt.Sprintf("%s, %d cores", find("/proc/cpuinfo", `model name\s*: (.*)`), runtime.NumCPU())},
		{"memory", find("/proc/meminfo", `MemTotal:\s*(.*)`)},
		{"kernel", find("/proc/sys/kernel/osrelease", `(.*)`)},
		{"Go", runtime.Version()},
	}
}

// find returns what the group of a pattern matches first in a file.
func find(file, pattern string) string {
	text, err := os.ReadFile(file)
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if err != nil || found == nil {
		return "unknown"
	}
	return string(found[1])
}

// know adds a fact, once.
func (r *report) know(name, value string) {
	if !slices.ContainsFunc(r.Machine, func(f fact) bool { return f.Name == name }) {
		r.Machine = append(r.Machine, fact{name, value})
	}
}

// cpuTimes returns the times of all processors since the system was started; zero where the system
// does not tell.
func cpuTimes() procfs.CPUStat {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return procfs.CPUStat{}
	}
	stat, err := fs.Stat()
	if err != nil {
		return procfs.CPUStat{}
	}
	return stat.CPUTotal
}

// stolen returns what a virtual machine has been kept waiting for, as a share of the processor time
// that it wanted. With more than a few percent, nothing that was measured meanwhile means much.
func stolen(before, after procfs.CPUStat) (share float64, ok bool) {
	wanted := func(s procfs.CPUStat) float64 { return s.User + s.Nice + s.System + s.IRQ + s.SoftIRQ + s.Steal }
	all := wanted(after) - wanted(before)
	return (after.Steal - before.Steal) / all, all > 0
}

// serverShare returns what PostgreSQL uses while f works, in percent of a core.
func (l *lab) serverShare(f func() error) (float64, error) {
	began := time.Now()
	before, err := l.serverTime()
	if err == nil {
		err = f()
	}
	if err != nil {
		return 0, err
	}
	after, err := l.serverTime()
	return 100 * (after - before).Seconds() / time.Since(began).Seconds(), err
}

// serverTime returns the processor time that all processes of PostgreSQL have used so far, those that
// have ended included.
func (l *lab) serverTime() (time.Duration, error) {
	postmaster := l.Postgres.PID()
	all, err := procfs.AllProcs()
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of PostgreSQL: %w", err)
	}
	var ticks uint
	for _, p := range all {
		stat, err := p.Stat()
		if err != nil || p.PID != postmaster && stat.PPID != postmaster { // one that has ended counts below
			continue
		}
		ticks += stat.UTime + stat.STime
		if p.PID == postmaster {
			ticks += uint(stat.CUTime + stat.CSTime)
		}
	}
	const perSecond = 100 // USER_HZ, which Linux has fixed
	return time.Duration(ticks) * time.Second / perSecond, nil
}

// work is the processor time that PostgreSQL took: all of it, and in the sessions of the runner's role,
// or of the connection that stands for it.
type work struct{ all, sessions time.Duration }

// serverWork measures what PostgreSQL does while f works. which selects the sessions in
// pg_stat_activity, all of which have to be there from the beginning to the end.
func (l *lab) serverWork(ctx context.Context, which string, f func() error) (w work, err error) {
	all, sessions, err := l.serverTimes(ctx, which)
	if err != nil {
		return w, err
	}
	if err := f(); err != nil {
		return w, err
	}
	w.all, w.sessions, err = l.serverTimes(ctx, which)
	w.all -= all
	w.sessions -= sessions
	return w, err
}

func (l *lab) serverTimes(ctx context.Context, which string) (all, sessions time.Duration, err error) {
	rows, _ := l.admin.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE "+which) // rows has the error
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return 0, 0, fmt.Errorf("listing sessions: %w", err)
	}
	for _, pid := range pids {
		t, err := testbed.ProcessorTime(pid)
		if err != nil {
			return 0, 0, err
		}
		sessions += t
	}
	all, err = l.serverTime()
	return all, sessions, err
}
