package report

import (
	"image/color"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// ink is the colour of text and axes, and of the limit. In the page it becomes
// the colour of the surrounding text, so that plots are readable on light and on
// dark. It is not black, because vgsvg leaves black out of what it writes.
var ink = color.RGBA{R: 1, G: 1, B: 1, A: 255}

// faint is of grid lines and of what stands behind; it shows on light and dark.
var faint = color.RGBA{R: 136, G: 136, B: 136, A: 255}

// A look is how a contender appears in every plot. The colours are those of
// Okabe and Ito, which colour-blind people can tell apart, with the lightness
// moved to the middle; dashes and marks tell contenders of one family apart.
type look struct {
	color  color.RGBA
	width  vg.Length
	dashes []vg.Length
	mark   draw.GlyphDrawer
}

var (
	blue      = color.RGBA{R: 32, G: 128, B: 200, A: 255}
	vermilion = color.RGBA{R: 213, G: 94, B: 0, A: 255}
	green     = color.RGBA{R: 0, G: 158, B: 115, A: 255}
	pink      = color.RGBA{R: 204, G: 121, B: 167, A: 255}
	orange    = color.RGBA{R: 200, G: 140, B: 0, A: 255}
	cyan      = color.RGBA{R: 60, G: 170, B: 200, A: 255}
	olive     = color.RGBA{R: 150, G: 150, B: 40, A: 255}
	purple    = color.RGBA{R: 170, G: 75, B: 150, A: 255}
)

var (
	dashed = []vg.Length{vg.Points(6), vg.Points(3)}
	dotted = []vg.Length{vg.Points(2), vg.Points(2.5)}
)

const (
	thick = vg.Length(2.8) // stepio and the limit
	plain = vg.Length(1.4)
)

var looks = map[string]look{
	stepio:          {blue, thick, nil, draw.CircleGlyph{}},
	"stepio edge":   {blue, plain, dashed, draw.RingGlyph{}},
	"stepio spare":  {blue, plain, dotted, draw.SquareGlyph{}},
	stepioPool:      {blue, plain, dotted, draw.TriangleGlyph{}},
	stepioBatch:     {blue, plain, dashed, draw.BoxGlyph{}},
	limit:           {ink, thick, nil, draw.BoxGlyph{}},
	"C edge":        {ink, plain, dotted, draw.CircleGlyph{}},
	limitBatch:      {ink, plain, dashed, draw.SquareGlyph{}},
	packageNet:      {vermilion, plain, nil, draw.PyramidGlyph{}},
	"net small":     {vermilion, plain, dashed, draw.TriangleGlyph{}},
	"net large":     {vermilion, plain, nil, draw.RingGlyph{}},
	gnet:            {green, plain, nil, draw.CircleGlyph{}},
	"gnet spare":    {green, plain, dotted, draw.SquareGlyph{}},
	"gnet poll_opt": {green, plain, dashed, draw.RingGlyph{}},
	"nbio":          {pink, plain, nil, draw.BoxGlyph{}},
	"netpoll":       {orange, plain, nil, draw.SquareGlyph{}},
	"evio":          {cyan, plain, nil, draw.CrossGlyph{}},
	"gaio":          {olive, plain, nil, draw.PlusGlyph{}},
	netHTTP:         {vermilion, plain, nil, draw.PyramidGlyph{}},
	"fasthttp":      {purple, plain, nil, draw.BoxGlyph{}},
}

// lookOf returns how a contender is drawn; one that is not known here is drawn
// in grey.
func lookOf(contender string) look {
	if l, ok := looks[contender]; ok {
		return l
	}
	return look{faint, plain, nil, draw.RingGlyph{}}
}

func (l look) line() draw.LineStyle {
	return draw.LineStyle{Color: l.color, Width: l.width, Dashes: l.dashes}
}

func (l look) glyph() draw.GlyphStyle {
	return draw.GlyphStyle{Color: l.color, Radius: vg.Points(3), Shape: l.mark}
}

// callColors are of system calls, the most frequent first; what is beyond them
// is summed up in grey.
var callColors = []color.RGBA{blue, vermilion, green, orange, pink, cyan, olive, purple}
