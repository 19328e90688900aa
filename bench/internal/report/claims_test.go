package report_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/report"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// run is a report of one scenario in which each contender has one window for
// each CPU time a request, and a p99 of as many nanoseconds.
func run(t *testing.T, id string, cpu map[string][]time.Duration) *result.Report {
	t.Helper()
	s := result.Scenario{ID: id}
	for name, times := range cpu {
		row := result.Row{Contender: name}
		for round, d := range times {
			row.Samples = append(row.Samples, window(round, 1000, d, int64(d)))
		}
		s.Rows = append(s.Rows, row)
	}
	require.NoError(t, report.Summarize(&s))
	return &result.Report{Scenarios: []result.Scenario{s}}
}

// claim finds the one claim that has all of the words.
func claim(t *testing.T, r *result.Report, words ...string) result.Claim {
	t.Helper()
	var found []result.Claim
	for _, c := range report.Claims(r) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(c.What, w)
		}
		if all {
			found = append(found, c)
		}
	}
	require.Len(t, found, 1, "%q", words)
	return found[0]
}

func TestClaimsOfAnEmptyRunAreNotKnown(t *testing.T) {
	claims := report.Claims(&result.Report{})
	assert.Len(t, claims, 31)
	seen := make(map[string]bool)
	for _, c := range claims {
		assert.False(t, c.Known || c.Met || c.Value != 0, c.What)
		assert.Positive(t, c.Bound, c.What)
		assert.False(t, seen[c.What], "%q twice", c.What)
		seen[c.What] = true
	}
	r := &result.Report{Claims: claims}
	var b bytes.Buffer
	require.NoError(t, report.Terminal(&b, r))
	assert.Contains(t, b.String(), "0 met, 0 missed, 31 not measured")
	assert.NotContains(t, b.String(), claims[0].What, "what was not measured is not listed")
}

func TestClaimsMetMissedAndOnTheBound(t *testing.T) {
	for name, c := range map[string]struct {
		ours []time.Duration
		met  bool
	}{
		"under the bound": {[]time.Duration{104, 100, 90}, true},
		"on the bound":    {[]time.Duration{105, 200, 100}, true},
		"over the bound":  {[]time.Duration{106, 200, 100}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, "echo-64B-100", map[string][]time.Duration{"stepio": c.ours, "C epoll": {100, 100, 100}})
			got := claim(t, r, "100 connections: server CPU to C epoll")
			assert.True(t, got.Known)
			assert.Equal(t, c.met, got.Met, "%+v", got)
			assert.Equal(t, 1.05, got.Bound)
			assert.Empty(t, got.Unit)
		})
	}
}

// A value that rounds to its bound is shown with the digits that tell them apart.
func TestClaimsThatMissByLittleShowIt(t *testing.T) {
	r := run(t, "echo-64B-100", map[string][]time.Duration{"stepio": {10532}, "C epoll": {10000}})
	r.Claims = report.Claims(r)
	var b bytes.Buffer
	require.NoError(t, report.Terminal(&b, r))
	assert.Regexp(t, `100 connections: server CPU to C epoll +1\.0532 +1\.05 +MISSED`, b.String())
}

func TestClaimsTakeTheBestPeerRoundByRound(t *testing.T) {
	r := run(t, "echo-64B-1000", map[string][]time.Duration{
		"stepio": {100, 200, 300}, "net": {400, 400, 400}, "nbio": {200, 250, 250}, "gnet": {900, 900, 900},
		"fasthttp": {1, 1, 1}, // no peer of this claim
	})
	best := claim(t, r, "1,000 connections", "best Go peer (nbio)")
	assert.Equal(t, 0.8, best.Value, "100/200, 200/250, 300/250")
	assert.True(t, best.Met)
	toNet := claim(t, r, "1,000 connections", "to net")
	assert.Equal(t, 0.5, toNet.Value)

	failed := &r.Scenarios[0]
	for i := range failed.Rows {
		if failed.Rows[i].Contender == "nbio" {
			failed.Rows[i].Failure = "a byte is wrong"
		}
	}
	assert.Equal(t, 0.5, claim(t, r, "1,000 connections", "best Go peer (net)").Value, "who failed is no peer")
}

func TestClaimsOfAFailedRowAreNotKnown(t *testing.T) {
	r := run(t, "churn", map[string][]time.Duration{"stepio": {100}, "C epoll": {100}})
	assert.True(t, claim(t, r, "come and go", "to C epoll").Met)
	for i := range r.Scenarios[0].Rows {
		if r.Scenarios[0].Rows[i].Contender == "stepio" {
			r.Scenarios[0].Rows[i].Failure = "gave up"
		}
	}
	assert.False(t, claim(t, r, "come and go", "to C epoll").Known)
}

func TestClaimsOfEachScenario(t *testing.T) {
	for _, c := range []struct {
		id, words          string
		contender, base    string
		bound, ours, their time.Duration // bound in hundredths
	}{
		{"echo-64B-10000", "10,000 connections: server CPU to C epoll", "stepio", "C epoll", 105, 3, 4},
		{"echo-64B-1", "1 connection: server CPU to C epoll", "stepio", "C epoll", 115, 3, 4},
		{"echo-64B-1", "1 connection: server CPU to gnet", "stepio", "gnet", 100, 3, 4},
		{"pipeline-16", "16 pipelined messages: server CPU", "stepio", "C epoll", 110, 3, 4},
		{"echo-4KiB", "echo 4 KiB: server CPU", "stepio", "C epoll", 105, 3, 4},
		{"churn", "come and go: server CPU to the best Go peer (evio)", "stepio", "evio", 100, 3, 4},
		{"udp-64B", "server CPU of stepio batch to C mmsg", "stepio batch", "C mmsg", 115, 3, 4},
		{"udp-64B", "UDP 64 B: server CPU to C epoll", "stepio", "C epoll", 105, 3, 4},
		{"http-hello", "server CPU to net/http", "stepio", "net/http", 65, 3, 4},
		{"echo-64B-100", "pool and back", "stepio pool", "stepio", 160, 3, 4},
		{"echo-64KiB", "echo-64KiB: p99 latency", "stepio", "C epoll", 115, 3, 4},
		{"pipeline-4", "pipeline-4: p99 latency", "stepio", "C epoll", 115, 3, 4},
	} {
		r := run(t, c.id, map[string][]time.Duration{c.contender: {c.ours}, c.base: {c.their}})
		got := claim(t, r, c.words)
		assert.Equal(t, float64(c.bound)/100, got.Bound, c.words)
		assert.Equal(t, 0.75, got.Value, c.words)
		assert.True(t, got.Known, c.words)
	}
}

func TestClaimsOfIdleConnections(t *testing.T) {
	r := run(t, "active-100", map[string][]time.Duration{"stepio": {100, 200}, "C epoll": {1, 1}})
	among := run(t, "active-100-idle-15000", map[string][]time.Duration{"stepio": {110, 200}, "C epoll": {1, 1}})
	assert.False(t, claim(t, r, "15,000 idle").Known, "one of the two alone says nothing")
	r.Scenarios = append(r.Scenarios, among.Scenarios...)
	got := claim(t, r, "15,000 idle")
	assert.InDelta(t, 1.05, got.Value, 1e-9)
	assert.Equal(t, 1.05, got.Bound)
}

func TestClaimsOfMemory(t *testing.T) {
	density := result.Scenario{ID: "density", Rows: []result.Row{{Contender: "stepio", Density: []result.DensityPoint{
		{Conns: 1, RSS: 1}, {Conns: 1000, RSS: 1_000_000}, {Conns: 2000, RSS: 1_240_000},
	}}}}
	require.NoError(t, report.Summarize(&density))
	r := &result.Report{Scenarios: []result.Scenario{density}, Parked: &result.Parked{
		HeapTask: 201, GCPause: time.Millisecond, GCCPU: 150 * time.Millisecond,
	}}
	assert.Equal(t, result.Claim{What: "resident memory of an idle connection of stepio", Bound: 240, Value: 240, Unit: "B",
		Met: true, Known: true}, claim(t, r, "idle connection of stepio"))
	assert.Equal(t, result.Claim{What: "parked tasks: Go heap a task", Bound: 200, Value: 201, Unit: "B", Known: true},
		claim(t, r, "heap a task"))
	assert.True(t, claim(t, r, "longest pause").Met)
	assert.Equal(t, 150.0, claim(t, r, "CPU time of a full").Value)

	// Memory that did not grow was not measured: that is no promise kept.
	density.Rows[0].RSSConn = -3
	assert.False(t, claim(t, r, "idle connection of stepio").Known)
}

// Of 40 values the 14th and the 27th, as the binomial distribution has it.
func TestClaimsHaveAConfidenceInterval(t *testing.T) {
	for _, c := range []struct {
		rounds    int
		low, high float64
	}{
		{5, 0, 0}, {6, 1, 6}, {8, 1, 8}, {9, 2, 8}, {20, 6, 15}, {40, 14, 27}, {2000, 956, 1045},
	} {
		var ours, theirs []time.Duration
		for i := range c.rounds {
			ours = append(ours, time.Duration((i*7+3)%c.rounds+1)*1000) // each once, when 7 does not divide the number
			theirs = append(theirs, 1000)
		}
		r := run(t, "echo-64B-100", map[string][]time.Duration{"stepio": ours, "C epoll": theirs})
		got := claim(t, r, "100 connections: server CPU to C epoll")
		assert.InDelta(t, c.low, got.Low, 1e-9, "%d rounds", c.rounds)
		assert.InDelta(t, c.high, got.High, 1e-9, "%d rounds", c.rounds)
	}
}
