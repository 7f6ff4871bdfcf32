package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// visit sends an action as the page of the dashboard does.
func (tb *testBed) visit(path, body string) (status int, answer string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://"+tb.site+"/jobrunner/"+path, strings.NewReader(body))
	require.NoError(tb, err)
	for name, value := range map[string]string{"Content-Type": "application/json", "X-Jobrunner-Dashboard": "1", "Sec-Fetch-Site": "same-origin"} {
		req.Header.Set(name, value)
	}
	res, err := testbed.Client.Do(req)
	require.NoError(tb, err)
	defer testbed.Client.CloseIdleConnections()
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	require.NoError(tb, err)
	return res.StatusCode, string(raw)
}

// capacityOf is what is in force.
func (tb *testBed) capacityOf(channel string) int {
	tb.Helper()
	for _, c := range list(tb.get("channels", http.StatusOK), "channels") {
		if c["channel"] == channel {
			return int(c["capacity"].(float64))
		}
	}
	return -1
}

// TestCapacity: the dashboard changes the capacity of a channel in Caddy's configuration, if that has it as a
// number, and says why not otherwise.
func TestCapacity(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.tree = none
	tb.more = "channel root 8\nchannel mail 2\nchannel root.plain\nchannel root.part 50%\nchannel root.steps 1 {\n\tsequential\n}"
	dashboard := func(options string) {
		tb.routes = "jobrunner_dashboard {\n\t\tactions\n" + options + "\n\t}\n\tjobrunner_guard\n\treverse_proxy {{range .Odoo}}{{.Addr}} {{end}}"
	}
	dashboard("admin " + tb.admin)
	tb.run()
	tb.untilReady()
	ask := func(channel string, capacity int, more string) (int, string) {
		return tb.visit("capacity", fmt.Sprintf(`{"channel": %q, "capacity": %d%s}`, channel, capacity, more))
	}
	said := func(text string) (a api.CapacityAnswer) {
		require.NoError(t, json.Unmarshal([]byte(text), &a), text)
		return a
	}

	status, text := ask("root.mail", 5, `, "dry_run": true`)
	require.Equal(t, http.StatusOK, status, text)
	require.Equal(t, api.CapacityAnswer{
		Runner: "default", Channel: "root.mail", Before: 2, After: 5, Line: "channel root.mail 5",
		Path: "/config/apps/jobrunner/runners/default/channels/" + said(text).Path[len("/config/apps/jobrunner/runners/default/channels/"):],
	}, said(text))
	require.Equal(t, 2, tb.capacityOf("root.mail"), "it is a dry run")
	for channel, capacity := range map[string]int{"mail": 5, "root": 9, "root.plain": 3} {
		status, text := ask(channel, capacity, `, "note": "a campaign"`)
		require.Equal(t, http.StatusOK, status, text)
		tb.until("it is in force", func() bool { return tb.capacityOf(said(text).Channel) == capacity })
		status, raw := tb.request(http.MethodGet, said(text).Path, "")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, fmt.Sprint(capacity), strings.TrimSpace(raw))
	}

	for name, c := range map[string]struct {
		channel  string
		capacity int
		status   int
		says     string
	}{
		"not there":    {"root.other", 5, http.StatusConflict, "does not name channel root.other: add it there first, as in: channel root.other 5"},
		"sequential":   {"root.steps", 5, http.StatusConflict, "one by one"},
		"a part":       {"root.part", 5, http.StatusConflict, "50 % of the channel above"},
		"nothing":      {"root.mail", 0, http.StatusBadRequest, "not a number from 1"},
		"a slip":       {"root.mail", 100001, http.StatusBadRequest, "not a number from 1"},
		"less than no": {"root.mail", -1, http.StatusBadRequest, "not a number from 1"},
	} {
		status, text := ask(c.channel, c.capacity, "")
		require.Equal(t, c.status, status, "%s: %s", name, text)
		require.Contains(t, text, c.says, name)
	}

	dashboard("admin " + tb.site)
	tb.load()
	status, text = ask("root.mail", 6, "")
	require.Equal(t, http.StatusBadGateway, status, text)
	require.Equal(t, 2, tb.capacityOf("root.mail"), "the file's, after a load")
	dashboard("admin 127.0.0.1:1")
	tb.load()
	status, text = ask("root.mail", 6, "")
	require.Equal(t, http.StatusBadGateway, status)
	require.Contains(t, text, "cannot be reached")
}
