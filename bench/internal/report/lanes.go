package report

import (
	"cmp"
	"errors"
	"image/color"
	"maps"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// lanes is a plot of horizontal lanes from zero, the first name on top. Its
// first error is kept for chart.
type lanes struct {
	plot    *plot.Plot
	names   []string
	texts   plotter.XYLabels
	highest float64
	err     error
}

const (
	lanePitch = vg.Length(22)
	laneHalf  = 0.31 // half of a bar's height, of 1
)

func newLanes(axis string, names []string) *lanes {
	p := newPlot(axis, "")
	p.X.Tick.Marker = steps{}
	return &lanes{plot: p, names: names}
}

func (l *lanes) y(i int) float64 { return float64(len(l.names) - 1 - i) }

func (l *lanes) add(p plot.Plotter, err error, to float64) {
	l.err = errors.Join(l.err, err)
	if err == nil {
		l.plot.Add(p)
		l.highest = max(l.highest, to)
	}
}

// box fills lane i between two values.
func (l *lanes) box(i int, from, to float64, fill color.Color) {
	low, high := l.y(i)-laneHalf, l.y(i)+laneHalf
	area, err := plotter.NewPolygon(plotter.XYs{{X: from, Y: low}, {X: to, Y: low}, {X: to, Y: high}, {X: from, Y: high}})
	if err == nil {
		area.Color, area.LineStyle.Width = fill, 0
	}
	l.add(area, err, to)
}

// line draws a line in the middle of lane i.
func (l *lanes) line(i int, from, to float64, style draw.LineStyle) {
	line, err := plotter.NewLine(plotter.XYs{{X: from, Y: l.y(i)}, {X: to, Y: l.y(i)}})
	if err == nil {
		line.LineStyle = style
	}
	l.add(line, err, max(from, to))
}

// mark draws a mark in the middle of lane i.
func (l *lanes) mark(i int, x float64, style draw.GlyphStyle) {
	marks, err := plotter.NewScatter(plotter.XYs{{X: x, Y: l.y(i)}})
	if err == nil {
		marks.GlyphStyle = style
	}
	l.add(marks, err, x)
}

// text writes to the right of a value.
func (l *lanes) text(i int, x float64, s string) {
	l.texts.XYs = append(l.texts.XYs, plotter.XY{X: x, Y: l.y(i)})
	l.texts.Labels = append(l.texts.Labels, s)
}

// chart draws it all, nil when there was no value above zero.
func (l *lanes) chart(title, about string) (*chart, error) {
	if l.highest <= 0 || l.err != nil {
		return nil, l.err
	}
	texts, err := plotter.NewLabels(l.texts)
	if err != nil {
		return nil, err
	}
	for i := range texts.TextStyle {
		texts.TextStyle[i] = label(draw.XLeft)
	}
	texts.Offset = vg.Point{X: vg.Points(6), Y: vg.Points(1.5)}
	l.plot.Add(texts)
	upward := slices.Clone(l.names)
	slices.Reverse(upward)
	l.plot.NominalY(upward...)
	l.plot.Y.Tick.Length = vg.Points(5)            // of a tick without width: room between name and bar
	l.plot.X.Min, l.plot.X.Max = 0, l.highest*1.13 // room for the last text
	l.plot.Y.Min, l.plot.Y.Max = -0.6, float64(len(l.names))-0.4
	svg, err := drawSVG(l.plot, plotWidth, vg.Points(46)+lanePitch*vg.Length(len(l.names)), title)
	if err != nil {
		return nil, err
	}
	return &chart{Title: title, About: about, SVG: svg}, nil
}

func rowNames(s *result.Scenario) []string {
	return contendersOf([]*result.Scenario{s})
}

// cpuBars draws the server's CPU time a request of each contender.
func cpuBars(s *result.Scenario) (*chart, error) {
	l := newLanes("µs of server CPU a "+unit(s), rowNames(s))
	for i := range s.Rows {
		row := &s.Rows[i]
		if failure(row) != "" || row.CPU.N == 0 {
			l.text(i, 0, "no figure")
			continue
		}
		l.box(i, 0, row.CPU.Median/1e3, lookOf(row.Contender).color)
		l.line(i, row.CPU.Min/1e3, row.CPU.Max/1e3, draw.LineStyle{Color: faint, Width: vg.Points(2.5)})
		l.text(i, row.CPU.Max/1e3, micros(row.CPU.Median))
	}
	return l.chart("Server CPU: "+s.Title, "Medians; the grey mark goes from the least to the greatest round.")
}

// densityBars draws the bytes that an idle connection adds.
func densityBars(title string, s *result.Scenario, of func(result.DensityPoint) (float64, bool)) (*chart, error) {
	l := newLanes("bytes a connection", rowNames(s))
	for i := range s.Rows {
		row := &s.Rows[i]
		v, ok := slope(row.Density, of)
		if !ok || failure(row) != "" {
			l.text(i, 0, "no figure")
			continue
		}
		l.box(i, 0, max(v, 0), lookOf(row.Contender).color)
		l.text(i, max(v, 0), thousands(v))
	}
	return l.chart(title, "The slope between the second number of connections and the last.")
}

// parkedBars draws what a parked task holds beside a goroutine that waits.
func parkedBars(p *result.Parked) (*chart, error) {
	l := newLanes("bytes each", []string{"parked task: Go heap", "parked task: resident", "waiting goroutine: resident"})
	for i, bytes := range []float64{p.HeapTask, p.RSSTask, p.Goroutine} {
		fill := lookOf(stepio).color
		if i == 2 {
			fill = lookOf(packageNet).color
		}
		l.box(i, 0, max(bytes, 0), fill)
		l.text(i, max(bytes, 0), thousands(bytes))
	}
	return l.chart("Memory of what only waits", "")
}

// idleGrowth draws for each contender a line from its CPU a request alone to
// that among idle connections.
func idleGrowth(alone, among *result.Scenario) (*chart, error) {
	l := newLanes("µs of server CPU a "+unit(alone), rowNames(alone))
	for i := range alone.Rows {
		a := &alone.Rows[i]
		b := findRow(among, a.Contender)
		growth := ratio(b, a, cpuOf)
		if growth.N == 0 || failure(a) != "" || failure(b) != "" {
			l.text(i, 0, "no figure")
			continue
		}
		from, to := a.CPU.Median/1e3, b.CPU.Median/1e3
		look := lookOf(a.Contender)
		l.line(i, from, to, draw.LineStyle{Color: look.color, Width: thick})
		l.mark(i, from, draw.GlyphStyle{Color: look.color, Radius: vg.Points(4.5), Shape: draw.RingGlyph{}})
		l.mark(i, to, draw.GlyphStyle{Color: look.color, Radius: vg.Points(3), Shape: draw.CircleGlyph{}})
		l.text(i, max(from, to), "x "+ratioText(growth.Median))
	}
	return l.chart("What idle connections cost the active ones", "From the ring ("+alone.Title+") to the dot ("+among.Title+
		"); beside them the median of the ratios within rounds.")
}

// callChart draws the system calls of a request, one after the other; colors
// gives a call the same colour in every chart.
func callChart(s *result.Scenario, colors map[string]color.RGBA) (*chart, error) {
	l := newLanes("system calls a "+unit(s), rowNames(s))
	shown := make(map[string]float64)
	for i := range s.Rows {
		list, sum := calls(&s.Rows[i])
		if len(list) == 0 {
			l.text(i, 0, "not counted")
			continue
		}
		at, rest := 0.0, 0.0
		for _, c := range list {
			fill, ok := colors[c.name]
			if !ok {
				rest += c.times
				continue
			}
			l.box(i, at, at+c.times, fill)
			at += c.times
			shown[c.name] += c.times
		}
		if rest > 0 {
			l.box(i, at, at+rest, faint)
			shown[otherCalls] += rest
		}
		l.text(i, sum, ratioText(sum))
	}
	c, err := l.chart("System calls: "+s.Title, "Counted by strace in a window of their own, without those of the clock.")
	if c == nil || err != nil {
		return nil, err
	}
	for _, name := range byWeight(shown) {
		fill, ok := colors[name]
		if !ok {
			fill = faint
		}
		swatch, err := block(fill, name)
		if err != nil {
			return nil, err
		}
		c.Legend = append(c.Legend, legendItem{swatch, name})
	}
	return c, nil
}

const otherCalls = "others"

// colorsOfCalls gives the most frequent system calls of the whole report a
// colour each.
func colorsOfCalls(r *result.Report) map[string]color.RGBA {
	total := make(map[string]float64)
	for _, s := range r.Scenarios {
		for _, row := range s.Rows {
			list, _ := calls(&row)
			for _, call := range list {
				total[call.name] += call.times
			}
		}
	}
	names := byWeight(total)
	colors := make(map[string]color.RGBA)
	for i, name := range names[:min(len(names), len(callColors))] {
		colors[name] = callColors[i]
	}
	return colors
}

// byWeight returns the keys of a map, the greatest value first.
func byWeight(m map[string]float64) []string {
	names := slices.Sorted(maps.Keys(m))
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(m[b], m[a]) })
	return names
}
