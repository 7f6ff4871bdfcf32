package odoo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// The company of a job is read only where that is wanted, by every statement that returns rows, and in
// every generation.
func TestCompanies(t *testing.T) {
	for _, gen := range []odoostub.Generation{odoostub.Connector7, odoostub.QueueJob10, odoostub.QueueJobLock} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			h.Insert(drivertest.Job{UUID: "a", State: "pending"})
			h.Insert(drivertest.Job{UUID: "b", State: "pending"})
			h.exec("UPDATE queue_job SET company_id = 7 WHERE uuid = 'a'")
			s := h.session()
			of := func() (companies [2]int32) {
				rows := h.snapshot(s)
				read, err := s.Read(h.deadline(), []string{"a"})
				require.NoError(t, err)
				require.Equal(t, rows["a"], read[0], "the two ways to read agree")
				return [2]int32{rows["a"].Company, rows["b"].Company}
			}
			require.Equal(t, [2]int32{0, 0}, of())
			s.(driver.Sharer).ReadKeys(driver.Keys{Companies: true})
			require.Equal(t, [2]int32{7, 0}, of())
			tasks, others, err := s.Claim(h.deadline(), []string{"b"}, []string{"a"})
			require.NoError(t, err)
			require.Len(t, tasks, 1)
			require.Equal(t, int32(7), others[0].Company)
			_, err = s.Inspect(h.deadline(), []string{"b"})
			require.NoError(t, err)
			rows, err := s.Unclaim(h.deadline(), tasks)
			require.NoError(t, err)
			require.Zero(t, rows[0].Company)
			s.(driver.Sharer).ReadKeys(driver.Keys{})
			require.Equal(t, [2]int32{0, 0}, of())
		})
	}
}

// Where there is no such column, all jobs are those of one company, and operators learn that.
func TestNoCompanies(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("ALTER TABLE queue_job DROP COLUMN company_id")
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	s := h.session()
	s.(driver.Sharer).ReadKeys(driver.Keys{Companies: true})
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.Equal(t, driver.Healthy, fp.Health)
	require.Contains(t, fp.Warnings, "policies count per company, and the table queue_job has no company_id, so all jobs count as one company")
	require.Zero(t, h.snapshot(s)["a"].Company)
}

// What stands for the identity key is read in the same way, also beside the company, and where there is
// no such column, nothing is serialized.
func TestIdentities(t *testing.T) {
	for _, keys := range []driver.Keys{{Identities: true}, {Companies: true, Identities: true}} {
		h := newHarness(t, odoostub.QueueJobLock)
		for uuid, identity := range map[string]string{"a": "'one'", "b": "'one'", "c": "'two'", "d": "''", "e": "NULL"} {
			h.Insert(drivertest.Job{UUID: uuid, State: "pending"})
			h.exec("UPDATE queue_job SET company_id = 7, identity_key = " + identity + " WHERE uuid = '" + uuid + "'")
		}
		s := h.session()
		require.Zero(t, h.snapshot(s)["a"].Identity)
		s.(driver.Sharer).ReadKeys(keys)
		rows := h.snapshot(s)
		read, err := s.Read(h.deadline(), []string{"a"})
		require.NoError(t, err)
		require.Equal(t, rows["a"], read[0], "the two ways to read agree")
		require.NotZero(t, rows["a"].Identity)
		require.Equal(t, rows["a"].Identity, rows["b"].Identity)
		require.NotEqual(t, rows["a"].Identity, rows["c"].Identity)
		require.Zero(t, rows["d"].Identity)
		require.Zero(t, rows["e"].Identity)
		require.Equal(t, keys.Companies, rows["a"].Company == 7)
		h.exec("ALTER TABLE queue_job DROP COLUMN identity_key")
		fp, err := s.Fingerprint(h.deadline())
		require.NoError(t, err)
		require.Contains(t, fp.Warnings, "policies serialize by identity_key, and the table queue_job has no identity_key, so nothing is serialized")
		require.Zero(t, h.snapshot(s)["a"].Identity)
	}
}
