package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// vacantDatabase is a database whose pending jobs want nothing but a slot, but for those named channel.
type vacantDatabase struct {
	watched

	statements []string
}

func (d *vacantDatabase) Claim(ctx context.Context, uuids, reads []string) ([]driver.Task, []driver.Row, error) {
	d.statements = append(d.statements, fmt.Sprintf("claim %v, read %v", uuids, reads))
	return d.watched.Claim(ctx, uuids, reads)
}

func (d *vacantDatabase) ClaimVacant(_ context.Context, uuid string) (got []driver.Task, rows []driver.Row, err error) {
	d.statements = append(d.statements, "claim vacant "+uuid)
	if uuid != "channel" {
		got = []driver.Task{{Key: channels.Key{UUID: uuid}}}
	}
	return got, rowsOf(channels.Pending, uuid), d.errs["ClaimVacant"]
}

func (d *vacantDatabase) Read(ctx context.Context, uuids []string) ([]driver.Row, error) {
	d.statements = append(d.statements, fmt.Sprintf("read %v", uuids))
	return d.watched.Read(ctx, uuids)
}

// noneOpen says that there is no open request.
func noneOpen(string) bool { return false }

// vacantClerk is a clerk to whom upgrades are nothing.
type vacantClerk struct{ clerk }

func (*vacantClerk) Upgrading(driver.Upgrade) {}

func vacantOf(gate bool) (*vacantDatabase, *vacantClerk, *Session) {
	w, _, s := watchedOf(gate)
	d, out := &vacantDatabase{watched: *w}, &vacantClerk{}
	s.conn, s.out = d, out
	return d, out, s
}

// A grant is used for one job that a notification has named, alone, and for nothing else.
func TestGrantIsUsed(t *testing.T) {
	const scheduled = "scheduled"
	for name, c := range map[string]struct {
		dirty      []string
		set        func(*vacantDatabase, *Session)
		statements []string
		told       []string
		left       bool // whether the grant is
	}{
		"claimed": {
			dirty: []string{"a"}, statements: []string{"claim vacant a"},
			told: []string{"vacant: 1 rows, 1 claimed", scheduled},
		},
		"only read": {
			dirty: []string{"channel"}, statements: []string{"claim vacant channel"},
			told: []string{"vacant: 1 rows, 0 claimed", scheduled},
		},
		"two jobs": {
			dirty: []string{"a", "b"}, statements: []string{"read [a b]"},
			told: []string{"2 rows, 0 gone", scheduled}, left: true,
		},
		"a claim is ordered": {
			dirty: []string{"a"}, set: func(_ *vacantDatabase, s *Session) { s.Claim("z") },
			statements: []string{"claim [z], read [a]"},
			told:       []string{"1 rows, 0 gone", "1 claimed, 0 missed, 0 gone", scheduled}, left: true,
		},
		"a read is ordered": {
			dirty: []string{"a"}, set: func(_ *vacantDatabase, s *Session) { s.Read("a") }, statements: []string{"read [a]"},
			told: []string{"1 rows, 0 gone", scheduled}, left: true,
		},
		"its request is open": {
			dirty: []string{"open"}, statements: []string{"read [open]"},
			told: []string{"1 rows, 0 gone", scheduled}, left: true,
		},
		"many are read": {
			dirty: []string{"a"}, set: func(_ *vacantDatabase, s *Session) { s.readAfter = time.Now().Add(time.Hour) },
			left: true,
		},
		"it meets a lock": {
			dirty: []string{"a"}, set: func(d *vacantDatabase, _ *Session) { d.errs = map[string]error{"ClaimVacant": driver.ErrUpgrading} },
			statements: []string{"claim vacant a", "read [a]"},
			told:       []string{"vacant: 0 rows, 0 claimed", "1 rows, 0 gone", scheduled},
		},
		"shortly after a lock": {
			dirty: []string{"a"}, set: func(_ *vacantDatabase, s *Session) { s.claimAfter = time.Now().Add(time.Hour) },
			statements: []string{"read [a]"},
			told:       []string{"vacant: 0 rows, 0 claimed", "1 rows, 0 gone", scheduled},
		},
		"during an upgrade": {
			dirty: []string{"a"}, set: func(_ *vacantDatabase, s *Session) {
				s.gating, s.upgradeAt, s.upgrade = true, time.Now(), driver.Upgrade{Active: true}
			},
			statements: []string{"read [a]"},
			told:       []string{"vacant: 0 rows, 0 claimed", "1 rows, 0 gone", scheduled},
		},
		"a driver that cannot": {
			dirty: []string{"a"}, set: func(d *vacantDatabase, s *Session) { s.conn = struct{ driver.Session }{d} },
			statements: []string{"read [a]"},
			told:       []string{"vacant: 0 rows, 0 claimed", "1 rows, 0 gone", scheduled},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, out, s := vacantOf(false)
			for _, uuid := range c.dirty {
				s.dirty.add(uuid)
			}
			s.Grant(func(uuid string) bool { return uuid == "open" })
			if c.set != nil {
				c.set(d, s)
			}
			o := s.take()
			require.NoError(t, s.execute(t.Context(), &o))
			require.Equal(t, c.statements, d.statements)
			require.Equal(t, c.told, out.told)
			require.Equal(t, c.left, s.granted != nil)
			require.Equal(t, strings.Contains(name, "a lock"), s.claimAfter.After(time.Now()))
			uuid, since := s.Claiming()
			require.Equal(t, !c.left, uuid != "")
			require.Equal(t, c.left, since.IsZero())
			require.Equal(t, c.left, s.Withdraw(), "until the answer has been taken in")
			s.Answered()
			require.True(t, s.Withdraw())
		})
	}
}

// Without a grant, and while one is used, nothing is claimed that nobody has ordered.
func TestNoGrant(t *testing.T) {
	d, _, s := vacantOf(false)
	read := func() string {
		d.statements = nil
		s.dirty.add("a")
		o := s.take()
		require.NoError(t, s.execute(t.Context(), &o))
		require.Len(t, d.statements, 1)
		return d.statements[0]
	}
	require.Equal(t, "read [a]", read())
	s.Grant(noneOpen)
	require.True(t, s.Withdraw())
	require.Equal(t, "read [a]", read())
	s.Grant(noneOpen)
	require.Equal(t, "claim vacant a", read())
	require.Equal(t, "read [a]", read(), "it was for one job")
	s.Grant(noneOpen)
	require.Equal(t, "read [a]", read(), "the answer to the first has not been taken in")
	s.Answered()
	require.Equal(t, "claim vacant a", read())
}

// What fails ends the connection, and the claim is known as one whose end nobody knows.
func TestGrantThatFails(t *testing.T) {
	failed := errors.New("failed")
	for name, set := range map[string]func(*vacantDatabase, *Session){
		"the claim":       func(d *vacantDatabase, _ *Session) { d.errs = map[string]error{"ClaimVacant": failed} },
		"the look before": func(d *vacantDatabase, s *Session) { s.gating, d.errs = true, map[string]error{"Upgrading": failed} },
		"the read alone": func(d *vacantDatabase, s *Session) {
			s.claimAfter, d.errs = time.Now().Add(time.Hour), map[string]error{"Read": failed}
		},
	} {
		d, _, s := vacantOf(true)
		s.dirty.add("a")
		s.Grant(noneOpen)
		set(d, s)
		o := s.take()
		require.ErrorIs(t, s.execute(t.Context(), &o), failed, name)
		uuid, _ := s.Claiming()
		require.Equal(t, "a", uuid, name)
	}
}

// What a grant has claimed has an echo to come, and notifications that are foreseen.
func TestEchoOfAGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, s := vacantOf(false)
		s.dirty.add("a")
		s.Grant(noneOpen)
		o := s.take()
		require.NoError(t, s.execute(t.Context(), &o))
		require.Equal(t, time.Now(), s.echoSince)
		require.Equal(t, map[string]stage{"a": stageClaimed}, s.foreseen.stages)
		require.Empty(t, s.foreseen.ended)
	})
}
