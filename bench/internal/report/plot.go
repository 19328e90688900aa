package report

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	plotWidth  = vg.Length(500)
	plotHeight = vg.Length(300)
)

// newPlot returns a plot without a title, which the page has as text.
func newPlot(x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil // the page's
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color = ink
		axis.Label.TextStyle.Font, axis.Label.TextStyle.Color = face(12), ink
		axis.Label.Padding = vg.Points(4)
		axis.Tick.Label.Font, axis.Tick.Label.Color = face(11), ink
		axis.Tick.Color = ink
		axis.Tick.Length = vg.Points(4)
		axis.Padding = 0
	}
	p.X.Label.Text, p.Y.Label.Text = x, y
	grid := plotter.NewGrid()
	for _, style := range []*draw.LineStyle{&grid.Vertical, &grid.Horizontal} {
		style.Color = color.NRGBA{R: faint.R, G: faint.G, B: faint.B, A: 70}
		style.Width = vg.Points(0.5)
		style.Dashes = nil
	}
	p.Add(grid)
	return p
}

// face is a font with the metrics of Arial. The reader may have a wider one, so
// that element writes every text a tenth smaller than it was laid out.
func face(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// label is the style of a text within a plot.
func label(x text.XAlignment) text.Style {
	return text.Style{Color: ink, Font: face(10), XAlign: x, YAlign: draw.YCenter, Handler: plot.DefaultTextHandler}
}

// drawSVG draws a plot as an SVG element to stand in a page.
func drawSVG(p *plot.Plot, w, h vg.Length, about string) (template.HTML, error) {
	canvas := vgsvg.New(w, h)
	// A little room to the right keeps the last tick's text within the picture.
	area := draw.Crop(draw.New(canvas), 0, -vg.Points(12), 0, -vg.Points(4))
	p.Draw(area)
	return element(canvas, w, h, about)
}

// element returns a canvas as an SVG element that takes its ink from the text
// around it and its size from its viewBox and the page.
func element(canvas *vgsvg.Canvas, w, h vg.Length, about string) (template.HTML, error) {
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", fmt.Errorf("report: %s: %w", about, err)
	}
	_, body, ok := strings.Cut(b.String(), "<svg")
	if ok {
		_, body, ok = strings.Cut(body, ">")
	}
	if !ok {
		return "", fmt.Errorf("report: %s: no svg element", about)
	}
	body = strings.NewReplacer(
		"#010101", "currentColor",
		"font-family:Liberation Sans;font-variant:normal;font-weight:normal;font-style:normal;", "",
		"font-size:12px", "font-size:10.8px",
		"font-size:11px", "font-size:9.9px",
		"font-size:10px", "font-size:9px",
	).Replace(body)
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" role="img" aria-label="%s">`,
		w.Points(), h.Points(), template.HTMLEscapeString(about))
	return template.HTML(head + body), nil
}

// swatch draws a contender's line and mark for a legend.
func swatch(l look, about string) (template.HTML, error) {
	const w, h = vg.Length(34), vg.Length(12)
	canvas := vgsvg.New(w, h)
	c := draw.New(canvas)
	c.StrokeLine2(l.line(), 1, h/2, w-1, h/2)
	c.DrawGlyph(l.glyph(), vg.Point{X: w / 2, Y: h / 2})
	return element(canvas, w, h, about)
}

// block draws a filled rectangle for a legend.
func block(fill color.Color, about string) (template.HTML, error) {
	const w, h = vg.Length(14), vg.Length(12)
	canvas := vgsvg.New(w, h)
	c := draw.New(canvas)
	c.FillPolygon(fill, []vg.Point{{X: 1, Y: 1}, {X: w - 1, Y: 1}, {X: w - 1, Y: h - 1}, {X: 1, Y: h - 1}})
	return element(canvas, w, h, about)
}

// steps are the ticks of a linear axis from zero: four to eight, on 1, 2 or 5.
type steps struct{}

// Ticks implements plot.Ticker.
func (steps) Ticks(low, high float64) []plot.Tick {
	span := high - low
	if span <= 0 {
		return nil
	}
	step := math.Pow(10, math.Floor(math.Log10(span/4)))
	for _, m := range []float64{5, 2} {
		if span/(step*m) >= 4 {
			step *= m
			break
		}
	}
	var ticks []plot.Tick
	for i := math.Ceil(low / step); i*step <= high; i++ {
		v := i * step
		ticks = append(ticks, plot.Tick{Value: v, Label: tickText(v)})
	}
	return ticks
}

// decades are the ticks of a logarithmic axis: on 1, 2 and 5 while those are
// few, otherwise on powers of ten.
type decades struct{}

// Ticks implements plot.Ticker.
func (decades) Ticks(low, high float64) []plot.Tick {
	dense := high/low < 2000
	var ticks []plot.Tick
	for e := math.Floor(math.Log10(low)); math.Pow(10, e) <= high; e++ {
		for _, m := range []float64{1, 2, 5} {
			v := m * math.Pow(10, e)
			t := plot.Tick{Value: v}
			if m == 1 || dense {
				t.Label = tickText(v)
			}
			if v >= low && v <= high {
				ticks = append(ticks, t)
			}
		}
	}
	return ticks
}

func tickText(v float64) string {
	if math.Abs(v) >= 1000 {
		return thousands(v)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// atCounts are ticks at the numbers of connections that were measured.
func atCounts(counts []int) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for _, n := range counts {
		ticks = append(ticks, plot.Tick{Value: float64(n), Label: count(n)})
	}
	return ticks
}

// percentileTicks are of an axis of 1/(1-p): the share of requests that were
// faster.
func percentileTicks() plot.ConstantTicks {
	return plot.ConstantTicks{
		{Value: 2, Label: "50 %"}, {Value: 10, Label: "90 %"}, {Value: 100, Label: "99 %"},
		{Value: 1e3, Label: "99.9 %"}, {Value: 1e4, Label: "99.99 %"}, {Value: 1e5, Label: "99.999 %"},
		{Value: 1e6, Label: "99.9999 %"},
	}
}
