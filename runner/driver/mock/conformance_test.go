package mock_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

func TestConformance(t *testing.T) { drivertest.Run(t, newHarness) }

// harness implements [drivertest.Harness] on a world.
type harness struct {
	t *testing.T
	w *mock.World
}

func newHarness(t *testing.T) drivertest.Harness {
	w := mock.NewWorld()
	w.AddDatabase("prod", "other")
	w.Undetected("other")
	t.Cleanup(func() {
		w.Close()
		require.Empty(t, w.Violations())
	})
	return &harness{t: t, w: w}
}

func (h *harness) key(uuid string) channels.Key { return channels.Key{DB: "prod", UUID: uuid} }

func (h *harness) Driver() driver.Driver     { return h.w.Driver() }
func (h *harness) Postgres() *pgx.ConnConfig { return nil }
func (h *harness) Database() string          { return "prod" }
func (h *harness) Foreign() string           { return "other" }
func (h *harness) Notify(payload string)     { h.w.Notify("prod", payload) }
func (h *harness) Delete(uuid string)        { h.w.Delete(h.key(uuid)) }
func (h *harness) FreeLock(uuid string)      { h.w.FreeLock(h.key(uuid)) }
func (h *harness) Terminate()                { h.w.LoseSession("prod") }

func (h *harness) Cause(uuid string) string {
	row, _ := h.w.Row(h.key(uuid))
	return strings.Join(row.Causes, "\n\n")
}

func (h *harness) Insert(j drivertest.Job) {
	micros := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.UnixMicro()
	}
	job := mock.NewJob("prod", j.UUID)
	job.State, job.RawState = channels.ParseState(j.State), j.State
	job.Channel, job.Priority, job.Retry = j.Channel, j.Priority, j.Retry
	job.Created, job.ETA, job.Enqueued = micros(j.Created), micros(j.ETA), micros(j.Enqueued)
	job.MaxRetries, job.LockRow = j.MaxRetries, j.LockRow
	job.DependsOn, job.Done = j.DependsOn, j.Done
	h.w.Insert(job)
}

func (h *harness) SetChannels(cfgs []channels.Config) { h.w.SetChannels("prod", cfgs...) }

func (h *harness) Mark(modules ...string) { h.w.Mark("prod", strings.Join(modules, ", ")) }

func (h *harness) Change() (end func()) {
	h.w.Upgrade("prod", true)
	return func() { h.w.Upgrade("prod", false) }
}

func (h *harness) SetState(uuid, state string) {
	require.True(h.t, h.w.SetState(h.key(uuid), channels.ParseState(state)))
}

func (h *harness) HoldLock(uuid string) uint32 {
	h.w.HoldLock(h.key(uuid), 77)
	return 77
}

func (h *harness) Upstream(b drivertest.Behaviour) driver.Upstream {
	up := driver.Upstream{Name: string(rune('a' + b))}
	switch b {
	case drivertest.Works:
	case drivertest.Unavailable:
		h.w.UpstreamFault(up.Name, func(f *mock.UpstreamFaults) {
			f.RefuseN, f.CheckErr = 1, errors.New("status 503")
		})
	case drivertest.Closed:
		h.w.UpstreamFault(up.Name, func(f *mock.UpstreamFaults) {
			f.FailBeforeSend, f.CheckErr = -1, errors.New("connection refused")
		})
	case drivertest.Cuts:
		h.w.UpstreamFault(up.Name, func(f *mock.UpstreamFaults) { f.CutN = 1 })
	}
	return up
}
