package runner

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// with changes the configuration of an engine without a loop.
func (e *engine) with(change func(*Config)) {
	cfg := e.config()
	change(&cfg)
	e.config = func() Config { return cfg }
	e.notes.config, e.databases.config = e.config, e.config
}

// A claim cannot have met one of a former leader once this process has led for long, and leads.
func TestAlone(t *testing.T) {
	t.Parallel()
	won := time.Unix(1_700_000_000, 0)
	l := leadership{leading: true, wonAt: won}
	require.False(t, l.alone(won.Add(usurperLimit-1)))
	require.True(t, l.alone(won.Add(usurperLimit)))
	require.GreaterOrEqual(t, usurperLimit, time.Minute)
	l.leading = false
	require.False(t, l.alone(won.Add(usurperLimit)))
}

// Who leads is told when that changes, and only then.
func TestWhoLeadsIsTold(t *testing.T) {
	t.Parallel()
	e := still(nil)
	core, logs := observer.New(zap.DebugLevel)
	var told []string
	e.with(func(cfg *Config) {
		cfg.Logger = zap.New(core)
		cfg.Events = func(ev Event) {
			require.Equal(t, EventLeaderChanged, ev.Kind)
			told = append(told, ev.Detail)
		}
	})
	for _, c := range []struct {
		what string
		do   func()
		told []string
	}{
		{"nobody is known", func() { e.leading(false, "") }, nil},
		{"another one leads", func() { e.leading(false, "other") }, []string{"other"}},
		{"still", func() { e.leading(false, "other") }, nil},
		{"a third one", func() { e.leading(false, "third") }, []string{"third"}},
		{"this one", func() { e.leading(true, "") }, []string{leadingDetail}},
		{"still", func() { e.leading(true, "") }, nil},
		{"not any more", func() { e.leading(false, "third") }, []string{"third"}},
		{"this one", func() { e.leading(true, "") }, []string{leadingDetail}},
		{"nobody can be asked", func() { e.unreachable(errors.New("down")) }, []string{"down"}},
		{"still", func() { e.unreachable(errors.New("down")) }, nil},
		{"still, for another reason", func() { e.unreachable(errors.New("gone")) }, nil},
		{"another one leads", func() { e.leading(false, "other") }, []string{"other"}},
		{"nobody is known any more", func() { e.leading(false, "") }, nil},
	} {
		told = nil
		c.do()
		require.Equal(t, c.told, told, c.what)
	}
	require.Equal(t, 4, logs.FilterMessageSnippet("master election lost").Len())
	require.Equal(t, 2, logs.FilterMessage("maintenance connection lost, starting no jobs until it is back").Len())
}

// That another process leads is told after this one did, also if the same one was named before.
func TestTheSameLeaderIsToldAgain(t *testing.T) {
	t.Parallel()
	e := still(nil)
	var told []string
	e.with(func(cfg *Config) { cfg.Events = func(ev Event) { told = append(told, ev.Detail) } })
	e.leading(true, "other")
	e.leading(false, "other")
	require.Equal(t, []string{leadingDetail, "other"}, told)
}

// Young is a database that was made while this process leads: not one that was there from the
// beginning, nor one that has got another name.
func TestYoungDatabases(t *testing.T) {
	t.Parallel()
	e := still(nil)
	e.leadership.leading = true
	one, two, renamed := driver.Database{Name: "one", OID: 1}, driver.Database{Name: "two", OID: 2}, driver.Database{Name: "renamed", OID: 1}
	e.discovered([]driver.Database{one})
	require.False(t, e.databases.get("one").young)
	e.discovered([]driver.Database{one, two})
	require.False(t, e.databases.get("one").young)
	require.True(t, e.databases.get("two").young)
	e.discovered([]driver.Database{renamed, two})
	require.False(t, e.databases.get("renamed").young)
}

// That nothing has anything to run is said once, until something has.
func TestIdleIsSaidOnce(t *testing.T) {
	t.Parallel()
	e := still(nil)
	core, logs := observer.New(zap.WarnLevel)
	e.with(func(cfg *Config) { cfg.Logger = zap.New(core) })
	said := func(want int) {
		t.Helper()
		e.noticeIdle()
		require.Equal(t, want, logs.Len())
	}
	said(1)
	said(1)
	e.databases.byName["prod"] = &database{state: DatabaseReady}
	said(1)
	e.databases.byName["prod"].state = DatabaseUndetected
	said(2)
	said(2)
	e.databases.byName["test"] = &database{state: DatabaseStandby}
	said(2)
}

// A database that was replaced by one of the same name may have jobs under way; one that is gone has none.
func TestDroppedAndReplaced(t *testing.T) {
	t.Parallel()
	for name, kept := range map[string]bool{"prod": true, "other": false} {
		e := still(map[string]stage{"prod": stageServed})
		key := e.holds("prod", "a", &task{phase: phaseWatched})
		e.dropDatabases(func(*database) bool { return true }, driver.Database{Name: name, OID: 9})
		require.Empty(t, e.databases.byName)
		require.Equal(t, kept, e.tasks[key] != nil, name)
	}
}

// All databases are dropped that are to be, whichever others there are.
func TestDroppingSomeOfTheDatabases(t *testing.T) {
	t.Parallel()
	e := still(nil)
	for i := range 8 {
		for _, name := range []string{"stays", "goes"} {
			name += strconv.Itoa(i)
			e.databases.byName[name] = &database{Database: driver.Database{Name: name}}
		}
	}
	e.dropDatabases(func(db *database) bool { return strings.HasPrefix(db.Name, "goes") })
	require.Len(t, e.databases.byName, 8)
	for name := range e.databases.byName {
		require.Contains(t, name, "stays")
	}
}

// All tasks of a database are let go of that is lost, whichever others there are.
func TestLosingAllOfADatabase(t *testing.T) {
	t.Parallel()
	e := still(map[string]stage{"prod": stageServed, "other": stageServed})
	for i := range 8 {
		e.holds("prod", strconv.Itoa(i), &task{})
		e.holds("other", strconv.Itoa(i), &task{})
	}
	require.Equal(t, 8, e.lose(e.databases.get("prod")))
	require.Len(t, e.tasks, 8)
}
