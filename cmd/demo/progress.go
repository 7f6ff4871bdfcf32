package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	barWidth = 40
	// lineInterval is the time between two lines when the output is no terminal.
	lineInterval = 2 * time.Second
)

// progress shows how far the work is: a bar that is redrawn on a terminal, plain lines elsewhere.
type progress struct {
	out      *os.File
	terminal bool
	total    int
	started  time.Time
	last     time.Time
}

func newProgress(out *os.File, total int) *progress {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &progress{out: out, terminal: terminal, total: total, started: time.Now()}
}

// show draws the state. It may be called as often as one likes.
func (p *progress) show(settled, running int) {
	if !p.terminal && time.Since(p.last) < lineInterval {
		return
	}
	p.last = time.Now()
	p.draw(settled, running)
}

// finish draws the last state and leaves the line.
func (p *progress) finish(settled, running int) {
	p.draw(settled, running)
	if p.terminal {
		fmt.Fprintln(p.out)
	}
}

func (p *progress) draw(settled, running int) {
	seconds := time.Since(p.started).Seconds()
	state := fmt.Sprintf("%5d of %d jobs, %2d running, %5.1f s", settled, p.total, running, seconds)
	if !p.terminal {
		fmt.Fprintln(p.out, "  "+state)
		return
	}
	filled := min(barWidth, barWidth*settled/max(p.total, 1))
	fmt.Fprintf(p.out, "\r  [%s%s] %s", strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), state)
}
