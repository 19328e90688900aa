package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// terminalWidth is the width that every table and every line of prose keeps to.
const terminalWidth = 120

// legend explains the columns, once for all tables.
const legend = `CPU is the server process's, user and system, for one request (connection, delivery): the median of the rounds, with
the least and the greatest. /stepio and /C are medians of ratios within a round: to stepio and to the C epoll server.
p50, p99 and p99.9 are medians of the rounds' percentiles of latency, in µs. syscalls are calls a request, counted by
strace in a window of their own, without those that the Go runtime makes by the clock. "beats stepio" says in how many
rounds a contender took less CPU than stepio; it is empty where the median of the ratios is not below 1.00. "95 %" is
the confidence interval of a median of ratios, where there are six or more.`

// Terminal writes the report as text: a table for each scenario, the parked
// tasks, the claims and the notes, at most 120 columns wide.
func Terminal(w io.Writer, r *result.Report) error {
	var b strings.Builder
	for _, f := range machine(r) {
		b.WriteString(wrap(f.Name+": ", oneLine(f.Value)))
	}
	b.WriteString("\n" + legend + "\n")
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		fmt.Fprintf(&b, "\n%s  (%s)\n%s", s.Title, s.ID, wrap("", describe(s)))
		if s.Group == result.GroupDensity {
			densityTable(&b, s)
		} else {
			scenarioTable(&b, s)
		}
	}
	if r.Parked != nil {
		fmt.Fprintf(&b, "\n%s parked tasks, without descriptors\n", count(r.Parked.Tasks))
		t := newGrid("figure", "value")
		for _, f := range parkedFields(r.Parked)[1:] {
			t.row(f.Name, f.Value)
		}
		t.write(&b)
	}
	if len(r.Claims) > 0 {
		fmt.Fprintf(&b, "\nWhat the library promises: %s\n", tally(r.Claims))
		t := newGrid("claim", "value", "95 %", "at most", "")
		for _, c := range r.Claims {
			if !c.Known {
				continue // a run of a few scenarios would have little else
			}
			t.row(c.What, claimValue(c), claimInterval(c), claimFigure(c.Bound, c.Unit), strings.ToUpper(claimState(c)))
		}
		t.write(&b)
	}
	if len(r.Notes) > 0 {
		b.WriteString("\nNotes\n")
		for _, note := range r.Notes {
			b.WriteString(wrap("- ", oneLine(note)))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func scenarioTable(b *strings.Builder, s *result.Scenario) {
	t := newGrid("contender", "CPU µs", "[min-max]", "/stepio", "/C", many(unit(s))+"/s",
		"p50", "p99", "p99.9", "syscalls", "beats stepio")
	for i := range s.Rows {
		row := &s.Rows[i]
		if text := failure(row); text != "" {
			t.message(row.Contender, text)
			continue
		}
		t.row(row.Contender, median(row.CPU, micros), spread(row.CPU, micros),
			median(row.CPUToStepio, ratioText), median(row.CPUToLimit, ratioText), median(row.Throughput, thousands),
			median(row.P50, micros), median(row.P99, micros), median(row.P999, micros), callSum(row), beats(s, row))
		if text := failedRounds(row); text != "" {
			t.note(row.Contender + ": " + text)
		}
		if row.Lost > 0 {
			t.note(row.Contender + ": " + thousands(float64(row.Lost)) + " datagrams lost in all rounds")
		}
	}
	t.write(b)
}

// densityTable has the bytes a connection: the slopes, and at each point what
// the whole process holds divided by its connections.
func densityTable(b *strings.Builder, s *result.Scenario) {
	points := densityCounts(s)
	heads := []string{"contender", "RSS B/conn", "Go B/conn"}
	for _, n := range points {
		heads = append(heads, "RSS/"+count(n), "Go/"+count(n))
	}
	t := newGrid(heads...)
	for i := range s.Rows {
		row := &s.Rows[i]
		if text := failure(row); text != "" {
			t.message(row.Contender, text)
			continue
		}
		t.row(append([]string{row.Contender}, densityCells(row, points)...)...)
	}
	t.note("RSS B/conn and Go B/conn are the slopes; RSS/N and Go/N are the whole process at N connections, divided by N.")
	t.write(b)
}

// densityCells are the slopes of a row, then resident and Go memory a
// connection at each of the points.
func densityCells(row *result.Row, points []int) []string {
	cells := []string{none, none}
	if v, ok := slope(row.Density, rssOf); ok {
		cells[0] = thousands(v)
	}
	if v, ok := slope(row.Density, goOf); ok {
		cells[1] = thousands(v)
	}
	for _, n := range points {
		rss, heap := none, none
		for _, p := range row.Density {
			if p.Conns != n {
				continue
			}
			if v, ok := rssOf(p); ok {
				rss = thousands(v / float64(n))
			}
			if v, ok := goOf(p); ok {
				heap = thousands(v / float64(n))
			}
		}
		cells = append(cells, rss, heap)
	}
	return cells
}

// densityCounts are the numbers of connections of a density scenario; nothing
// can be divided by a point without connections.
func densityCounts(s *result.Scenario) []int {
	var longest []result.DensityPoint
	for _, row := range s.Rows {
		if len(row.Density) > len(longest) {
			longest = row.Density
		}
	}
	var counts []int
	for _, p := range longest {
		if p.Conns > 0 {
			counts = append(counts, p.Conns)
		}
	}
	return counts
}

// A grid is a table whose rows can be one long text.
type grid struct {
	rows     [][]string     // the first is the heading
	messages map[int]string // in place of that row
	notes    []string       // under the table
}

func newGrid(heads ...string) *grid {
	return &grid{rows: [][]string{heads}, messages: make(map[int]string)}
}

func (g *grid) row(cells ...string)    { g.rows = append(g.rows, cells) }
func (g *grid) note(text string)       { g.notes = append(g.notes, text) }
func (g *grid) message(name, s string) { g.messages[len(g.rows)] = s; g.row(name) }

// write draws the table: the first column to the left, the others to the right.
func (g *grid) write(b *strings.Builder) {
	widths := make([]int, len(g.rows[0]))
	for _, row := range g.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for r, row := range g.rows {
		line := fmt.Sprintf("%-*s", widths[0], row[0]) // fmt counts characters, too
		if text, ok := g.messages[r]; ok {
			line = cut(line+"  "+text, terminalWidth)
		}
		for i, cell := range row[1:] {
			line += fmt.Sprintf("  %*s", widths[i+1], cell)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		if r == 0 {
			total := 2 * (len(widths) - 1)
			for _, n := range widths {
				total += n
			}
			b.WriteString(strings.Repeat("-", total) + "\n")
		}
	}
	for _, note := range g.notes {
		b.WriteString(wrap("  ", note))
	}
}

// wrap breaks a text at spaces; the lines after the first are indented as far
// as the first one's mark is wide.
func wrap(mark, s string) string {
	var b strings.Builder
	indent := strings.Repeat(" ", len([]rune(mark)))
	line, used := mark, len([]rune(mark))
	for i, word := range strings.Fields(s) {
		n := len([]rune(word))
		if i > 0 && used+1+n > terminalWidth {
			b.WriteString(line + "\n")
			line, used = indent, len(indent)
		} else if i > 0 {
			line += " "
			used++
		}
		line += word
		used += n
	}
	return b.String() + line + "\n"
}
