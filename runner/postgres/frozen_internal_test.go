package postgres

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFrozen: only a session of ours that has said nothing for longer than it may is frozen, or one
// that is blocked in the result of one statement at every check, for long enough.
func TestFrozen(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	pid, other := uint32(7), uint32(8)
	at := func(seconds int) time.Time { return now.Add(time.Duration(seconds) * time.Second) }
	h := holder{pid: &pid, ours: true, started: now, changed: now, blocked: true}
	const every = 2 // seconds
	check := func(f *frozen, h holder, n int) (yes bool) {
		for i := range n {
			yes = f.see(h, at(every*i))
		}
		return yes
	}
	// So many checks are just too few, and the next two are at these times.
	const few = int(BlockedAfter/time.Second) / every
	soon, late := at(every*few-1), at(every*few)
	var f frozen
	require.False(t, check(&f, h, few))
	require.True(t, check(&f, h, few+1))
	change := func(f func(*holder)) holder { c := h; f(&c); return c }
	for name, c := range map[string]holder{
		"not ours":    change(func(h *holder) { h.ours = false }),
		"not blocked": change(func(h *holder) { h.blocked = false }),
		"no session":  {},
	} {
		f = frozen{}
		require.False(t, check(&f, c, 2*few), name)
		f = frozen{}
		check(&f, h, few)
		f.see(c, soon)
		require.False(t, f.see(h, late), "%s in between", name)
		check(&f, h, 3)
		require.False(t, f.see(h, late.Add(time.Second)), "%s in between", name)
	}
	for name, c := range map[string]holder{
		"another backend":       change(func(h *holder) { h.pid = &other }),
		"a later backend":       change(func(h *holder) { h.started = at(1) }),
		"a later statement":     change(func(h *holder) { h.changed = at(1) }),
		"a statement after all": change(func(h *holder) { h.changed, h.blocked = at(1), false }),
	} {
		f = frozen{}
		check(&f, h, few)
		require.False(t, f.see(c, late), name)
	}
	f = frozen{}
	f.see(h, now)
	require.False(t, f.see(h, at(3600)), "two checks are too few")
	for i := range frozenChecks - 3 {
		require.False(t, f.see(h, at(3601+i)), "still too few")
	}
	require.True(t, f.see(h, at(3700)))
}

// TestSilent: what the server says of a client's silence counts at once, unless that client has been
// heard so recently that the server's clock must have leapt.
func TestSilent(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	pid := uint32(7)
	h := holder{pid: &pid, ours: true, started: now, changed: now, idle: SilentAfter}
	change := func(f func(*holder)) holder { c := h; f(&c); return c }
	for name, c := range map[string]struct {
		holder
		silent bool
	}{
		"long enough":     {h, true},
		"not long enough": {change(func(h *holder) { h.idle-- }), false},
		"not ours":        {change(func(h *holder) { h.ours = false }), false},
		"no session":      {holder{}, false},
	} {
		var f frozen
		require.Equal(t, c.silent, f.see(c.holder, now), name)
	}

	var f frozen
	require.False(t, f.see(change(func(h *holder) { h.idle = 0 }), now))
	heard := change(func(h *holder) { h.changed, h.idle = now.Add(time.Second), 0 })
	require.False(t, f.see(heard, now.Add(2*time.Second)))
	heard.idle = time.Hour // the clock leaps
	require.False(t, f.see(heard, now.Add(4*time.Second)))
	require.False(t, f.see(heard, now.Add(2*time.Second+FrozenAfter-1)))
	require.True(t, f.see(heard, now.Add(2*time.Second+FrozenAfter)))
	h.started = now.Add(1)
	require.True(t, f.see(h, now.Add(2*time.Second)), "another backend has not been heard")
}

// TestHolderInWords: what is not known of a session is left out.
func TestHolderInWords(t *testing.T) {
	t.Parallel()
	pid, name, address, none := uint32(7), "psql", "10.0.0.1", ""
	for want, h := range map[string]holder{
		"":                                       {},
		"pid 7":                                  {pid: &pid, application: &none, address: &none},
		"pid 7, host 10.0.0.1":                   {pid: &pid, address: &address},
		"pid 7, application psql":                {pid: &pid, application: &name},
		"pid 7, application psql, host 10.0.0.1": {pid: &pid, application: &name, address: &address},
	} {
		require.Equal(t, want, h.String())
	}
}
