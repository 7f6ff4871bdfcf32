package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// TestFoundNone: a channel by which nothing was found is called unknown if it is, by the process that
// knows all channels.
func TestFoundNone(t *testing.T) {
	e := &fakerunner.Engine{Says: runner.Status{Leader: true, Channels: []runner.ChannelStatus{
		{Status: channels.Status{DB: "a", FullName: "root"}}, {Status: channels.Status{DB: "b", FullName: "root"}},
		{Status: channels.Status{DB: "b", FullName: "root.mail"}},
	}}}
	k := fakerunner.Run(t, "default", e, zap.NewNop())
	for channel, says := range map[string]string{
		"": "", "mail": "", "root.mail": "", "root": "", "mial": `there is no channel "root.mial" now, known are root, root.mail`,
	} {
		require.Equal(t, says, foundNone(t.Context(), k, channel), channel)
	}
	e.Says.Leader = false
	require.Empty(t, foundNone(t.Context(), k, "mial"))
}

// lister is an engine that has one page of jobs.
type lister struct {
	fakerunner.Engine
	page runner.JobPage
}

func (l *lister) Jobs(context.Context, runner.JobQuery) (runner.JobPage, error) { return l.page, nil }

// TestListsWarn: a list of jobs, and a history, warn of an unknown channel only where nothing was found.
func TestListsWarn(t *testing.T) {
	e := &lister{}
	e.Says = runner.Status{Leader: true}
	k := fakerunner.RunWith(t, "default", e, zap.NewNop(), &history.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	queue(t, "default", 3, time.Second)
	require.Eventually(t, func() bool {
		r, err := k.History().Recording(t.Context(), time.Now().Add(-time.Hour), time.Now())
		return err == nil && len(r.Attempts) == 3
	}, time.Minute, 10*time.Millisecond)
	warning := func(path string) string {
		_, w := fakerunner.Ask(t, adminMux("jobs"), http.MethodGet, "/jobrunner/"+path, nil, nil)
		require.Equal(t, http.StatusOK, w.Code, w.Body.String())
		var doc struct{ Warning string }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		return doc.Warning
	}
	const says = `there is no channel "root.mial" now, no channel is known`
	require.Equal(t, says, warning("history?channel=mial"))
	require.Empty(t, warning("history?channel=mail"), "it has jobs, if no configuration knows it")
	require.Empty(t, warning("history?function=never"))

	require.Equal(t, says, warning("jobs?channel=mial"))
	require.Empty(t, warning("jobs?channel=mial&cursor=x"), "the page before had jobs")
	e.page.Next = "x"
	require.Empty(t, warning("jobs?channel=mial"), "there may be more")
}
