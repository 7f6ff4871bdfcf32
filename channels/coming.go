package channels

import (
	"cmp"
	"slices"
	"time"
)

// Coming is how many jobs of one database and one channel wait for an eta in one minute.
type Coming struct {
	DB string
	// Channel is the full name of the jobs' own channel.
	Channel string
	// Minutes is how many whole minutes are left until then.
	Minutes int
	Jobs    int
}

// coming counts jobs that wait for their eta, for as many as are left.
type coming struct {
	now  time.Time
	left int
	sums map[Coming]int
}

// count adds the jobs of one tree. Those of suspended databases are elsewhere.
func (k *coming) count(m *Manager) {
	for _, c := range m.root.tree(nil) {
		explore(c.eta.items, &k.left, func(r *record) bool {
			if in := r.eta - k.now.UnixMicro(); in > 0 {
				k.sums[Coming{DB: r.home.db.name, Channel: r.home.channel.name, Minutes: int(in / time.Minute.Microseconds())}]++
			}
			return true
		})
	}
}

// Coming returns how many jobs wait for an eta after now, by database, channel and minute, those of
// suspended databases left out. It visits fewer jobs than limit, and reports false, with nothing, if
// there are more.
func (f *Forest) Coming(now time.Time, limit int) (list []Coming, all bool) {
	k := coming{now: now, left: limit, sums: make(map[Coming]int)}
	if f.shared != nil {
		k.count(f.shared)
	}
	for _, t := range f.trees {
		k.count(t.Manager)
	}
	if k.left <= 0 {
		return nil, false
	}
	for c, n := range k.sums {
		c.Jobs = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Coming) int {
		return cmp.Or(cmp.Compare(a.DB, b.DB), cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Minutes, b.Minutes))
	})
	return list, true
}
