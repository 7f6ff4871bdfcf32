package command

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// printer writes for people: on a terminal in colours, unless NO_COLOR is set,
// and no wider than the terminal; elsewhere plain and complete.
type printer struct {
	to     io.Writer
	buffer bytes.Buffer
	// width is that of the terminal, 0 elsewhere.
	width  int
	colour bool
}

func newPrinter(to io.Writer) *printer {
	width, colour := terminal(to)
	return &printer{to: to, width: width, colour: colour && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
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
	// narrowest is how far a column is cut to make room for others.
	narrowest = 8
)

// whole are the columns that are never cut: no command takes half a name.
var whole = []string{"UUID", "DATABASE", "SERVER"}

// widths returns the widths of the first n columns, the widest cut until the table fits, and
// whether it does.
func (t *table) widths(n int) (widths []int, fits bool) {
	widths = make([]int, n)
	for _, row := range t.rows {
		for i, cell := range row[:n] {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	if t.p.width == 0 {
		return widths, true
	}
	for {
		total, widest := -columnGap, -1
		for i, w := range widths {
			total += w + columnGap
			if w > narrowest && !slices.Contains(whole, t.rows[0][i]) && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if total <= t.p.width {
			return widths, true
		}
		if widest < 0 {
			return widths, false
		}
		widths[widest] = max(narrowest, widths[widest]-(total-t.p.width))
	}
}

// upright writes a line for each cell where the table would not fit as it is.
func (t *table) upright() {
	header, width := t.rows[0], t.p.width
	t.p.width = 0
	widths, _ := t.widths(len(header))
	t.p.width = width
	total := -columnGap
	for _, w := range widths {
		total += w + columnGap
	}
	if width == 0 || total <= width {
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

// print writes the table. On a terminal that is too narrow, the last columns are left out.
func (t *table) print() {
	n := len(t.rows[0])
	widths, fits := t.widths(n)
	for !fits && n > 1 {
		n--
		widths, fits = t.widths(n)
	}
	for i, row := range t.rows {
		var b strings.Builder
		for j, cell := range row[:n] {
			cell = cut(cell, widths[j])
			pad := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell)+columnGap)
			if j == n-1 {
				pad = ""
			}
			b.WriteString(t.paint(cell, i == 0) + pad)
		}
		t.p.buffer.WriteString(strings.TrimRight(b.String(), " ") + "\n")
	}
	if left := t.rows[0][n:]; len(left) > 0 {
		t.p.line("(no room for %s; --wide shows all)", strings.Join(left, ", "))
	}
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
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
