package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"image/color"
	"io"
	"slices"
	"strings"

	"github.com/stepio-go/stepio/bench/internal/result"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// HTML writes the report as one page that needs no other file: tables with all
// figures, and plots as SVG within it.
func HTML(w io.Writer, r *result.Report) error {
	p, err := newPage(r)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return err
	}
	_, err = b.WriteTo(w)
	return err
}

// A page is what the template shows.
type page struct {
	Date       string
	Machine    []field
	Contenders []result.Contender
	Tally      string
	Claims     []claimRow
	Failures   []field // where and why
	Sections   []section
	Parked     []field
	ParkedPlot *chart
	Notes      []string
}

type claimRow struct{ What, Value, Interval, Bound, State string }

// A section is a group of scenarios.
type section struct {
	ID, Title string
	Charts    []*chart // of several scenarios
	Parts     []part
}

// A part is one scenario.
type part struct {
	ID, Title, About string
	Charts           []*chart
	Heads            []string
	Rows             []tableRow
	Notes            []string
}

// A tableRow has Cells, or a Failure in their place.
type tableRow struct {
	Name    string
	Swatch  template.HTML
	Cells   []cell
	Failure string
	Span    int // of the failure
	Strong  bool
}

type group struct {
	group result.Group
	title string
}

// groups are the sections in the order of the page.
var groups = []group{
	{result.GroupEcho, "Echo over the number of connections"},
	{result.GroupPaced, "A server with time to spare"},
	{result.GroupSize, "Larger messages and pipelining"},
	{result.GroupIdle, "Active connections among idle ones"},
	{result.GroupChurn, "Connections that come and go"},
	{result.GroupUDP, "Datagrams"},
	{result.GroupHTTP, "HTTP"},
	{result.GroupFanout, "One to many"},
	{result.GroupDensity, "Memory of idle connections"},
}

// groupsOf returns the groups that the report has scenarios of. One that is not
// known here comes last and under its own name, so that nothing goes missing.
func groupsOf(r *result.Report) []group {
	var have []group
	for _, g := range groups {
		if slices.ContainsFunc(r.Scenarios, func(s result.Scenario) bool { return s.Group == g.group }) {
			have = append(have, g)
		}
	}
	for _, s := range r.Scenarios {
		if !slices.ContainsFunc(have, func(g group) bool { return g.group == s.Group }) {
			have = append(have, group{s.Group, "Other: " + string(s.Group)})
		}
	}
	return have
}

func newPage(r *result.Report) (*page, error) {
	p := &page{
		Date:       r.Started.Format("2006-01-02"),
		Machine:    machine(r),
		Contenders: r.Contend,
		Tally:      tally(r.Claims),
		Notes:      r.Notes,
	}
	for _, c := range r.Claims {
		p.Claims = append(p.Claims, claimRow{c.What, claimValue(c), claimInterval(c), claimFigure(c.Bound, c.Unit), claimState(c)})
	}
	colors := colorsOfCalls(r)
	for _, g := range groupsOf(r) {
		s := section{ID: "group-" + string(g.group), Title: g.title}
		var scenarios []*result.Scenario
		for i := range r.Scenarios {
			if r.Scenarios[i].Group == g.group {
				scenarios = append(scenarios, &r.Scenarios[i])
			}
		}
		var err error
		if s.Charts, err = sectionCharts(g.group, scenarios); err != nil {
			return nil, err
		}
		for _, scenario := range scenarios {
			part, err := newPart(scenario, colors)
			if err != nil {
				return nil, err
			}
			s.Parts = append(s.Parts, part)
			for _, row := range part.Rows {
				if row.Failure != "" {
					p.Failures = append(p.Failures, field{row.Name + ", " + scenario.Title, row.Failure})
				}
			}
		}
		p.Sections = append(p.Sections, s)
	}
	if r.Parked != nil {
		var err error
		p.Parked = parkedFields(r.Parked)
		if p.ParkedPlot, err = parkedBars(r.Parked); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// charts collects those that have something to show, and the first error.
type charts struct {
	list []*chart
	err  error
}

func (c *charts) add(one *chart, err error) {
	if c.err == nil {
		c.err = err
	}
	if one != nil && err == nil {
		c.list = append(c.list, one)
	}
}

// sectionCharts draws what compares the scenarios of a group.
func sectionCharts(g result.Group, scenarios []*result.Scenario) ([]*chart, error) {
	var c charts
	switch g {
	case result.GroupEcho:
		c.add(overConnections("Server CPU a request", "µs of server CPU a request", scenarios,
			func(r *result.Row) result.Stat { return r.CPU }, 1e-3))
		c.add(overConnections("Throughput", "requests a second", scenarios,
			func(r *result.Row) result.Stat { return r.Throughput }, 1))
	case result.GroupIdle:
		var alone, among *result.Scenario
		for _, s := range scenarios {
			if s.Idle == 0 {
				alone = s
			} else {
				among = s // the last: they come in the order of their idle connections
			}
		}
		if alone != nil && among != nil {
			c.add(idleGrowth(alone, among))
		}
	}
	return c.list, c.err
}

func newPart(s *result.Scenario, colors map[string]color.RGBA) (part, error) {
	p := part{ID: s.ID, Title: s.Title, About: describe(s)}
	var c charts
	if s.Group == result.GroupDensity {
		c.add(densityBars("Resident memory of an idle connection", s, rssOf))
		c.add(densityBars("Go heap and stacks of an idle connection", s, goOf))
	} else {
		c.add(cpuBars(s))
		c.add(latencyCurve(s))
		c.add(callChart(s, colors))
	}
	if c.err != nil {
		return part{}, c.err
	}
	p.Charts = c.list
	return p, p.fill(s)
}

// fill makes the table of a part.
func (p *part) fill(s *result.Scenario) error {
	var points []int
	if s.Group == result.GroupDensity {
		points = densityCounts(s)
		p.Heads = []string{"resident, B a connection", "Go heap and stacks, B a connection"}
		for _, n := range points {
			p.Heads = append(p.Heads, "resident / "+count(n), "Go / "+count(n))
		}
		p.Notes = append(p.Notes, "The first two columns are the slopes; the others are what the whole process holds at "+
			"that number of connections, divided by it.")
	} else {
		p.Heads = []string{"CPU, µs/" + unit(s), "/stepio", "/C", many(unit(s)) + "/s", "p50, µs", "p99, µs",
			"p99.9, µs", "p99 /C", "server busy", "client busy", "beats stepio", "system calls/" + unit(s)}
	}
	for i := range s.Rows {
		row := &s.Rows[i]
		l := lookOf(row.Contender)
		mark, err := swatch(l, row.Contender)
		if err != nil {
			return err
		}
		r := tableRow{Name: row.Contender, Swatch: mark, Failure: failure(row), Span: len(p.Heads), Strong: l.width == thick}
		switch {
		case r.Failure != "":
		case s.Group == result.GroupDensity:
			for _, text := range densityCells(row, points) {
				r.Cells = append(r.Cells, cell{Value: text})
			}
		default:
			r.Cells = figureCells(s, row)
			if text := failedRounds(row); text != "" {
				p.Notes = append(p.Notes, row.Contender+": "+text)
			}
			if row.Lost > 0 {
				p.Notes = append(p.Notes, row.Contender+": "+thousands(float64(row.Lost))+" datagrams lost in all rounds")
			}
		}
		p.Rows = append(p.Rows, r)
	}
	return nil
}

// A cell has a figure and, under it, the least and the greatest of the rounds.
type cell struct {
	Value, Spread string
	Wide          bool
}

func figureCells(s *result.Scenario, row *result.Row) []cell {
	return []cell{
		withSpread(row.CPU, micros), withSpread(row.CPUToStepio, ratioText), withSpread(row.CPUToLimit, ratioText),
		withSpread(row.Throughput, thousands),
		withSpread(row.P50, micros), withSpread(row.P99, micros), withSpread(row.P999, micros),
		withSpread(row.P99ToLimit, ratioText),
		{Value: median(sumUp(figures(row.Samples, serverBusyOf)), percentText)},
		{Value: median(sumUp(figures(row.Samples, clientBusyOf)), percentText)},
		{Value: beats(s, row)}, {Value: callText(row), Wide: true},
	}
}

func withSpread(s result.Stat, write func(float64) string) cell {
	if s.N < 2 {
		return cell{Value: median(s, write)}
	}
	return cell{Value: median(s, write), Spread: spread(s, write)}
}

// callText lists the system calls of a request.
func callText(row *result.Row) string {
	list, sum := calls(row)
	if len(list) == 0 {
		return none
	}
	texts := make([]string, len(list))
	for i, c := range list {
		texts[i] = fmt.Sprintf("%s %.4g", c.name, c.times)
	}
	return ratioText(sum) + ": " + strings.Join(texts, ", ")
}
