package postgres

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFrozen: only a session of ours that is blocked at every check, for long enough, is frozen, or
// one that has been silent for longer than it may.
func TestFrozen(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	pid, other := uint32(7), uint32(8)
	h := holder{pid: &pid, ours: true, started: now, blocked: true}
	check := func(f *frozen, h holder, n int) (yes bool) {
		for i := range n {
			yes = f.see(h, now.Add(time.Duration(i)*2*time.Second))
		}
		return yes
	}
	var f frozen
	require.False(t, check(&f, h, 8))
	require.True(t, check(&f, h, 9))
	change := func(f func(*holder)) holder { c := h; f(&c); return c }
	for name, c := range map[string]holder{
		"not ours":    change(func(h *holder) { h.ours = false }),
		"not blocked": change(func(h *holder) { h.blocked = false }),
		"no session":  {},
	} {
		f = frozen{}
		require.False(t, check(&f, c, 100), name)
		f = frozen{}
		check(&f, h, 8)
		f.see(c, now)
		require.False(t, f.see(h, now.Add(16*time.Second)), "%s in between", name)
	}
	f = frozen{}
	check(&f, h, 8)
	require.False(t, f.see(change(func(h *holder) { h.pid = &other }), now.Add(16*time.Second)))
	f = frozen{}
	check(&f, h, 8)
	require.False(t, f.see(change(func(h *holder) { h.started = now.Add(1) }), now.Add(16*time.Second)))
	f = frozen{}
	f.see(h, now)
	require.False(t, f.see(h, now.Add(time.Hour)), "two checks are too few")

	silent := change(func(h *holder) { h.blocked, h.idle = false, SilentAfter })
	f = frozen{}
	require.True(t, f.see(silent, now))
	silent.ours = false
	require.False(t, f.see(silent, now))
	silent.ours, silent.idle = true, SilentAfter-1
	require.False(t, f.see(silent, now))
}
