package main

import (
	"encoding/xml"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStreamKnowsEveryByte(t *testing.T) {
	const length = 100
	whole := make([]byte, length)
	stream(7).fill(whole, 0)
	for at := range length {
		part := make([]byte, length-at)
		stream(7).fill(part, int64(at))
		require.Equal(t, whole[at:], part)
		require.NoError(t, stream(7).check(part, int64(at)))
		part[len(part)/2] ^= 1
		require.ErrorContains(t, stream(7).check(part, int64(at)), "was sent")
	}
	assert.Error(t, stream(8).check(whole, 0), "of another stream")
	assert.Error(t, stream(7).check(whole, 8), "of another place")
}

func TestHistogramAgainstASortedList(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(math.Exp(rnd.Float64() * 25))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	l := h.take()
	assert.Equal(t, len(all), l.n)
	assert.InEpsilon(t, all[len(all)/2-1], l.p50, 0.04)
	assert.InEpsilon(t, all[len(all)*99/100-1], l.p99, 0.04)
	assert.Equal(t, latency{}, h.take(), "it is empty now")
	h.add(-time.Second)
	h.add(math.MaxInt64)
	assert.Equal(t, latency{n: 2, p50: 0, p99: math.MaxInt64}, h.take())
}

func TestHistogramBucketsHaveNoGap(t *testing.T) {
	for i := range 58 * histogramSteps {
		top := bucketTop(i)
		require.Equal(t, i, bucketOf(uint64(top)))
		require.Equal(t, i+1, bucketOf(uint64(top)+1))
	}
}

// noisy is a series around a line, with outliers.
func noisy(n int, start, perSecond float64) []point {
	rnd := rand.New(rand.NewPCG(3, 4))
	points := make([]point, n)
	for i := range points {
		at := time.Duration(i) * time.Second
		points[i] = point{at, start + perSecond*at.Seconds() + rnd.NormFloat64()*start/100}
		if i%7 == 0 {
			points[i].value *= 3
		}
	}
	return points
}

func TestSlopeIsNotMovedByOutliers(t *testing.T) {
	assert.InDelta(t, 0.01, slope(noisy(500, 10, 0.01)), 0.001)
	assert.InDelta(t, 0.01, slope(noisy(2500, 10, 0.01)), 0.001, "thinned out")
	assert.InDelta(t, 0, slope(noisy(500, 10, 0)), 0.001)
}

func TestGrowthIsFound(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		points []point
		bad    bool
	}{
		"flat, with outliers":             {noisy(600, 20*mib, 0), false},
		"3 MiB of 20, below the floor":    {noisy(600, 20*mib, 3*mib/600.), false},
		"6 MiB of 20":                     {noisy(600, 20*mib, 6*mib/600.), true},
		"6 MiB of 200, below the share":   {noisy(600, 200*mib, 6*mib/600.), false},
		"shrinks":                         {noisy(600, 20*mib, -6*mib/600.), false},
		"fewer samples than say anything": {noisy(29, 20*mib, mib), false},
	} {
		t.Run(name, func(t *testing.T) {
			v := growth("memory", c.points)
			assert.Equal(t, c.bad, v.bad, v)
			assert.Equal(t, len(c.points) < fewestSamples, strings.Contains(v.figure, "not judged"))
		})
	}
}

func TestSlowdownIsFoundBesideTheControl(t *testing.T) {
	// of is a span of intervals around a median, with outliers.
	of := func(n int, p99, control time.Duration, answers float64) span {
		s := span{intervals: n, answers: slices.Repeat([]float64{answers}, n)}
		for i, p := range noisy(n, 1, 0) {
			s.p99s = append(s.p99s, float64(p99)*p.value)
			s.controls = append(s.controls, float64(control)*noisy(n, 1, 0)[n-1-i].value)
		}
		return s
	}
	const ms = time.Millisecond
	busy := of(5, ms, ms, 200)
	busy.intervals = 100
	for name, c := range map[string]struct {
		first, last span
		bad, judged bool
	}{
		"both flat":                   {of(100, ms, ms, 200), of(100, ms, ms, 200), false, true},
		"slower":                      {of(100, ms, ms, 200), of(100, 2*ms, ms, 200), true, true},
		"slower by a third":           {of(100, 3*ms, ms, 200), of(100, 4*ms, ms, 200), false, true},
		"slower, with the machine":    {of(100, ms, ms, 200), of(100, 2*ms, 2*ms, 200), false, true},
		"flat, the machine is faster": {of(100, ms, 2*ms, 200), of(100, ms, ms, 200), false, true},
		"slower, too few answers":     {of(100, ms, ms, 200), of(100, 2*ms, ms, 99), false, false},
		"slower, too short a run":     {of(9, ms, ms, 200), of(9, 2*ms, ms, 200), false, false},
		"slower, on a busy machine":   {of(100, ms, ms, 200), busy, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := slowdown("echo", c.first, c.last)
			assert.Equal(t, c.bad, v.bad, v)
			assert.Equal(t, c.judged, v.judged(), v)
		})
	}
}

func TestFlatnessOfP99IsJudgedUnlessAnyIsGood(t *testing.T) {
	r := record{kinds: []*kind{{name: "hash", timed: true}, {name: controlName}}}
	for i := range 90 { // a second each
		hash := latency{n: 200, p99: time.Millisecond}
		if i > 50 {
			hash.p99 *= 3
		}
		r.rows = append(r.rows, row{at: time.Duration(i+1) * time.Second, times: []latency{hash, {n: 200, p99: time.Millisecond}}})
	}
	of := func(verdicts []verdict) verdict { return verdicts[len(verdicts)-1] } // of hash
	judged, not := of(r.flatness(90*time.Second, false)), of(r.flatness(90*time.Second, true))
	assert.Regexp(t, `^FAIL  hash +p99 1ms -> 3ms: 3\.00`, judged)
	assert.Regexp(t, `^--    hash +p99 1ms -> 3ms: 3\.00 .*not judged: -any-p99`, not)
	assert.False(t, not.bad)
}

func TestPlotIsWellFormed(t *testing.T) {
	svg := plot(`a "title" & more`, time.Hour, []time.Duration{time.Minute},
		chart{title: "memory", unit: "MiB", lines: []line{{name: "rss <all>", points: noisy(100, 20, 0.1)}}},
		chart{title: "p99", unit: "ms", log: true, lines: []line{
			{name: "echo", points: noisy(100, 0.5, 0)}, {name: controlName, dashed: true, points: noisy(100, 0.4, 0)}}},
		chart{title: "nothing", unit: "ms", log: true})
	var words []string
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		if text, ok := token.(xml.CharData); ok {
			words = append(words, strings.TrimSpace(string(text)))
		}
	}
	for _, want := range []string{`a "title" & more`, "memory (MiB)", "p99 (ms)", "rss <all>", "echo", "control", "60 min", "0.5", "20"} {
		assert.Contains(t, words, want)
	}
	assert.NotContains(t, svg, "NaN")
}

func TestTicksAreRoundAndFew(t *testing.T) {
	assert.Equal(t, []float64{0, 5, 10, 15, 20}, ticks(0, 23, false))
	assert.Equal(t, []float64{0, 10, 20, 30, 40, 50, 60}, ticks(0, 60, false))
	assert.Equal(t, []float64{1, 2, 5, 10, 20}, ticks(0.9, 21, true))
}
