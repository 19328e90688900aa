package report

import (
	"slices"
	"strings"
	"time"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// Claims returns what the library promises of this benchmark, each with this
// run's figure. Every value is to be at most its bound, and the median of ratios
// within rounds where it is a ratio. A row that failed gives no figure, and a
// claim without one is returned as not known: it is neither met nor missed.
func Claims(r *result.Report) []result.Claim { return claim(r).claims }

// claim makes the claims of a report.
func claim(r *result.Report) *claimer {
	c := &claimer{report: r}
	for _, e := range []struct{ id, load string }{
		{"echo-64B-100", "echo 64 B, 100 connections"},
		{"echo-64B-1000", "echo 64 B, 1,000 connections"},
		{"echo-64B-10000", "echo 64 B, 10,000 connections"},
	} {
		c.cpu(e.load, e.id, stepio, limit, 1.05)
		c.best(e.load, e.id, 0.80)
		c.cpu(e.load, e.id, stepio, packageNet, 0.80)
	}
	c.cpu("echo 64 B, 1 connection", "echo-64B-1", stepio, limit, 1.15)
	c.cpu("echo 64 B, 1 connection", "echo-64B-1", stepio, gnet, 1.0)
	c.cpu("16 pipelined messages", "pipeline-16", stepio, limit, 1.10)
	c.cpu("echo 4 KiB", "echo-4KiB", stepio, limit, 1.05)
	c.idle(1.05)
	c.density(240)
	c.cpu("connections that come and go", "churn", stepio, limit, 1.10)
	c.best("connections that come and go", "churn", 1.0)
	c.cpu("UDP 64 B in batches", "udp-64B", stepioBatch, limitBatch, 1.15)
	c.cpu("UDP 64 B", "udp-64B", stepio, limit, 1.05)
	c.cpu("HTTP keep-alive", "http-hello", stepio, netHTTP, 0.65)
	c.cpu("a hop through the pool and back", "echo-64B-100", stepioPool, stepio, 1.6)
	c.parked()
	for _, id := range c.echoes() {
		row, base := c.row(id, stepio), c.row(id, limit)
		what := id
		if s := findScenario(r, id); s != nil && s.Title != "" {
			what = s.Title
		}
		c.addRatio(what+": p99 latency to "+limit, ratios(row, base, p99Of), 1.15)
	}
	return c
}

type claimer struct {
	report  *result.Report
	claims  []result.Claim
	toLimit []string // the scenarios in which stepio's CPU is held to the limit's
}

// row returns the contender's row, or nil when there is none or it failed.
func (c *claimer) row(id, contender string) *result.Row {
	row := findRow(findScenario(c.report, id), contender)
	if row == nil || row.Failure != "" {
		return nil
	}
	return row
}

// add appends a claim about a figure that is not a median of rounds.
func (c *claimer) add(what, unit string, value, bound float64) {
	c.append(result.Claim{What: what, Bound: bound, Unit: unit, Value: value})
}

// addRatio appends a claim about the median of ratios.
func (c *claimer) addRatio(what string, ratios []float64, bound float64) {
	claim := result.Claim{What: what, Bound: bound, Value: sumUp(ratios).Median}
	claim.Low, claim.High = interval(ratios)
	c.append(claim)
}

// append decides a claim by its value. No figure of this benchmark can be zero or less unless
// it was not measured or lost in noise, so such a value is not known: it must not
// count as met.
func (c *claimer) append(claim result.Claim) {
	claim.Known = claim.Value > 0
	claim.Met = claim.Known && claim.Value <= claim.Bound
	if !claim.Known {
		claim.Value, claim.Low, claim.High = 0, 0, 0
	}
	c.claims = append(c.claims, claim)
}

func (c *claimer) cpu(load, id, contender, base string, bound float64) {
	what := load + ": server CPU"
	if contender != stepio {
		what += " of " + contender
	}
	what += " to " + base
	if contender == stepio && base == limit {
		c.toLimit = append(c.toLimit, id)
	}
	c.addRatio(what, ratios(c.row(id, contender), c.row(id, base), cpuOf), bound)
}

// best compares with the peer that has the lowest median of CPU a request.
func (c *claimer) best(load, id string, bound float64) {
	var best *result.Row
	for _, name := range peers {
		row := c.row(id, name)
		if row != nil && row.CPU.N > 0 && (best == nil || row.CPU.Median < best.CPU.Median) {
			best = row
		}
	}
	what := load + ": server CPU to the best Go peer"
	if best != nil {
		what += " (" + best.Contender + ")"
	}
	c.addRatio(what, ratios(c.row(id, stepio), best, cpuOf), bound)
}

// idle compares the same load with idle connections and without.
func (c *claimer) idle(bound float64) {
	among, alone := c.row("active-100-idle-15000", stepio), c.row("active-100", stepio)
	c.addRatio("100 active connections among 15,000 idle ones: server CPU to the same alone",
		ratios(among, alone, cpuOf), bound)
}

func (c *claimer) density(bound float64) {
	var bytes float64
	if row := c.row("density", stepio); row != nil {
		bytes = row.RSSConn
	}
	c.add("resident memory of an idle connection of stepio", "B", bytes, bound)
}

func (c *claimer) parked() {
	var p result.Parked
	if c.report.Parked != nil {
		p = *c.report.Parked
	}
	c.add("parked tasks: Go heap a task", "B", p.HeapTask, 200)
	c.add("parked tasks: longest pause of a garbage collection", "ms", milliseconds(p.GCPause), 1)
	c.add("parked tasks: CPU time of a full garbage collection", "ms", milliseconds(p.GCCPU), 200)
}

// echoes are the scenarios with a claim about latency: those that a whole run
// has, and every other echo of this one.
func (c *claimer) echoes() []string {
	ids := []string{"echo-64B-1", "echo-64B-100", "echo-64B-1000", "echo-64B-10000", "pipeline-16", "echo-4KiB", "echo-64KiB"}
	for _, s := range c.report.Scenarios {
		echo := strings.HasPrefix(s.ID, "echo-") || strings.HasPrefix(s.ID, "pipeline")
		if echo && !slices.Contains(ids, s.ID) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
