package runner

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// logs has the engine write to a log that a test can read.
func (e *engine) logs() *observer.ObservedLogs {
	core, logs := observer.New(zap.DebugLevel)
	cfg := e.config()
	cfg.Logger = zap.New(core)
	e.config = func() Config { return cfg }
	return logs
}

// The bound on closed connections is exact, and an attempt that counts may be closed again.
func TestHowManyConnectionsMayBeClosed(t *testing.T) {
	t.Parallel()
	h := handover{closed: map[channels.Key]closedAttempt{}}
	first := driver.Task{Key: channels.Key{DB: "prod", UUID: "0"}, Enqueued: 7}
	another := driver.Task{Key: channels.Key{DB: "prod", UUID: "x"}, Enqueued: 7}
	for i := range closedLimit - 1 {
		h.closed[channels.Key{DB: "prod", UUID: strconv.Itoa(i)}] = closedAttempt{enqueued: 7}
	}
	require.True(t, h.mayClose(&another))
	h.closed[channels.Key{DB: "prod", UUID: "last"}] = closedAttempt{enqueued: 7}
	require.False(t, h.mayClose(&another))
	require.True(t, h.mayClose(&first))
	first.Enqueued = 8
	require.False(t, h.mayClose(&first), "of the same job, and another attempt")
}

// A closed attempt is forgotten a month after its claim if its database is not there.
func TestClosedAttemptsExpire(t *testing.T) {
	t.Parallel()
	e, _ := served()
	now := time.UnixMicro(1_800_000_000_000_000)
	gone, prod := channels.Key{DB: "gone", UUID: "a"}, channels.Key{DB: "prod", UUID: "a"}
	claimed := now.Add(-30 * 24 * time.Hour).UnixMicro()
	e.handover.closed = map[channels.Key]closedAttempt{gone: {enqueued: claimed}, prod: {enqueued: claimed}}
	e.expireClosed(now.Add(-time.Microsecond))
	require.Len(t, e.handover.closed, 2)
	e.expireClosed(now)
	require.Contains(t, e.handover.closed, prod)
	require.NotContains(t, e.handover.closed, gone)
}

// It is told if the next leader is not.
func TestLeavingIsTold(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, errors.New("disk full")} {
		e, _ := served()
		logs := e.logs()
		cfg := e.config()
		cfg.Handover = &notebook{err: err}
		e.config = func() Config { return cfg }
		e.leadership.leading, e.leadership.settled = true, true
		e.leave()
		require.Equal(t, err != nil, logs.FilterMessage("what runs cannot be stored for the next leader").Len() == 1)
	}
}

// Slots are reserved for as many jobs as are not known yet, of this database alone, and not for ever.
func TestSlotsAreReservedForTheUnknown(t *testing.T) {
	t.Parallel()
	e, db := served()
	logs := e.logs()
	reserving := func() int { return logs.FilterMessage("reserving the slots of jobs that the former leader ran").Len() }
	e.holds("prod", "known", nil)
	e.holds("lost", "elsewhere", nil)
	e.holds("lost", "elsewhere too", nil)
	for i := range 5 {
		e.holds("test", strconv.Itoa(i), nil)
	}
	e.handover.left = []Slots{
		{Database: "prod", Channel: "root", Jobs: 1}, {Database: "lost", Channel: "root", Jobs: 5},
		{Database: "prod", UUID: "closed", Jobs: 5},
	}
	e.reserve(db)
	require.Empty(t, db.reserved)
	require.Zero(t, reserving(), "there is nothing to tell")
	e.handover.left[0].Jobs = 3
	e.reserve(db)
	require.Equal(t, []channels.Key{{DB: "prod", UUID: "(reserved 1 of root)"}, {DB: "prod", UUID: "(reserved 2 of root)"}}, db.reserved)
	require.Equal(t, 1, reserving())
	e.expireReserved(db.reservedAt.Add(mysteryLimit - 1))
	require.Len(t, db.reserved, 2)
	e.expireReserved(db.reservedAt.Add(mysteryLimit))
	require.Empty(t, db.reserved)
	require.Equal(t, []Slots{
		{Database: "lost", Channel: "root", Jobs: 2}, {Database: "prod", Channel: "root", Jobs: 1}, {Database: "test", Channel: "root", Jobs: 5},
	}, e.occupied())
}

// Every attempt is taken over whose connection the former leader has closed, except what is known
// better, and no more than a limit.
func TestClosedAttemptsAreTakenOver(t *testing.T) {
	t.Parallel()
	e := still(nil)
	attempt := func(uuid string) channels.Key { return channels.Key{DB: "prod", UUID: uuid} }
	e.handover.closed = map[channels.Key]closedAttempt{attempt("known"): {enqueued: 9, orders: 1}}
	left := []Slots{
		{Database: "prod", Channel: "root", Jobs: 3}, {Database: "prod", UUID: "a", Enqueued: 5},
		{Database: "prod", UUID: "known", Enqueued: 8}, {Database: "prod", Channel: "root.slow", Jobs: 1}, {Database: "prod", UUID: "b", Enqueued: 6},
	}
	e.takeOver(left)
	require.Equal(t, map[channels.Key]closedAttempt{
		attempt("known"): {enqueued: 9, orders: 1}, attempt("a"): {enqueued: 5, inherited: true}, attempt("b"): {enqueued: 6, inherited: true},
	}, e.handover.closed)
	require.Equal(t, left, e.handover.left)
	many := make([]Slots, inheritedLimit)
	for i := range many {
		many[i] = Slots{Database: "prod", UUID: strconv.Itoa(i), Enqueued: 7}
	}
	e.takeOver(many)
	require.Len(t, e.handover.closed, inheritedLimit)
}
