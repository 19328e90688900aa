package main

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// chart is one panel of a plot: lines over the time of a run.
type chart struct {
	title string
	unit  string
	log   bool // the axis of values is logarithmic
	lines []line
}

// line is one series of a chart.
type line struct {
	name   string
	dashed bool
	points []point
}

const (
	plotWidth   = 960
	plotLeft    = 70  // for the numbers at the axis
	plotRight   = 150 // for the legend
	panelHeight = 260
	panelGap    = 70 // for the title above and the time below
)

// palette is told apart by people who see colours differently, too (Okabe, Ito:
// Color Universal Design).
var palette = []string{
	"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3b08", "#542788", "#4d4d4d", "#a6d854", "#e78ac3",
}

// plot draws charts above each other, with a mark wherever marks says.
func plot(title string, length time.Duration, marks []time.Duration, charts ...chart) string {
	var b strings.Builder
	height := 50 + len(charts)*(panelHeight+panelGap)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		plotWidth, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="16">%s</text>`+"\n", plotLeft, html.EscapeString(title))
	for i, c := range charts {
		c.draw(&b, 60+i*(panelHeight+panelGap), length, marks)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw draws the panel whose upper edge is at top.
func (c chart) draw(b *strings.Builder, top int, length time.Duration, marks []time.Duration) {
	right, bottom := plotWidth-plotRight, top+panelHeight
	low, high := c.bounds()
	scale := func(v float64) float64 { return v }
	if c.log {
		scale = math.Log10
	}
	x := func(at time.Duration) float64 {
		return plotLeft + float64(right-plotLeft)*at.Seconds()/length.Seconds()
	}
	y := func(v float64) float64 {
		share := (scale(max(v, low)) - scale(low)) / (scale(high) - scale(low))
		return float64(bottom) - share*panelHeight
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s (%s)</text>`+"\n",
		plotLeft, top-8, html.EscapeString(c.title), html.EscapeString(c.unit))
	for _, at := range marks {
		fmt.Fprintf(b, `<path d="M%.1f %dV%d" stroke="#bbbbbb" stroke-width="0.5" stroke-dasharray="2 3"/>`+"\n", x(at), top, bottom)
	}
	for _, v := range ticks(low, high, c.log) {
		fmt.Fprintf(b, `<path d="M%d %.1fH%d" stroke="#dddddd" stroke-width="0.7"/><text x="%d" y="%.1f" text-anchor="end">%.4g</text>`+"\n",
			plotLeft, y(v), right, plotLeft-6, y(v)+4, v)
	}
	unit, name := time.Second, "s"
	if length > 10*time.Minute {
		unit, name = time.Minute, "min"
	}
	for _, v := range ticks(0, float64(length)/float64(unit), false) {
		at := x(time.Duration(v * float64(unit)))
		fmt.Fprintf(b, `<path d="M%.1f %dv5" stroke="black"/><text x="%.1f" y="%d" text-anchor="middle">%.4g %s</text>`+"\n",
			at, bottom, at, bottom+18, v, name)
	}
	fmt.Fprintf(b, `<path d="M%d %dV%dH%d" fill="none" stroke="black"/>`+"\n", plotLeft, top, bottom, right)
	for i, l := range c.lines {
		colour, dashes := palette[i%len(palette)], ""
		if l.dashed {
			colour, dashes = "#000000", ` stroke-dasharray="5 3"`
		}
		var path strings.Builder
		for j, p := range l.points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(j, 1)], x(p.at), y(p.value))
		}
		fmt.Fprintf(b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.2"%s/>`+"\n", path.String(), colour, dashes)
		fmt.Fprintf(b, `<path d="M%d %dh20" stroke="%s" stroke-width="2"%s/><text x="%d" y="%d">%s</text>`+"\n",
			right+12, top+10+i*18, colour, dashes, right+38, top+14+i*18, html.EscapeString(l.name))
	}
}

// bounds is what the axis of values spans.
func (c chart) bounds() (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, l := range c.lines {
		for _, p := range l.points {
			if p.value > 0 || !c.log {
				low, high = min(low, p.value), max(high, p.value)
			}
		}
	}
	switch {
	case low > high: // nothing at all
		return 1, 10
	case !c.log:
		return 0, max(high*1.1, 1)
	default:
		return low * 0.9, max(high*1.1, low*10)
	}
}

// ticks are round values between two others: four to ten on a linear axis, 1, 2
// and 5 of every power of ten on a logarithmic one.
func ticks(low, high float64, log bool) (values []float64) {
	if log {
		for power := math.Pow(10, math.Floor(math.Log10(low))); power <= high; power *= 10 {
			for _, m := range []float64{1, 2, 5} {
				if v := power * m; v >= low && v <= high {
					values = append(values, v)
				}
			}
		}
		return values
	}
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, m := range []float64{5, 2} {
		if (high-low)/(step*m) >= 4 {
			step *= m
			break
		}
	}
	for i := math.Ceil(low / step); i*step <= high; i++ {
		values = append(values, i*step)
	}
	return values
}

func (l *line) add(at time.Duration, value float64) { l.points = append(l.points, point{at, value}) }
