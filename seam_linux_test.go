package stepio

// What the seam costs in production: a call through it beside the same call
// without it, in turns, in one process.
//
//	go test -run '^$' -bench Seam .
//
// Reading, writing and datagrams have the seam's branch in their operation, so that a
// call which succeeds does not go through it: their figure is what that branch and a
// call of a function cost together, and so more than they pay.
//
// The calls are the cheapest that a kernel has for them (a socket with nothing to
// read, a poller with nothing to report), so that the seam's part in them is as
// large as it can be. A call that moves data takes several times as long.

import (
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// seamRounds is how often the two ways take turns, which of them is first
// alternating. A figure is the processor time of the fastest round, since a machine
// has other things to do.
const seamRounds = 200

func BenchmarkSeam(b *testing.B) {
	var s sys
	near, far := tcpPair(b)
	b.Cleanup(func() {
		require.Zero(b, s.close(near))
		require.Zero(b, s.close(far))
	})
	udp, errno := s.socket(unix.AF_INET, unix.SOCK_DGRAM)
	require.Zero(b, errno)
	b.Cleanup(func() { require.Zero(b, s.close(udp)) })
	direct, err := newPoller(eventBatch)
	require.NoError(b, err)
	through, err := s.newPoller(eventBatch)
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, direct.close())
		require.NoError(b, through.close())
	})
	p, events := make([]byte, 64), make([]event, eventBatch)
	ep := direct.(*epoll)
	for _, c := range []struct {
		name          string
		seam, without func()
	}{
		{"recvfrom", func() { s.read(near, p) }, func() { rawRead(near, p) }},
		{"sendto", func() { s.write(udp, p) }, func() { rawWrite(udp, p) }},
		{"epoll_pwait", func() { _, _ = through.wait(events, 0) }, func() { _, _ = ep.wait(events, 0) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			runtime.LockOSThread() // whose time it is
			defer runtime.UnlockOSThread()
			seam, without := math.Inf(1), math.Inf(1)
			for round := range seamRounds {
				n := b.N/seamRounds + 1
				if round%2 == 0 {
					seam = min(seam, perCall(b, n, c.seam))
				}
				without = min(without, perCall(b, n, c.without))
				if round%2 == 1 {
					seam = min(seam, perCall(b, n, c.seam))
				}
			}
			b.ReportMetric(0, "ns/op") // of no meaning
			b.ReportMetric(seam, "ns/seam")
			b.ReportMetric(without, "ns/without")
			b.ReportMetric(seam/without, "ratio")
		})
	}
}

// perCall is the processor time of one of n calls, in nanoseconds.
func perCall(b *testing.B, n int, call func()) float64 {
	begin := threadTime(b)
	for range n {
		call()
	}
	return float64(threadTime(b)-begin) / float64(n)
}

// threadTime is the processor time that this thread has used, in nanoseconds.
func threadTime(b *testing.B) int64 {
	var ts unix.Timespec
	require.NoError(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
	return ts.Nano()
}
