package runner

import (
	"errors"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// useChannels makes it one channel tree for all databases.
func (e *engine) useChannels(cfgs []channels.Config) error {
	if err := e.tree.Configure(cfgs); err != nil {
		return err
	}
	for _, st := range e.tree.Channels() {
		if st.Configured {
			e.log().Info("Configured channel: " + st.String())
		}
	}
	for _, db := range e.databases {
		e.judge(db, nil)
	}
	return nil
}

// useDatabaseChannels gives each database a tree of its own. Those that had none
// yield nothing until their sessions have read what is configured.
func (e *engine) useDatabaseChannels(c channels.Capacities) {
	e.log().Info("channels are configured in the databases", zap.Int("max_capacity", c.Max), zap.Int("db_max_capacity_rules", len(c.Rules)))
	e.tree.ConfigureDatabases(c)
	for _, db := range e.databases {
		if db.session != nil {
			db.session.order(func(o *orders) { o.channels = true })
		}
	}
}

// channelsRead implements listener.
func (e *engine) channelsRead(s *session, cfgs []channels.Config, err error) {
	e.postFor(s, func(db *database) {
		if e.config().DatabaseChannels == nil {
			return // read before that changed
		}
		before := e.tree.DatabaseChannels(db.Name)
		if err == nil {
			err = e.tree.ConfigureDatabase(db.Name, cfgs)
		} else {
			e.tree.Withhold(db.Name)
		}
		e.judge(db, err)
		e.logChannels(db, before)
	})
}

// judge remembers what is wrong with the channels of a database, if anything.
func (e *engine) judge(db *database, err error) {
	was := db.misconfigured
	db.misconfigured, db.unreadable = "", errors.Is(err, driver.ErrChannels)
	if err != nil {
		db.misconfigured = err.Error()
	}
	if db.known && db.misconfigured != was {
		e.open(db)
	}
}

// severity is how bad it is that the database is unhealthy for that reason: a
// mistake in its channels is up to those who made it.
func (db *database) severity(reason string) zapcore.Level {
	if reason == db.misconfigured && !db.unreadable {
		return zapcore.WarnLevel
	}
	return zapcore.ErrorLevel
}

// logChannels writes the channels of a database down if their limits have changed.
func (e *engine) logChannels(db *database, before []channels.Status) {
	configured := func(list []channels.Status) (limits []channels.Config) {
		for i := range list {
			if st := &list[i]; st.Configured {
				limits = append(limits, channels.Config{
					Name: st.FullName, Capacity: st.Capacity, Sequential: st.Sequential, Throttle: st.Throttle, Paused: st.Paused,
				})
			}
		}
		return limits
	}
	now := e.tree.DatabaseChannels(db.Name)
	if db.misconfigured != "" || slices.Equal(configured(before), configured(now)) {
		return
	}
	var lines []string
	for i := range now {
		if now[i].Configured {
			lines = append(lines, now[i].String())
		}
	}
	e.log().Info("Configured channels", zap.String("database", db.Name), zap.Strings("channels", lines))
}
