package odoo_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// channels reads the channels on a new session.
func (h *harness) channels() ([]channels.Config, error) {
	h.t.Helper()
	reader, ok := h.session().(driver.ChannelReader)
	require.True(h.t, ok)
	return reader.Channels(h.deadline())
}

// TestChannelsOfGenerations: only the newest has them, the others say what to do.
func TestChannelsOfGenerations(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			cfgs, err := newHarness(t, gen).channels()
			switch gen {
			case odoostub.Channels:
				require.NoError(t, err)
				require.Equal(t, []channels.Config{{Name: "root"}}, cfgs)
			case odoostub.Connector7:
				require.ErrorIs(t, err, driver.ErrChannels)
				require.ErrorContains(t, err, "there is no table queue_job_channel")
			default:
				require.ErrorIs(t, err, driver.ErrChannels)
				require.ErrorContains(t, err, "lacks capacity, sequential, throttle, paused, capacity_default, sequential_default: upgrade the add-on")
			}
		})
	}
}

func TestChannelsOddValues(t *testing.T) {
	h := newHarness(t, odoostub.Channels)
	h.exec("ALTER TABLE queue_job_channel DROP COLUMN paused")
	_, err := h.channels()
	require.ErrorContains(t, err, "the table queue_job_channel lacks paused: upgrade the add-on queue_job")
	h.exec("ALTER TABLE queue_job_channel ADD COLUMN paused boolean")
	h.exec(`INSERT INTO queue_job_channel (name, complete_name, capacity, throttle, paused) VALUES
		('nameless', NULL, 1, 1, false), ('ä. b', 'root.ä. b', -1, -2, true)`)
	cfgs, err := h.channels()
	require.NoError(t, err)
	require.Equal(t, []channels.Config{
		{Name: "root"}, {Name: "root.ä. b", Capacity: -1, Throttle: -2 * time.Second, Paused: true},
	}, cfgs, "what a value means is not for the driver to say")
}

func TestChannelsNeedThePrivilege(t *testing.T) {
	h := newHarness(t, odoostub.Channels)
	h.exec("CREATE ROLE blind_" + h.db + " LOGIN")
	h.exec("GRANT SELECT ON ir_module_module TO blind_" + h.db)
	h.exec("GRANT SELECT, UPDATE ON queue_job, queue_job_lock TO blind_" + h.db)
	pg := h.Postgres()
	pg.User = "blind_" + h.db
	s, err := h.Driver().OpenSession(h.deadline(), pg, h.db)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.Equal(t, driver.Healthy, fp.Health, fp.Description)
	_, err = s.(driver.ChannelReader).Channels(h.deadline())
	require.ErrorIs(t, err, driver.ErrChannels)
	require.ErrorContains(t, err, "GRANT SELECT on it")
}

func TestChannelsBeforeFingerprint(t *testing.T) {
	h := newHarness(t, odoostub.Channels)
	s, err := h.Driver().OpenSession(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	_, err = s.(driver.ChannelReader).Channels(h.deadline())
	require.ErrorContains(t, err, "no fingerprint")
}
