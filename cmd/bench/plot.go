package main

import (
	"fmt"
	"math"
	"os"
	"strings"
)

// Sizes of the plot, in pixels.
const (
	plotWidth, plotHeight = 720, 620
	plotLeft, plotRight   = 70, 690
	// The upper panel shows the throughput, the lower one the latency.
	upperTop, upperBottom = 40, 250
	lowerTop, lowerBottom = 320, 560
)

// Colours that can be told apart in grey and by people who do not see all.
const (
	plotBlue, plotOrange, plotGrey = "#0072b2", "#d55e00", "#888888"
)

// plot draws into a text of SVG.
type plot struct{ strings.Builder }

// writePlot draws latency and throughput over load.
func writePlot(file string, points []point) error {
	if err := os.WriteFile(file, []byte(drawPlot(points)), 0o644); err != nil {
		return fmt.Errorf("writing the plot: %w", err)
	}
	return nil
}

func drawPlot(points []point) string {
	var p plot
	fmt.Fprintf(&p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&p, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", plotWidth, plotHeight)
	most := 1.0
	for _, q := range points {
		most = max(most, q.Offered, q.Done)
	}
	p.throughput(points, most)
	p.latency(points)
	p.text((plotLeft+plotRight)/2, plotHeight-15, "middle", "load, % of what bare clients can do without a runner")
	p.WriteString("</svg>\n")
	return p.String()
}

// x is the position of a load.
func plotX(load float64) float64 { return plotLeft + load*(plotRight-plotLeft) }

func (p *plot) throughput(points []point, most float64) {
	y := func(v float64) float64 { return upperBottom - v/most*(upperBottom-upperTop) }
	p.text(plotLeft, upperTop-18, "start", "throughput, jobs/s")
	step := niceStep(most / 4)
	for v := 0.0; v <= most; v += step {
		p.line(plotLeft, y(v), plotRight, y(v), "#dddddd", "")
		p.text(plotLeft-8, y(v)+4, "end", fmt.Sprintf("%.0f", v))
	}
	p.loads(upperBottom)
	p.curve(points, plotGrey, "4 4", func(q point) float64 { return y(q.Offered) })
	p.curve(points, plotBlue, "", func(q point) float64 { return y(q.Done) })
	p.legend(upperTop-18, []string{"done", "offered"}, []string{plotBlue, plotGrey})
}

// latency has a logarithmic scale: what matters is how often it doubles.
func (p *plot) latency(points []point) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, q := range points {
		low, high = min(low, logOf(q.P50)), max(high, logOf(q.P99))
	}
	low, high = math.Floor(low), math.Ceil(high)
	if !(high > low) { // also without points
		low, high = 0, 1
	}
	y := func(v float64) float64 { return lowerBottom - (logOf(v)-low)/(high-low)*(lowerBottom-lowerTop) }
	p.text(plotLeft, lowerTop-18, "start", "commit to request, ms")
	for e := low; e <= high; e++ {
		v := math.Pow(10, e)
		p.line(plotLeft, y(v), plotRight, y(v), "#dddddd", "")
		p.text(plotLeft-8, y(v)+4, "end", fmt.Sprintf("%g", v))
	}
	p.loads(lowerBottom)
	p.curve(points, plotBlue, "", func(q point) float64 { return y(q.P50) })
	p.curve(points, plotOrange, "", func(q point) float64 { return y(q.P99) })
	p.legend(lowerTop-18, []string{"p50", "p99"}, []string{plotBlue, plotOrange})
}

// logOf is the decimal logarithm; what is not positive is drawn at a microsecond.
func logOf(ms float64) float64 { return math.Log10(max(ms, 0.001)) }

// loads is the axis of the loads.
func (p *plot) loads(bottom float64) {
	p.line(plotLeft, bottom, plotRight, bottom, "#333333", "")
	for percent := 0; percent <= 100; percent += 20 {
		p.text(plotX(float64(percent)/100), bottom+18, "middle", fmt.Sprint(percent))
	}
}

func (p *plot) curve(points []point, colour, dashes string, y func(point) float64) {
	at := make([]string, len(points))
	for i, q := range points {
		at[i] = fmt.Sprintf("%.1f,%.1f", plotX(q.Load), y(q))
	}
	fmt.Fprintf(p, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`+"\n", strings.Join(at, " "), colour, dashes)
	for _, q := range points {
		fmt.Fprintf(p, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", plotX(q.Load), y(q), colour)
	}
}

func (p *plot) legend(y float64, names, colours []string) {
	for i, name := range names {
		x := float64(plotRight - 90*(len(names)-i))
		p.line(x, y-4, x+20, y-4, colours[i], "")
		p.text(x+26, y, "start", name)
	}
}

func (p *plot) line(x1, y1, x2, y2 float64, colour, dashes string) {
	fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="%s"/>`+"\n", x1, y1, x2, y2, colour, dashes)
}

func (p *plot) text(x, y float64, anchor, text string) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="#333333">%s</text>`+"\n", x, y, anchor, text)
}

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(max(v, 1))))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v {
			return m * power
		}
	}
	return 10 * power
}
