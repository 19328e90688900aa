package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// What a run is held to. doc.go says why these rules are as they are.
const (
	warmUpShare    = 0.2     // of the run, which is not judged
	growthShare    = 0.05    // of the median: how much memory may grow over the rest
	growthFloor    = 4 << 20 // bytes that it may grow whatever the median
	slowdownBound  = 1.5     // p99 of the last third to that of the first
	othersBound    = 0.25    // of the processors, for others: an interval with more says nothing about p99
	fewestSamples  = 30      // after the warm-up: with fewer, nothing is said about flatness
	fewestAnswers  = 100     // in the median interval: with fewer, there is no p99
	maxSlopePoints = 1000    // of a series: more are thinned out, since every pair is looked at
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

// judged reports whether the figure was held to a bound, good or bad.
func (v verdict) judged() bool { return !strings.Contains(v.figure, "not judged") }

func (v verdict) String() string {
	mark := "ok  "
	switch {
	case v.bad:
		mark = "FAIL"
	case !v.judged():
		mark = "--  "
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

// A span is a part of a run as one kind of traffic saw it: of every interval in
// which the machine was not busy with others, the p99 and that of the control,
// in nanoseconds, and the number of answers.
type span struct {
	intervals               int // also those in which it was busy
	p99s, controls, answers []float64
}

// slowdown judges the p99 of a kind of traffic: that of a later span against that
// of an earlier one, and both against the control's.
func slowdown(what string, first, last span) verdict {
	v := verdict{what: what}
	if n := min(first.intervals, last.intervals); n < fewestSamples/3 {
		v.figure = fmt.Sprintf("not judged: %d samples in a third, %d wanted", n, fewestSamples/3)
		return v
	}
	if n := min(len(first.p99s), len(last.p99s)); n < fewestSamples/3 {
		v.figure = fmt.Sprintf("not judged: the machine was busy with others, but for %d of %d intervals in the first third and %d of %d in the last",
			len(first.p99s), first.intervals, len(last.p99s), last.intervals)
		return v
	}
	us := func(ns float64) time.Duration { return time.Duration(ns).Round(time.Microsecond) }
	before, after := median(first.p99s), median(last.p99s)
	controlBefore, controlAfter := median(first.controls), median(last.controls)
	v.figure = fmt.Sprintf("p99 %v -> %v: %.2f (control %v -> %v: %.2f; %d and %d quiet intervals)", us(before), us(after), after/before,
		us(controlBefore), us(controlAfter), controlAfter/controlBefore, len(first.p99s), len(last.p99s))
	if n := min(median(first.answers), median(last.answers)); n < fewestAnswers {
		v.figure += fmt.Sprintf("; not judged: %.0f answers in an interval, %d wanted", n, fewestAnswers)
		return v
	}
	v.bad = after/before/max(1, controlAfter/controlBefore) > slowdownBound
	return v
}
