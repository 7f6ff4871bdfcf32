package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/charmbracelet/x/ansi"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// TestFit: the parts fill the height and no more, a part that is cut says how much, and none is cut as
// long as there is room.
func TestFit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var parts [][]string
		total := -1
		for i, n := range rapid.SliceOfN(rapid.IntRange(1, 30), 1, 5).Draw(t, "lengths") {
			var part []string
			for j := range n {
				part = append(part, fmt.Sprintf("%d/%d", i, j))
			}
			parts = append(parts, part)
			total += n + 1
		}
		height := rapid.IntRange(0, 80).Draw(t, "height")
		lines := fit(parts, height)
		require.Len(t, lines, height)
		if total <= height {
			require.NotContains(t, strings.Join(lines, "\n"), "…")
		}
		shown := make([]int, len(parts))
		for _, line := range lines {
			var part, row int
			if n, _ := fmt.Sscanf(line, "%d/%d", &part, &row); n == 2 {
				require.Equal(t, shown[part], row, "the first lines, in their order")
				shown[part]++
			}
		}
		if 3*len(parts) <= height {
			for i, part := range parts {
				for j := range parts {
					require.False(t, shown[i] < len(part)-1 && shown[i]+2 < shown[j] && len(part) < len(parts[j]),
						"%d of %d lines of part %d, and %d of part %d", shown[i], len(part), i, shown[j], j)
				}
			}
		}
	})
}

// topScreen is a screen with an idle runner.
func topScreen() *screen {
	s := &screen{c: &call{flags: caddycmd.Flags{FlagSet: topCommand().Flags()}, out: newPrinter(&bytes.Buffer{}), now: time.Now}, interval: time.Second, ends: &ends{}}
	s.look = look{at: time.Now(), runners: []api.Status{{Runner: "default", Leader: true, State: api.Ready}}}
	return s
}

// TestTopWithoutAnswers: the screen keeps what it knew, says of when that is and what is wrong, and asks again.
func TestTopWithoutAnswers(t *testing.T) {
	t.Parallel()
	s := topScreen()
	require.Empty(t, s.View().Content, "the size is not known")
	_, cmd := s.Update(tea.WindowSizeMsg{Width: 70, Height: 24})
	require.Nil(t, cmd)
	content := s.View().Content
	require.Len(t, strings.Split(content, "\n"), 24)
	require.Contains(t, content, "q quits")

	_, cmd = s.Update(noLook{errors.New("connection\nrefused\x1b[2J")})
	require.NotNil(t, cmd, "it asks again")
	content = s.View().Content
	require.Contains(t, content, "connection refused\ufffd[2J; this is what was at "+s.look.at.Local().Format(time.TimeOnly))
	require.Contains(t, content, "default")
	require.Len(t, strings.Split(content, "\n"), 24)
	for line := range strings.Lines(content) {
		require.LessOrEqual(t, ansi.StringWidth(line), 70)
	}

	later := look{at: s.look.at.Add(time.Minute), runners: []api.Status{{Runner: "mails", State: api.NotReady}}}
	_, cmd = s.Update(later)
	require.NotNil(t, cmd)
	content = s.View().Content
	require.Contains(t, content, "q quits")
	require.Contains(t, content, "mails")
}

// TestTopShowsWhatEnds: the newest events come first, are bounded, and cannot control the terminal.
func TestTopShowsWhatEnds(t *testing.T) {
	t.Parallel()
	s := topScreen()
	s.Update(tea.WindowSizeMsg{Width: 100, Height: 40})
	for i := range 2 * topEnds {
		s.ends.add(fmt.Sprintf("job \x1b[31m%d", i))
	}
	require.Len(t, s.ends.list(), topEnds)
	content := s.View().Content
	require.Contains(t, content, fmt.Sprintf("LATEST\njob \ufffd[31m%d\n", 2*topEnds-1))
	require.Regexp(t, `… \d+ more lines`, content)
	require.NotContains(t, content, "\x1b")
	for _, kind := range []string{"job_done", "job_failed", "leader_changed"} {
		require.Contains(t, topKinds(), kind)
	}
	require.Subset(t, api.EventKinds(), topSteps)
	require.Len(t, topKinds(), len(api.EventKinds())-len(topSteps))
}

// TestTopTellsWhyThereAreNoEvents: a Caddy that refuses them is asked again, and its last word is no event.
func TestTopTellsWhyThereAreNoEvents(t *testing.T) {
	t.Parallel()
	asked := make(chan bool)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch _, open := <-asked; {
		case open:
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprint(w, `{"error":"no event is called objective_burns\n\u001b[2J"}`)
		default:
			w.Header().Set("Content-Type", "text/event-stream")
			for _, kind := range []string{"job_done", api.EventEnd} {
				_, _ = fmt.Fprintf(w, "event: %s\ndata: {\"event\":%q,\"database\":\"prod\"}\n\n", kind, kind)
			}
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	s := topScreen()
	var err error
	s.c.quiet, err = api.NewClient(srv.Listener.Addr().String())
	require.NoError(t, err)
	s.Update(tea.WindowSizeMsg{Width: 100, Height: 40})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() { defer close(ended); s.gather(ctx) }()
	asked <- true
	require.Eventually(t, func() bool {
		return strings.Contains(s.View().Content, "LATEST\nthe events cannot be shown: no event is called objective_burns \ufffd[2J\n")
	}, 10*time.Second, 10*time.Millisecond)
	close(asked)
	require.Eventually(t, func() bool { return strings.Contains(s.View().Content, "job_done") }, 10*time.Second, 10*time.Millisecond)
	require.Len(t, s.ends.list(), 1)
	cancel()
	<-ended
	require.Len(t, s.ends.list(), 1, "neither the end of the stream nor a refusal")
}

// TestTopWaitsNotForEver: a look that gets no answer ends after a while, and the screen says so.
func TestTopWaitsNotForEver(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer srv.Close()
	s := topScreen()
	s.c.ctx, s.patience = t.Context(), 50*time.Millisecond
	var err error
	s.c.quiet, err = api.NewClient(srv.Listener.Addr().String())
	require.NoError(t, err)
	_, cmd := s.Update(next{})
	failed, ok := cmd().(noLook)
	require.True(t, ok)
	require.ErrorContains(t, failed.err, "no answer in time")
	require.Equal(t, topPatient, patience(topLeast))
	require.Equal(t, 30*time.Second, patience(10*time.Second))
}

// TestTopQuits: by each of the keys that people try.
func TestTopQuits(t *testing.T) {
	t.Parallel()
	for _, key := range []tea.KeyPressMsg{{Code: 'q', Text: "q"}, {Code: tea.KeyEscape}, {Code: 'c', Mod: tea.ModCtrl}} {
		_, cmd := topScreen().Update(key)
		require.NotNil(t, cmd, key)
		require.Equal(t, tea.QuitMsg{}, cmd())
	}
	_, cmd := topScreen().Update(tea.KeyPressMsg{Code: 'x', Text: "x"})
	require.Nil(t, cmd)
}

// TestTopOfADumbTerminal: nothing is drawn where nothing can be.
func TestTopOfADumbTerminal(t *testing.T) {
	before := terminal
	defer func() { terminal = before }()
	terminal = func(io.Writer) (int, bool) { return 80, true }
	t.Setenv("TERM", "xterm")
	require.True(t, newPrinter(io.Discard).live)
	t.Setenv("TERM", "dumb")
	require.False(t, newPrinter(io.Discard).live)
	terminal = func(io.Writer) (int, bool) { return 0, false }
	t.Setenv("TERM", "xterm")
	require.False(t, newPrinter(io.Discard).live)
}
