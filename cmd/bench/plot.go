package main

import (
	"fmt"
	"math"
	"os"
	"strings"
)

// plotWidth and plotHeight are the size of the plot, plotLeft and plotRight the limits of its
// panels, in pixels.
const (
	plotWidth, plotHeight = 720, 620
	plotLeft, plotRight   = 70, 690
	// plotStep is what the end of the throughput's axis is a multiple of, jobs/s.
	plotStep = 200
)

// Colours that can be told apart in grey and by people who do not see all.
const (
	plotBlue, plotOrange, plotGrey = "#0072b2", "#d55e00", "#888888"
)

// panel is one diagram over the load.
type panel struct {
	strings.Builder

	points      []point
	title       string
	top, bottom float64
	// low and high are the ends of the axis, in the unit of scale.
	low, high float64
	scale     func(float64) float64
}

// curve is one line of a panel.
type curve struct {
	name, colour, dashes string
	of                   func(point) float64
}

// writePlot draws latency and throughput over load.
func writePlot(file string, points []point) error {
	if err := os.WriteFile(file, []byte(drawPlot(points)), 0o644); err != nil {
		return fmt.Errorf("writing the plot: %w", err)
	}
	return nil
}

func drawPlot(points []point) string {
	upper := &panel{points: points, title: "throughput, jobs/s", top: 40, bottom: 250, high: 1, scale: func(v float64) float64 { return v }}
	// The latency has a logarithmic scale: what matters is how often it doubles.
	lower := &panel{points: points, title: "commit to request, ms", top: 320, bottom: 560, low: math.Inf(1), high: math.Inf(-1), scale: logOf}
	for _, q := range points {
		upper.high = max(upper.high, q.Offered, q.Done)
		lower.low, lower.high = min(lower.low, math.Floor(logOf(q.P50))), max(lower.high, math.Ceil(logOf(q.P99)))
	}
	if !(lower.high > lower.low) { // also without points
		lower.low, lower.high = 0, 1
	}
	upper.high = math.Ceil(upper.high/plotStep) * plotStep
	for v := 0.0; v <= upper.high; v += upper.high / 4 {
		upper.grid(v)
	}
	for e := lower.low; e <= lower.high; e++ {
		lower.grid(math.Pow(10, e))
	}
	upper.draw(curve{"done", plotBlue, "", func(q point) float64 { return q.Done }}, curve{"offered", plotGrey, "4 4", func(q point) float64 { return q.Offered }})
	lower.draw(curve{"p50", plotBlue, "", func(q point) float64 { return q.P50 }}, curve{"p99", plotOrange, "", func(q point) float64 { return q.P99 }})
	lower.text((plotLeft+plotRight)/2, plotHeight-15, "middle", "load, % of what bare clients can do without a runner")
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<rect width="%[1]d" height="%[2]d" fill="#ffffff"/>
%s%s</svg>
`, plotWidth, plotHeight, upper, lower)
}

// logOf is the decimal logarithm; what is not positive is drawn at a microsecond.
func logOf(ms float64) float64 { return math.Log10(max(ms, 0.001)) }

// plotX is the position of a load.
func plotX(load float64) float64 { return plotLeft + load*(plotRight-plotLeft) }

// y is the position of a value.
func (p *panel) y(v float64) float64 {
	return p.bottom - (p.scale(v)-p.low)/(p.high-p.low)*(p.bottom-p.top)
}

// grid marks a value.
func (p *panel) grid(v float64) {
	p.line(plotLeft, p.y(v), plotRight, "#dddddd")
	p.text(plotLeft-8, p.y(v)+4, "end", fmt.Sprintf("%g", v))
}

// draw draws title, axis, curves and legend.
func (p *panel) draw(curves ...curve) {
	p.text(plotLeft, p.top-18, "start", p.title)
	p.line(plotLeft, p.bottom, plotRight, "#333333")
	for percent := 0; percent <= 100; percent += 20 {
		p.text(plotX(float64(percent)/100), p.bottom+18, "middle", fmt.Sprint(percent))
	}
	for i, c := range curves {
		var at strings.Builder
		for _, q := range p.points {
			fmt.Fprintf(&at, "%.1f,%.1f ", plotX(q.Load), p.y(c.of(q)))
			fmt.Fprintf(p, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", plotX(q.Load), p.y(c.of(q)), c.colour)
		}
		fmt.Fprintf(p, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`+"\n", at.String(), c.colour, c.dashes)
		x := float64(plotRight - 90*(len(curves)-i))
		p.line(x, p.top-22, x+20, c.colour)
		p.text(x+26, p.top-18, "start", c.name)
	}
}

// line draws a horizontal line.
func (p *panel) line(from, y, to float64, colour string) {
	fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", from, y, to, y, colour)
}

func (p *panel) text(x, y float64, anchor, text string) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="#333333">%s</text>`+"\n", x, y, anchor, text)
}
