package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram counts durations in buckets that are 3 % wide, so that the
// figures of an hour take the memory of those of a second. Any goroutine may add.
type histogram struct {
	counts [60 * histogramSteps]atomic.Uint32
}

const histogramSteps = 32 // buckets from one power of two to the next

// add counts one. A negative duration counts as zero.
func (h *histogram) add(d time.Duration) { h.counts[bucketOf(uint64(max(d, 0)))].Add(1) }

func bucketOf(v uint64) int {
	if v < histogramSteps {
		return int(v)
	}
	shift := bits.Len64(v) - 6
	return (shift+1)*histogramSteps + int(v>>shift) - histogramSteps
}

// bucketTop is the longest duration that a bucket counts.
func bucketTop(i int) time.Duration {
	if i < histogramSteps {
		return time.Duration(i)
	}
	shift := i/histogramSteps - 1
	return time.Duration((uint64(i%histogramSteps+histogramSteps)+1)<<shift - 1)
}

// latency is what an interval's durations come to.
type latency struct {
	n        int
	p50, p99 time.Duration
}

// take empties the histogram and says what was in it.
func (h *histogram) take() latency {
	var counts [60 * histogramSteps]uint32
	l := latency{}
	for i := range h.counts {
		counts[i] = h.counts[i].Swap(0)
		l.n += int(counts[i])
	}
	l.p50 = quantile(counts[:], l.n, 50)
	l.p99 = quantile(counts[:], l.n, 99)
	return l
}

// quantile is the duration that percent of n counts do not exceed.
func quantile(counts []uint32, n, percent int) time.Duration {
	rank, seen := (n*percent+99)/100, 0
	for i, c := range counts {
		if seen += int(c); seen >= rank && c > 0 {
			return bucketTop(i)
		}
	}
	return 0
}
