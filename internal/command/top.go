package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

func topCommand() *cobra.Command {
	cmd := sub("top", "Shows what runs, what waits and what ends, until q is pressed", cobra.NoArgs, (*call).top)
	cmd.Flags().Duration("interval", topInterval, "Time between two looks, at least 100ms")
	cmd.Flags().Bool("once", false, "Print it once, as where there is no terminal")
	return cmd
}

const (
	topInterval = 2 * time.Second
	// topLeast is the shortest interval: each look asks for three documents.
	topLeast = 100 * time.Millisecond
	// topRows is how many channels, and how many jobs that run, are asked for.
	topRows = 1000
	// topEnds is how many events are kept.
	topEnds = 200
	// topPause is the time before the events are asked for again.
	topPause = time.Second
	// topPatient is how long a look may take at least.
	topPatient = 5 * time.Second
)

// topKinds are the events that top shows: how attempts ended, and what an operator has to know. The
// others are steps on the way, of which there are several for each job.
func topKinds() []string {
	return slices.DeleteFunc(api.EventKinds(), func(kind string) bool { return slices.Contains(topSteps, kind) })
}

var topSteps = []string{"claimed", "dispatched", "answered", "notifications", "resynced"}

func (c *call) top() (int, error) {
	if c.json() {
		return 1, errors.New("top is a screen: status, channels, tasks and events print JSON")
	}
	interval, err := c.flags.GetDuration("interval")
	if err != nil {
		return 1, err
	}
	if interval < topLeast {
		return 1, fmt.Errorf("interval %s is shorter than %s", interval, topLeast)
	}
	s := &screen{c: c, interval: interval, patience: patience(interval), ends: &ends{}}
	if s.look, err = s.ask(c.ctx); err != nil {
		return 1, err
	}
	if !c.out.live || c.flags.Bool("once") {
		for _, part := range s.parts() {
			c.out.buffer.WriteString(strings.Join(part, "\n") + "\n\n")
		}
		c.out.buffer.Truncate(c.out.buffer.Len() - 1)
		return 0, nil
	}
	return s.run()
}

// patience is how long a look may take: what the screen shows is not much older than that before it says so.
func patience(interval time.Duration) time.Duration { return max(3*interval, topPatient) }

// screen is what top shows: the answers to the last look, and what has happened since it began.
type screen struct {
	c        *call
	interval time.Duration
	// patience is how long a look may take.
	patience time.Duration
	height   int
	look     look
	ends     *ends
	// problem is why the look before is still shown.
	problem string
}

// look is one set of answers. It is a message of the library.
type look struct {
	at       time.Time
	runners  []api.Status
	channels api.Channels
	tasks    api.Tasks
}

// noLook is a message, too: that there were no answers.
type noLook struct{ err error }

// next is a message that it is time for another look.
type next struct{}

func (s *screen) ask(ctx context.Context) (l look, err error) {
	c := s.c
	l.at = c.now()
	if l.runners, err = c.quiet.Status(ctx, c.runner); err != nil {
		return l, err
	}
	q := api.ListQuery{Runner: c.runner, Limit: topRows}
	if l.channels, err = c.quiet.Channels(ctx, q); err != nil {
		return l, err
	}
	l.tasks, err = c.quiet.Tasks(ctx, q)
	return l, err
}

// run shows the screen until the user has seen enough. Bubble Tea puts the terminal back, after a
// panic as well.
func (s *screen) run() (int, error) {
	ctx, cancel := context.WithCancel(s.c.ctx)
	var gathering sync.WaitGroup
	gathering.Go(func() { s.gather(ctx) })
	defer gathering.Wait()
	defer cancel()
	options := []tea.ProgramOption{tea.WithContext(ctx), tea.WithOutput(s.c.out.to)}
	if s.c.keys != os.Stdin {
		options = append(options, tea.WithInput(s.c.keys)) // by itself, it looks for the terminal
	}
	_, err := tea.NewProgram(s, options...).Run()
	if err == nil || errors.Is(err, tea.ErrInterrupted) || errors.Is(err, context.Canceled) {
		return 0, nil
	}
	return 1, fmt.Errorf("showing the screen: %w", err)
}

// gather collects what happens, until ctx ends. A stream ends when Caddy is reloaded or stopped.
func (s *screen) gather(ctx context.Context) {
	defer func() {
		if v := recover(); v != nil {
			s.ends.add(fmt.Sprintf("error: the events cannot be shown any more: %v", v))
		}
	}()
	q := api.EventQuery{Runner: s.c.runner, Kinds: topKinds()}
	for ctx.Err() == nil {
		s.ends.refused("")
		err := s.c.quiet.Events(ctx, q, func(ev api.Event) error {
			if ev.Event != api.EventEnd {
				s.ends.add(eventLine(&ev))
			}
			return nil
		})
		// That Caddy is not there is said by the next look.
		if refusal, ok := errors.AsType[*api.Error](err); ok {
			s.ends.refused(refusal.Message)
		}
		select {
		case <-ctx.Done():
		case <-time.After(topPause):
		}
	}
}

// ends are the lines of the newest events, the newest first.
type ends struct {
	mu    sync.Mutex
	lines []string
	// refusal is why there are no events now: a Caddy of another version may not know what is asked.
	refusal string
}

func (e *ends) refused(why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refusal = why
}

func (e *ends) add(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.lines) == topEnds {
		e.lines = e.lines[:topEnds-1]
	}
	e.lines = slices.Insert(e.lines, 0, line)
}

// list returns the lines, after the one that says why there are no more.
func (e *ends) list() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refusal != "" {
		return append([]string{"the events cannot be shown: " + oneLine(api.Plain(e.refusal))}, e.lines...)
	}
	return slices.Clone(e.lines)
}

// Init implements [tea.Model].
func (s *screen) Init() tea.Cmd { return s.wait() }

func (s *screen) wait() tea.Cmd {
	return tea.Tick(s.interval, func(time.Time) tea.Msg { return next{} })
}

// Update implements [tea.Model].
func (s *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		s.c.out.width, s.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		switch msg.String() {
		case "q", "esc", "ctrl+c":
			return s, tea.Quit
		}
	case next:
		return s, s.again
	case look:
		s.look, s.problem = msg, ""
		return s, s.wait()
	case noLook:
		s.problem = api.Printable(oneLine(api.Plain(msg.err.Error())))
		return s, s.wait()
	}
	return s, nil
}

// again looks once more, and not for long: meanwhile, the screen shows what was.
func (s *screen) again() tea.Msg {
	ctx, cancel := context.WithTimeout(s.c.ctx, s.patience)
	defer cancel()
	l, err := s.ask(ctx)
	if err != nil {
		return noLook{err}
	}
	return l
}

// View implements [tea.Model].
func (s *screen) View() tea.View {
	v := tea.NewView("")
	v.AltScreen = true
	v.WindowTitle = "caddy jobrunner top"
	if s.height == 0 {
		return v // the size is told first
	}
	foot := "q quits"
	if s.problem != "" {
		foot = fmt.Sprintf("%s; this is what was at %s; trying again", s.problem, s.look.at.Local().Format(time.TimeOnly))
	}
	below := s.wrapped(foot)
	v.Content = strings.Join(append(fit(s.parts(), s.height-len(below)), below...), "\n")
	return v
}

// parts are the tables of the screen, each a list of lines.
func (s *screen) parts() [][]string {
	c := s.c
	busy := slices.DeleteFunc(slices.Clone(s.look.channels.Channels), func(v api.Channel) bool {
		return (v.Channel != "root" || v.Database != "") && v.Queued+v.Held+v.Running == 0
	})
	slices.SortStableFunc(busy, func(a, b api.Channel) int {
		return cmp.Or(cmp.Compare(b.Running, a.Running), cmp.Compare(b.Queued+b.Held, a.Queued+a.Held))
	})
	running := slices.Clone(s.look.tasks.Tasks)
	slices.SortStableFunc(running, func(a, b api.Task) int { return cmp.Compare(age0(b.Age), age0(a.Age)) })
	parts := [][]string{
		s.lines(func() { c.statusTable(s.look.runners) }),
		s.lines(func() { c.rows(c.channelTable(busy), "no channel has jobs", s.look.channels.More) }),
		s.lines(func() {
			c.rows(c.taskTable(running), "no job runs", s.look.tasks.More)
			if len(running) == 0 {
				c.led(s.look.runners)
			}
		}),
	}
	if list := s.ends.list(); len(list) > 0 {
		parts = append(parts, s.lines(func() {
			t := c.out.table("LATEST")
			for _, line := range list {
				t.row(line)
			}
			t.print()
		}))
	}
	return parts
}

// rows prints a table, and how many rows the answer has left out.
func (c *call) rows(t *table, empty string, more int) {
	if len(t.rows) == 1 {
		c.out.line("%s", empty)
	} else {
		t.print()
	}
	if more > 0 {
		c.out.line("and %d that were not asked for", more)
	}
}

func age0(age *float64) float64 {
	if age == nil {
		return 0
	}
	return *age
}

// lines returns what f prints, as lines that fit into the width.
func (s *screen) lines(f func()) []string {
	f()
	text := strings.TrimRight(s.c.out.buffer.String(), "\n")
	s.c.out.buffer.Reset()
	return s.wrapped(text)
}

func (s *screen) wrapped(text string) []string {
	if s.c.out.width > 0 {
		text = ansi.Wrap(text, s.c.out.width, "")
	}
	return strings.Split(text, "\n")
}

// fit chooses the lines of parts that are shown in height lines, with an empty one between two parts. A
// part that is cut says so.
func fit(parts [][]string, height int) []string {
	var lines []string
	for i, n := range shares(parts, height-(len(parts)-1)) {
		if i > 0 {
			lines = append(lines, "")
		}
		part := parts[i]
		lines = append(lines, part[:n]...)
		if n > 0 && n < len(part) {
			lines[len(lines)-1] = fmt.Sprintf("… %d more lines", len(part)-n+1)
		}
	}
	for len(lines) < height {
		lines = append(lines, "")
	}
	return lines[:max(height, 0)]
}

// shares says how many lines of each part have room: all of a part that is short, and equally many of the
// others.
func shares(parts [][]string, room int) []int {
	list, open := make([]int, len(parts)), len(parts)
	for room > 0 && open > 0 {
		share := max(room/open, 1)
		open = 0
		for i, part := range parts {
			n := min(share, len(part)-list[i], room)
			list[i] += n
			room -= n
			if list[i] < len(part) {
				open++
			}
		}
	}
	return list
}
