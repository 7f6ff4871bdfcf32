package command

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// printer writes for people: on a terminal in colours, unless NO_COLOR is set, with tables that fit
// into its width; elsewhere plain, with a line for each row.
type printer struct {
	to     io.Writer
	buffer bytes.Buffer
	// width is that of the terminal, 0 elsewhere.
	width  int
	colour bool
	// live is whether a screen can be drawn.
	live bool
}

func newPrinter(to io.Writer) *printer {
	width, colour := terminal(to)
	dumb := os.Getenv("TERM") == "dumb"
	return &printer{to: to, width: width, colour: colour && os.Getenv("NO_COLOR") == "" && !dumb, live: width > 0 && !dumb}
}

// terminal is how wide a terminal is, 0 for what is none, and whether it may show colours. Tests
// replace it.
var terminal = func(to io.Writer) (width int, colour bool) {
	f, ok := to.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil {
		return width, true
	}
	return 0, true
}

// line writes a line. What comes from elsewhere cannot control the terminal.
func (p *printer) line(format string, args ...any) {
	p.buffer.WriteString(api.Printable(fmt.Sprintf(format, args...)) + "\n")
}

// raw writes JSON as it came.
func (p *printer) raw(json []byte) {
	p.buffer.Write(bytes.TrimSpace(json))
	p.buffer.WriteByte('\n')
}

// clear begins a new screen on a terminal.
func (p *printer) clear() {
	if p.width > 0 {
		p.buffer.WriteString("\x1b[H\x1b[2J")
	}
}

// drop forgets what has been collected.
func (p *printer) drop() { p.buffer.Reset() }

// flush writes what has been collected.
func (p *printer) flush() error {
	defer p.buffer.Reset()
	if _, err := p.to.Write(p.buffer.Bytes()); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}

// table is a table that is being filled.
type table struct {
	p    *printer
	rows [][]string
	// runners is set when the first column is that of the runner.
	runners bool
	// runsOn is set when the last column is text that a terminal may break.
	runsOn bool
}

func (p *printer) table(header ...string) *table {
	return &table{p: p, rows: [][]string{header}, runners: header[0] == "RUNNER"}
}

func (t *table) row(cells ...string) {
	for i := range cells {
		cells[i] = api.Printable(cells[i])
	}
	t.rows = append(t.rows, cells)
}

const (
	columnGap = 2
	// indent begins the lines below a row.
	indent = "  "
)

// widths returns the width of each column.
func (t *table) widths() []int {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	return widths
}

// room returns how many of the columns fit beside each other: always one, and all of them where
// there is no terminal.
func (t *table) room(widths []int) int {
	total := -columnGap
	for i, w := range widths {
		if t.runsOn && i == len(widths)-1 {
			break
		}
		if total += w + columnGap; t.p.width > 0 && total > t.p.width {
			return max(i, 1)
		}
	}
	return len(widths)
}

// upright writes a line for each cell where the table would not fit as it is.
func (t *table) upright() {
	header, widths := t.rows[0], t.widths()
	if t.room(widths) == len(widths) {
		t.print()
		return
	}
	for i, row := range t.rows[1:] {
		if i > 0 {
			t.p.line("")
		}
		for j, cell := range row {
			t.p.buffer.WriteString(t.paint(fmt.Sprintf("%-8s", header[j]), true) + "  " + t.paint(cell, false) + "\n")
		}
	}
}

// print writes the table. Nothing is cut, because no command takes half a name: what a terminal is too
// narrow for goes to lines below its row.
func (t *table) print() {
	widths := t.widths()
	n := t.room(widths)
	for i, row := range t.rows {
		var b strings.Builder
		for j, cell := range row[:n] {
			pad := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+columnGap)
			b.WriteString(t.paint(cell, i == 0) + pad)
		}
		t.p.buffer.WriteString(strings.TrimRight(b.String(), " ") + "\n")
		if i > 0 {
			t.below(row, n)
		}
	}
}

// below writes the cells of a row from the nth on, each after the name of its column.
func (t *table) below(row []string, n int) {
	used := 0
	for i, cell := range row[n:] {
		if cell == "" {
			continue
		}
		name := t.rows[0][n+i]
		width := columnGap + utf8.RuneCountInString(name+" "+cell)
		switch {
		case used == 0:
			t.p.buffer.WriteString(indent)
		case used+width > t.p.width:
			t.p.buffer.WriteString("\n" + indent)
			used = 0
		default:
			t.p.buffer.WriteString(strings.Repeat(" ", columnGap))
		}
		used += width
		t.p.buffer.WriteString(t.paint(name, true) + " " + t.paint(cell, false))
	}
	if used > 0 {
		t.p.buffer.WriteString("\n")
	}
}

// paint colours a cell by what it says.
func (t *table) paint(cell string, header bool) string {
	if !t.p.colour {
		return cell
	}
	var code string
	switch {
	case header:
		code = "1"
	case cell == "failed" || cell == "stuck" || cell == "terminated" || cell == "unhealthy" || cell == "unreachable" || cell == "none" || cell == "not ready":
		code = "31"
	case cell == "ready" || cell == "done" || cell == "this node":
		code = "32"
	case cell == "held" || cell == "standby" || cell == "watched" || cell == "warned" || cell == "reached" || cell == "cancelled" || cell == "degraded":
		code = "33"
	default:
		return cell
	}
	return "\x1b[" + code + "m" + cell + "\x1b[0m"
}
