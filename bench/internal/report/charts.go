package report

import (
	"html/template"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// A chart is one plot of the page.
type chart struct {
	Title  string
	About  string // how to read it, may be empty
	SVG    template.HTML
	Legend []legendItem
}

type legendItem struct {
	Swatch template.HTML
	Name   string
}

// addLegend lists contenders with their line and mark.
func (c *chart) addLegend(contenders []string) error {
	for _, name := range contenders {
		s, err := swatch(lookOf(name), name)
		if err != nil {
			return err
		}
		c.Legend = append(c.Legend, legendItem{s, name})
	}
	return nil
}

// contendersOf lists the contenders of the scenarios in their order.
func contendersOf(scenarios []*result.Scenario) []string {
	var names []string
	for _, s := range scenarios {
		for _, row := range s.Rows {
			if !slices.Contains(names, row.Contender) {
				names = append(names, row.Contender)
			}
		}
	}
	return names
}

// overConnections draws a figure of each contender over the number of
// connections, with a bar from the least to the greatest. scale brings the figure
// into the axis's unit. It returns nil when nothing was measured.
func overConnections(title, axis string, scenarios []*result.Scenario, pick func(*result.Row) result.Stat, scale float64) (*chart, error) {
	p := newPlot("connections", axis)
	p.X.Scale, p.Y.Tick.Marker = plot.LogScale{}, steps{}
	var counts []int
	var drawn []string
	highest := 0.0
	names := contendersOf(scenarios)
	for i, name := range names {
		var line bars
		for _, s := range scenarios {
			row := findRow(s, name)
			if row == nil || failure(row) != "" || pick(row).N == 0 || s.Conns < 1 {
				continue
			}
			// The contenders stand a little apart, so that their bars do not hide
			// each other.
			apart := math.Pow(1.035, float64(i)-float64(len(names)-1)/2)
			line.add(float64(s.Conns)*apart, pick(row), scale)
			highest = max(highest, pick(row).Max*scale)
			counts = append(counts, s.Conns)
		}
		if len(line.XYs) == 0 {
			continue
		}
		drawn = append(drawn, name)
		if err := line.draw(p, lookOf(name)); err != nil {
			return nil, err
		}
	}
	if len(drawn) == 0 {
		return nil, nil
	}
	slices.Sort(counts)
	counts = slices.Compact(counts)
	p.X.Tick.Marker = atCounts(counts)
	p.X.Min, p.X.Max = float64(counts[0])/1.5, float64(counts[len(counts)-1])*1.5
	p.Y.Min, p.Y.Max = 0, highest*1.05
	c := &chart{Title: title, About: "Medians, with a bar from the least to the greatest round."}
	var err error
	if c.SVG, err = drawSVG(p, plotWidth, plotHeight, title); err != nil {
		return nil, err
	}
	return c, c.addLegend(drawn)
}

// bars are points with what lies below and above them.
type bars struct {
	plotter.XYs
	plotter.YErrors
}

func (b *bars) add(x float64, s result.Stat, scale float64) {
	b.XYs = append(b.XYs, plotter.XY{X: x, Y: s.Median * scale})
	b.YErrors = append(b.YErrors, struct{ Low, High float64 }{(s.Median - s.Min) * scale, (s.Max - s.Median) * scale})
}

func (b bars) draw(p *plot.Plot, l look) error {
	line, marks, err := plotter.NewLinePoints(b.XYs)
	if err != nil {
		return err
	}
	line.LineStyle, marks.GlyphStyle = l.line(), l.glyph()
	spread, err := plotter.NewYErrorBars(b)
	if err != nil {
		return err
	}
	spread.LineStyle = draw.LineStyle{Color: l.color, Width: vg.Points(0.8)}
	spread.CapWidth = vg.Points(4)
	p.Add(line, spread, marks)
	return nil
}

// latencyCurve draws the latency that a share of the requests stayed below, of
// all rounds together.
func latencyCurve(s *result.Scenario) (*chart, error) {
	p := newPlot("share of requests that were faster", "latency, µs")
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = percentileTicks(), decades{}
	low, high, far := math.Inf(1), 0.0, 0.0
	var drawn []string
	for i := range s.Rows {
		row := &s.Rows[i]
		if failure(row) != "" || len(row.Latency) == 0 {
			continue
		}
		h, err := hdrhistogram.Decode(row.Latency)
		if err != nil {
			return nil, err
		}
		xys := percentiles(h)
		if len(xys) < 2 {
			continue
		}
		line, err := plotter.NewLine(xys)
		if err != nil {
			return nil, err
		}
		line.LineStyle = lookOf(row.Contender).line()
		p.Add(line)
		low, high = min(low, xys[0].Y), max(high, xys[len(xys)-1].Y)
		far = max(far, xys[len(xys)-1].X)
		drawn = append(drawn, row.Contender)
	}
	if len(drawn) == 0 {
		return nil, nil
	}
	p.X.Min, p.X.Max = 1, far*1.1
	p.Y.Min, p.Y.Max = low/1.2, high*1.2
	c := &chart{
		Title: "Latency: " + s.Title,
		About: "All rounds together; a curve ends where fewer than ten requests were slower.",
	}
	var err error
	if c.SVG, err = drawSVG(p, plotWidth, plotHeight, c.Title); err != nil {
		return nil, err
	}
	return c, c.addLegend(drawn)
}

// percentiles are points of 1/(1-p) and the latency in µs at p, sixteen for
// each power of ten, as far as at least ten values lie beyond.
func percentiles(h *hdrhistogram.Histogram) plotter.XYs {
	var xys plotter.XYs
	last := float64(h.TotalCount()) / 10
	for i := 0; ; i++ {
		x := math.Pow(10, float64(i)/16)
		if x > last {
			return xys
		}
		if ns := h.ValueAtQuantile(100 * (1 - 1/x)); ns > 0 {
			xys = append(xys, plotter.XY{X: x, Y: float64(ns) / 1e3})
		}
	}
}
