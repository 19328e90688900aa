package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// What a run is held to. doc.go says why these rules are as they are.
const (
	warmUpShare    = 0.2     // of the run, which is not judged
	growthShare    = 0.05    // of the median: how much memory may grow over the rest
	growthFloor    = 4 << 20 // bytes that it may grow whatever the median
	slowdownBound  = 1.5     // p99 of the last third to that of the first
	fewestSamples  = 30      // after the warm-up: with fewer, nothing is said about flatness
	fewestAnswers  = 100     // in the median interval: with fewer, there is no p99
	maxSlopePoints = 2000    // of a series: more are thinned out, since every pair is looked at
)

// point is a value at a time.
type point struct {
	at    time.Duration
	value float64
}

// slope is the Theil-Sen estimate: the median of the slopes of all pairs of
// points, in units a second. Up to 29 % of the points may be outliers.
func slope(points []point) float64 {
	if step := len(points)/maxSlopePoints + 1; step > 1 {
		var thin []point
		for i := 0; i < len(points); i += step {
			thin = append(thin, points[i])
		}
		points = thin
	}
	slopes := make([]float64, 0, len(points)*(len(points)-1)/2)
	for i, a := range points {
		for _, b := range points[i+1:] {
			if b.at != a.at {
				slopes = append(slopes, (b.value-a.value)/(b.at-a.at).Seconds())
			}
		}
	}
	return median(slopes)
}

// median is NaN of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// verdict is what is said of one figure.
type verdict struct {
	what   string
	figure string
	bad    bool
}

func (v verdict) String() string {
	mark := "ok  "
	if v.bad {
		mark = "FAIL"
	}
	return fmt.Sprintf("%s  %-22s %s", mark, v.what, v.figure)
}

// growth judges a series of bytes, taken after the warm-up.
func growth(what string, points []point) verdict {
	if len(points) < fewestSamples {
		return verdict{what: what, figure: fmt.Sprintf("not judged: %d samples after the warm-up, %d wanted", len(points), fewestSamples)}
	}
	values := make([]float64, len(points))
	for i, p := range points {
		values[i] = p.value
	}
	middle := median(values)
	over := points[len(points)-1].at - points[0].at
	grown, bound := slope(points)*over.Seconds(), max(middle*growthShare, growthFloor)
	return verdict{
		what: what,
		figure: fmt.Sprintf("median %.2f MiB, trend %+.2f MiB over %v (bound %+.2f)",
			middle/(1<<20), grown/(1<<20), over.Round(time.Second), bound/(1<<20)),
		bad: grown > bound,
	}
}

// thirds are the medians of the first and of the last third of a series.
func thirds(points []point) (first, last float64) {
	third := len(points) / 3
	pick := func(points []point) float64 {
		values := make([]float64, len(points))
		for i, p := range points {
			values[i] = p.value
		}
		return median(values)
	}
	return pick(points[:third]), pick(points[len(points)-third:])
}

// slowdown judges the p99 of a kind of traffic against that of the control in
// the same intervals; both in nanoseconds, with the number of answers.
func slowdown(what string, p99s, controls []point, answers []float64) verdict {
	if len(p99s) < fewestSamples {
		return verdict{what: what, figure: fmt.Sprintf("not judged: %d samples after the warm-up, %d wanted", len(p99s), fewestSamples)}
	}
	first, last := thirds(p99s)
	controlFirst, controlLast := thirds(controls)
	us := func(ns float64) time.Duration { return time.Duration(ns).Round(time.Microsecond) }
	v := verdict{what: what}
	v.figure = fmt.Sprintf("p99 %v -> %v: %.2f (control %v -> %v: %.2f)", us(first), us(last), last/first,
		us(controlFirst), us(controlLast), controlLast/controlFirst)
	if n := median(answers); n < fewestAnswers {
		v.figure += fmt.Sprintf("; not judged: %.0f answers in an interval, %d wanted", n, fewestAnswers)
		return v
	}
	v.bad = last/first/max(1, controlLast/controlFirst) > slowdownBound
	return v
}
