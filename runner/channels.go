package runner

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// configure puts the channels of a configuration into force.
func (d *databases) configure(cfg Config) error {
	defer d.reread()
	if cfg.DatabaseChannels != nil {
		d.useDatabaseChannels(*cfg.DatabaseChannels)
		return nil
	}
	return d.useChannels(cfg.Channels)
}

// useChannels makes it one channel tree for all databases.
func (d *databases) useChannels(cfgs []channels.Config) error {
	if err := d.tree.Configure(cfgs); err != nil {
		return err
	}
	for _, st := range d.tree.Channels() {
		if st.Configured {
			d.log().Info("Configured channel: " + st.String())
		}
	}
	for _, db := range d.byName {
		d.judge(db, nil)
	}
	return nil
}

// useDatabaseChannels gives each database its own tree. Those that had none yield nothing until their
// sessions have read what is configured.
func (d *databases) useDatabaseChannels(c channels.Capacities) {
	d.log().Info("channels are configured in the databases", zap.Int("max_capacity", c.Max), zap.Int("db_max_capacity_rules", len(c.Rules)))
	d.tree.ConfigureDatabases(c)
	for _, db := range d.byName {
		if db.session != nil {
			db.session.ReloadChannels()
		}
	}
}

// channelsRead takes in the channels that are configured in a database; err says why there are none
// that could be used.
func (d *databases) channelsRead(db *database, cfgs []channels.Config, err error) {
	if d.config().DatabaseChannels == nil {
		return // read before that changed
	}
	before := d.tree.DatabaseChannels(db.Name)
	if err == nil {
		err = d.tree.ConfigureDatabase(db.Name, cfgs)
	} else {
		d.tree.Withhold(db.Name)
	}
	d.judge(db, err)
	d.logChannels(db, before)
	d.reread()
}

// reread has the rows of databases read anew whose jobs wait for that, after channels have changed.
// A database without a session has it done by the next one.
func (d *databases) reread() {
	for _, name := range d.tree.Displaced() {
		if db := d.byName[name]; db != nil && db.session != nil && db.stage.known() {
			db.session.Resync()
		}
	}
}

// Times of the lines about databases that name too many channels: between two checks, and between
// two lines of one database.
const (
	sharingCheck    = 5 * time.Second
	sharingInterval = time.Minute
)

// tellSharing says which databases name more channels than they can have.
func (d *databases) tellSharing(now time.Time) {
	if now.Before(d.sharingAt) {
		return
	}
	d.sharingAt = now.Add(sharingCheck)
	for _, db := range d.byName {
		if n := d.tree.Sharing(db.Name); n > 0 && now.Sub(db.sharingTold) >= sharingInterval {
			db.sharingTold = now
			d.log().Warn(fmt.Sprintf("jobs name more channels than a database can have, those of further names share %s below the nearest configured one",
				channels.OthersName), zap.String("database", db.Name), zap.Int("jobs", n), zap.Int("channels", channels.NamesPerDatabase))
		}
	}
}

// judge remembers what is wrong with the channels of a database, if anything.
func (d *databases) judge(db *database, err error) {
	db.misconfigured, db.unreadable = "", errors.Is(err, driver.ErrChannels)
	if err != nil {
		db.misconfigured = err.Error()
	}
	d.derive(db)
}

// logChannels writes the channels of a database down if their limits have changed.
func (d *databases) logChannels(db *database, before []channels.Status) {
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
	now := d.tree.DatabaseChannels(db.Name)
	if db.misconfigured != "" || slices.Equal(configured(before), configured(now)) {
		return
	}
	var lines []string
	for i := range now {
		if now[i].Configured {
			lines = append(lines, now[i].String())
		}
	}
	d.log().Info("Configured channels", zap.String("database", db.Name), zap.Strings("channels", lines))
}
