package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// clerk notes what it is asked to do.
type clerk struct {
	fakerunner.Desk
	asked   runner.JobQuery
	changes []runner.JobChange
	lost    error
}

func (c *clerk) Jobs(_ context.Context, q runner.JobQuery) (runner.JobPage, error) {
	c.asked = q
	return runner.JobPage{Next: "next", Partial: true, Left: 7, Problems: []string{"prod: " + refusedText}}, c.lost
}

func (c *clerk) Change(_ context.Context, change runner.JobChange) (runner.ChangeResult, error) {
	c.changes = append(c.changes, change)
	return runner.ChangeResult{Changed: change.Limit, More: true}, nil
}

// refusedText has what visitors do not get to read.
const refusedText = "connect to prod: connection lost: failed to connect to `user=odoo database=prod`:\n\t10.0.0.9:5432 (db): dial error: dial tcp 10.0.0.9:5432: connect: connection refused"

// TestListOfJobs: a visitor can ask for what the admin API can be asked, and gets a page that is not too long,
// without addresses and roles of PostgreSQL.
func TestListOfJobs(t *testing.T) {
	e := &clerk{}
	site := desk(t, e, "jobrunner_dashboard")
	for limit, want := range map[string]int{"": jobsShown, "&limit=7": 7, "&limit=5000": jobsShown} {
		res, body := send(t, http.MethodGet, site+"/jobrunner/jobs?database=prod&state=failed&function=m.f&name=x&identity=k&newer_than=2d&older_than=1h&uuid=3f2a&channel=root.a&exception=E&cursor=c"+limit, "")
		require.Equal(t, http.StatusOK, res.StatusCode, body)
		require.Equal(t, runner.JobQuery{
			Database: "prod", Cursor: "c", Limit: want,
			Filter: driver.Filter{
				Prefix: "3f2a", States: []channels.State{channels.Failed}, Channel: "root.a", Exception: "E", Function: "m.f", Name: "x", Identity: "k",
				OlderThan: time.Hour, NewerThan: 48 * time.Hour,
			},
		}, e.asked)
		var page api.JobPage
		require.NoError(t, json.Unmarshal([]byte(body), &page))
		require.True(t, page.Partial)
		require.Equal(t, 7, page.Left)
		require.NotContains(t, body, "10.0.0.9")
		require.NotContains(t, body, "odoo")
	}
	e.lost = errors.New(refusedText)
	res, body := send(t, http.MethodGet, site+"/jobrunner/jobs", "")
	require.Equal(t, http.StatusBadGateway, res.StatusCode)
	require.NotContains(t, body, "10.0.0.9")
}

// TestBulkActions: one request of a visitor changes no more jobs than it may, in the preview as in earnest.
func TestBulkActions(t *testing.T) {
	e := &clerk{}
	site := desk(t, e, "jobrunner_dashboard {\n\tactions\n}")
	ok := []string{"Content-Type", "application/json", actionHeader, "1", "Origin", site, "Sec-Fetch-Site", "same-origin"}
	for path, action := range map[string]driver.Action{"requeue": driver.Requeue, "cancel": driver.Cancel, "set-done": driver.SetDone} {
		for body, want := range map[string]int{
			`{"states": ["failed"], "dry_run": true}`: bulkLimit, `{"states": ["failed"]}`: bulkLimit, `{"states": ["failed"], "limit": 5000}`: bulkLimit,
			`{"states": ["failed"], "limit": 5}`: 5,
		} {
			e.changes = nil
			res, said := send(t, http.MethodPost, site+"/jobrunner/"+path, body, ok...)
			require.Equal(t, http.StatusOK, res.StatusCode, said)
			require.Len(t, e.changes, 1)
			require.Equal(t, want, e.changes[0].Limit)
			require.Equal(t, action, e.changes[0].Action)
			require.Equal(t, "dashboard, 127.0.0.1", e.changes[0].By)
		}
		e.changes = nil
		res, _ := send(t, http.MethodPost, site+"/jobrunner/"+path, `{"states": ["failed"]}`, ok[:2]...)
		require.Equal(t, http.StatusForbidden, res.StatusCode, "a page of another site")
		res, _ = send(t, http.MethodPost, site+"/jobrunner/"+path, `{}`, ok...)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, "everything")
		require.Empty(t, e.changes)
	}
}
