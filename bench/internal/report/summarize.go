package report

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// Summarize fills the computed fields of every row from its samples.
//
// Each figure is computed for each round by itself, then summed up as the median
// with the least and the greatest. A ratio is of two samples of the same round,
// which ran one after the other: what disturbs the machine for longer than a
// round disturbs both. A round in which either of the two has no figure gives no
// ratio.
//
// The ratios compare with the contenders "stepio" and "C epoll", with one
// exception: "stepio batch" and "C mmsg", which move datagrams in batches, are
// held against each other, for a batch is another kind of work than single
// datagrams.
//
// A sample that failed, and one without requests or time, has no figures. A row
// with a failure keeps those of the samples that it has. The error is of
// histograms that cannot be read or merged; everything else is filled all the
// same.
func Summarize(s *result.Scenario) error {
	var errs []error
	for i := range s.Rows {
		row := &s.Rows[i]
		own, bound := references(row.Contender)
		ours, theirs := findRow(s, own), findRow(s, bound)
		row.CPU = sumUp(figures(row.Samples, cpuOf))
		row.Throughput = sumUp(figures(row.Samples, throughputOf))
		row.P50 = sumUp(figures(row.Samples, p50Of))
		row.P99 = sumUp(figures(row.Samples, p99Of))
		row.P999 = sumUp(figures(row.Samples, p999Of))
		row.CPUToStepio = ratio(row, ours, cpuOf)
		row.CPUToLimit = ratio(row, theirs, cpuOf)
		row.P99ToLimit = ratio(row, theirs, p99Of)
		row.Lost = 0
		for _, sample := range row.Samples {
			row.Lost += sample.Lost
		}
		var err error
		if row.Latency, err = merge(row.Samples); err != nil {
			errs = append(errs, fmt.Errorf("report: %s, %s: %w", s.ID, row.Contender, err))
		}
		row.RSSConn, _ = slope(row.Density, rssOf)
		row.GoConn, _ = slope(row.Density, goOf)
	}
	return errors.Join(errs...)
}

// references returns the contenders of the library and of the limit that this
// one is compared with.
func references(contender string) (own, bound string) {
	if contender == stepioBatch || contender == limitBatch {
		return stepioBatch, limitBatch
	}
	return stepio, limit
}

// A figure is one number of a sample; ok is false when the sample has none. It
// is always above zero, so that it can stand under a fraction line: a window
// that took no CPU time at all was not measured.
type figure func(result.Sample) (v float64, ok bool)

func usable(s result.Sample) bool {
	return s.Failure == "" && s.Requests > 0 && s.Elapsed > 0
}

func cpuOf(s result.Sample) (float64, bool) {
	if !usable(s) || s.CPU <= 0 {
		return 0, false
	}
	return float64(s.CPU) / float64(s.Requests), true
}

func throughputOf(s result.Sample) (float64, bool) {
	if !usable(s) {
		return 0, false
	}
	return float64(s.Requests) / s.Elapsed.Seconds(), true
}

func serverBusyOf(s result.Sample) (float64, bool) {
	return float64(s.CPU) / float64(s.Elapsed), usable(s) && s.CPU > 0
}

func clientBusyOf(s result.Sample) (float64, bool) {
	return float64(s.Client) / float64(s.Elapsed), usable(s) && s.Client > 0
}

// pairOf is the CPU of server and client together for one request, in nanoseconds.
func pairOf(s result.Sample) (float64, bool) {
	return float64(s.CPU+s.Client) / float64(s.Requests), usable(s) && s.CPU > 0 && s.Client > 0
}

func p50Of(s result.Sample) (float64, bool)  { return float64(s.P50), usable(s) && s.P50 > 0 }
func p99Of(s result.Sample) (float64, bool)  { return float64(s.P99), usable(s) && s.P99 > 0 }
func p999Of(s result.Sample) (float64, bool) { return float64(s.P999), usable(s) && s.P999 > 0 }

// figures returns the figure of every sample that has it.
func figures(samples []result.Sample, f figure) []float64 {
	var vs []float64
	for _, s := range samples {
		if v, ok := f(s); ok {
			vs = append(vs, v)
		}
	}
	return vs
}

// ratio sums up the figure of row by that of base, round by round. base may be
// nil, and may be row itself.
func ratio(row, base *result.Row, f figure) result.Stat {
	return sumUp(ratios(row, base, f))
}

func ratios(row, base *result.Row, f figure) []float64 {
	if row == nil || base == nil {
		return nil
	}
	of := make(map[int]float64, len(base.Samples)) // by round
	for _, s := range base.Samples {
		if v, ok := f(s); ok {
			of[s.Round] = v
		}
	}
	var vs []float64
	for _, s := range row.Samples {
		v, ok := f(s)
		b, both := of[s.Round]
		if ok && both {
			vs = append(vs, v/b)
		}
	}
	return vs
}

// sumUp returns the median, of an even number of values the mean of the middle
// two, with the least and the greatest.
func sumUp(vs []float64) result.Stat {
	if len(vs) == 0 {
		return result.Stat{}
	}
	vs = slices.Sorted(slices.Values(vs))
	n := len(vs)
	median := vs[n/2]
	if n%2 == 0 {
		median = (vs[n/2-1] + vs[n/2]) / 2
	}
	return result.Stat{Median: median, Min: vs[0], Max: vs[n-1], N: n}
}

// interval returns the 95 % confidence interval of a median: two of the values,
// whose ranks follow from how many of n fall below the true median, which is
// binomial, whatever the values' own distribution. With fewer than six values
// there is none: 0 and 0.
func interval(vs []float64) (low, high float64) {
	vs = slices.Sorted(slices.Values(vs))
	n, rank := len(vs), 0
	for sum := sides(n, 0); sum <= 0.025; sum += sides(n, rank) {
		rank++
	}
	if rank == 0 {
		return 0, 0
	}
	return vs[rank-1], vs[n-rank]
}

// sides is the chance that k of n coins show a given side.
func sides(n, k int) float64 {
	log := func(k int) float64 { // of k factorial
		v, _ := math.Lgamma(float64(k) + 1)
		return v
	}
	return math.Exp(log(n) - log(k) - log(n-k) - float64(n)*math.Ln2)
}

// merge returns one histogram of all usable samples, nil when none has any.
func merge(samples []result.Sample) ([]byte, error) {
	var all *hdrhistogram.Histogram
	for _, s := range samples {
		if !usable(s) || len(s.LatencyHDR) == 0 {
			continue
		}
		h, err := hdrhistogram.Decode(s.LatencyHDR)
		if err != nil {
			return nil, fmt.Errorf("latency of round %d: %w", s.Round, err)
		}
		if all == nil {
			all = h
			continue
		}
		if dropped := all.Merge(h); dropped > 0 {
			return nil, fmt.Errorf("latency of round %d: %d values are out of the first round's range", s.Round, dropped)
		}
	}
	if all == nil {
		return nil, nil
	}
	return all.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
}

func rssOf(p result.DensityPoint) (float64, bool) { return float64(p.RSS), p.RSS > 0 }
func goOf(p result.DensityPoint) (float64, bool)  { return float64(p.Go), p.Go > 0 }

// slope returns the bytes a connection between the second point and the last.
// Before the second point a server still grows what it needs once, whatever the
// number of connections (heap arenas, threads, code that is paged in); from there
// on, two points and a straight line assume the least. ok is false for fewer
// than three points.
func slope(points []result.DensityPoint, f func(result.DensityPoint) (float64, bool)) (bytes float64, ok bool) {
	if len(points) < 3 {
		return 0, false
	}
	near, far := points[1], points[len(points)-1]
	atNear, known1 := f(near)
	atFar, known2 := f(far)
	conns := float64(far.Conns) - float64(near.Conns)
	if !known1 || !known2 || conns <= 0 {
		return 0, false
	}
	return (atFar - atNear) / conns, true
}
