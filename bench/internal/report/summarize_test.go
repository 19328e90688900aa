package report_test

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/report"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// window is a sample of one second with so many requests and so much CPU time a
// request.
func window(round int, requests int64, cpu time.Duration, p99 int64) result.Sample {
	return result.Sample{
		Round: round, Requests: requests, Elapsed: time.Second, CPU: time.Duration(requests) * cpu,
		P50: p99 / 2, P99: p99, P999: p99 * 2,
	}
}

func TestSummarizeMediansAndRatios(t *testing.T) {
	s := &result.Scenario{ID: "echo-64B-100", Rows: []result.Row{
		{Contender: "stepio", Samples: []result.Sample{
			window(0, 1000, 400, 100), window(1, 1200, 500, 120), window(2, 900, 450, 90),
		}},
		{Contender: "C epoll", Samples: []result.Sample{ // round 1 is missing
			window(0, 1100, 320, 80), window(2, 1000, 500, 100),
		}},
		{Contender: "net", Samples: []result.Sample{ // in another order
			window(2, 500, 900, 180), window(0, 600, 600, 400), window(1, 550, 750, 240),
		}},
	}}
	require.NoError(t, report.Summarize(s))
	ours, c, net := s.Rows[0], s.Rows[1], s.Rows[2]

	assert.Equal(t, result.Stat{Median: 450, Min: 400, Max: 500, N: 3}, ours.CPU)
	assert.Equal(t, result.Stat{Median: 1000, Min: 900, Max: 1200, N: 3}, ours.Throughput)
	assert.Equal(t, result.Stat{Median: 50, Min: 45, Max: 60, N: 3}, ours.P50)
	assert.Equal(t, result.Stat{Median: 100, Min: 90, Max: 120, N: 3}, ours.P99)
	assert.Equal(t, result.Stat{Median: 200, Min: 180, Max: 240, N: 3}, ours.P999)
	assert.Equal(t, result.Stat{Median: 1, Min: 1, Max: 1, N: 3}, ours.CPUToStepio)
	// 400/320 and 450/500: an even number has the mean of the middle two.
	assert.Equal(t, result.Stat{Median: (1.25 + 0.9) / 2, Min: 0.9, Max: 1.25, N: 2}, ours.CPUToLimit)
	assert.Equal(t, result.Stat{Median: (1.25 + 0.9) / 2, Min: 0.9, Max: 1.25, N: 2}, ours.P99ToLimit)

	assert.Equal(t, result.Stat{Median: (320.0 + 500) / 2, Min: 320, Max: 500, N: 2}, c.CPU)
	assert.Equal(t, 1.0, c.CPUToLimit.Median)
	assert.Equal(t, result.Stat{Median: (0.8 + 500.0/450) / 2, Min: 0.8, Max: 500.0 / 450, N: 2}, c.CPUToStepio)

	// 600/400, 750/500, 900/450: by round, not by place.
	assert.Equal(t, result.Stat{Median: 1.5, Min: 1.5, Max: 2, N: 3}, net.CPUToStepio)
	assert.Equal(t, result.Stat{Median: (1.8 + 5) / 2, Min: 1.8, Max: 5, N: 2}, net.P99ToLimit)
}

func TestSummarizeOneSample(t *testing.T) {
	s := &result.Scenario{Rows: []result.Row{{Contender: "stepio", Samples: []result.Sample{window(0, 10, 400, 100)}}}}
	require.NoError(t, report.Summarize(s))
	assert.Equal(t, result.Stat{Median: 400, Min: 400, Max: 400, N: 1}, s.Rows[0].CPU)
	assert.Zero(t, s.Rows[0].CPUToLimit, "there is nothing to compare with")
	assert.Nil(t, s.Rows[0].Latency)
}

func TestSummarizeFailures(t *testing.T) {
	failed := window(1, 1000, 10, 1)
	failed.Failure, failed.Lost = "a byte is wrong", 2
	empty := result.Sample{Round: 2, Elapsed: time.Second, CPU: time.Second}
	instant := result.Sample{Round: 3, Requests: 5, CPU: time.Second}
	lost := window(0, 1000, 600, 200)
	lost.Lost = 3
	s := &result.Scenario{Rows: []result.Row{
		{Contender: "stepio", Samples: []result.Sample{window(0, 1000, 400, 100), window(1, 1000, 400, 100)}},
		{Contender: "evio", Failure: "gave up", Samples: []result.Sample{lost, failed, empty, instant}},
		{Contender: "gaio", Failure: "did not start"},
	}}
	require.NoError(t, report.Summarize(s))
	evio := s.Rows[1]
	assert.Equal(t, result.Stat{Median: 600, Min: 600, Max: 600, N: 1}, evio.CPU, "what it has stays, what failed does not count")
	assert.Equal(t, result.Stat{Median: 1.5, Min: 1.5, Max: 1.5, N: 1}, evio.CPUToStepio)
	assert.EqualValues(t, 5, evio.Lost)
	assert.Equal(t, "gave up", evio.Failure)
	assert.Len(t, evio.Samples, 4)
	assert.Equal(t, result.Row{Contender: "gaio", Failure: "did not start"}, s.Rows[2])
}

func TestSummarizeComparesBatchesWithBatches(t *testing.T) {
	row := func(name string, cpu time.Duration) result.Row {
		return result.Row{Contender: name, Samples: []result.Sample{window(0, 1000, cpu, int64(cpu))}}
	}
	s := &result.Scenario{Group: result.GroupUDP, Rows: []result.Row{
		row("stepio", 400), row("stepio batch", 300), row("C epoll", 320), row("C mmsg", 200), row("net", 800),
	}}
	require.NoError(t, report.Summarize(s))
	for i, want := range []struct{ toStepio, toLimit float64 }{
		{1, 400.0 / 320}, {1, 300.0 / 200}, {320.0 / 400, 1}, {200.0 / 300, 1}, {800.0 / 400, 800.0 / 320},
	} {
		row := s.Rows[i]
		assert.Equal(t, want.toStepio, row.CPUToStepio.Median, row.Contender)
		assert.Equal(t, want.toLimit, row.CPUToLimit.Median, row.Contender)
		assert.Equal(t, want.toLimit, row.P99ToLimit.Median, row.Contender)
	}
}

func TestSummarizeDensitySlope(t *testing.T) {
	points := func(ps ...result.DensityPoint) result.Row { return result.Row{Density: ps} }
	s := &result.Scenario{Rows: []result.Row{
		// The first point is not part of it.
		points(result.DensityPoint{Conns: 1000, RSS: 1, Go: 9e9}, result.DensityPoint{Conns: 5000, RSS: 2_000_000, Go: 1_000_000},
			result.DensityPoint{Conns: 10000, RSS: 77, Go: 77}, result.DensityPoint{Conns: 15000, RSS: 4_000_000, Go: 2_500_000}),
		points(result.DensityPoint{Conns: 1000, RSS: 1, Go: -1}, result.DensityPoint{Conns: 5000, RSS: 2_000_000, Go: -1},
			result.DensityPoint{Conns: 15000, RSS: 2_500_000, Go: -1}),
		points(result.DensityPoint{Conns: 1000, RSS: 1000, Go: 10}, result.DensityPoint{Conns: 5000, RSS: 9000, Go: 20}),
		points(result.DensityPoint{}, result.DensityPoint{Conns: 5, RSS: 1, Go: 1}, result.DensityPoint{Conns: 5, RSS: 2, Go: 2}),
	}}
	require.NoError(t, report.Summarize(s))
	for i, want := range []struct{ rss, heap float64 }{{200, 150}, {50, 0}, {0, 0}, {0, 0}} {
		assert.Equal(t, want.rss, s.Rows[i].RSSConn, i)
		assert.Equal(t, want.heap, s.Rows[i].GoConn, i)
	}
}

func histogram(t *testing.T, highest int64, values ...int64) []byte {
	t.Helper()
	h := hdrhistogram.New(1, highest, 3)
	for _, v := range values {
		require.NoError(t, h.RecordValue(v))
	}
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	require.NoError(t, err)
	return b
}

func TestSummarizeMergesLatency(t *testing.T) {
	first, second, third := window(0, 3, 1, 1), window(1, 2, 1, 1), window(2, 1, 1, 1)
	first.LatencyHDR = histogram(t, 1_000_000, 100, 200, 300)
	second.LatencyHDR = histogram(t, 1_000_000, 400, 500)
	third.LatencyHDR, third.Failure = histogram(t, 1_000_000, 999), "cut off"
	s := &result.Scenario{ID: "echo", Rows: []result.Row{{Contender: "net", Samples: []result.Sample{first, second, third}}}}
	require.NoError(t, report.Summarize(s))
	h, err := hdrhistogram.Decode(s.Rows[0].Latency)
	require.NoError(t, err)
	assert.EqualValues(t, 5, h.TotalCount())
	assert.EqualValues(t, 100, h.Min())
	assert.EqualValues(t, 300, h.ValueAtQuantile(50))
	assert.EqualValues(t, 500, h.Max())

	again := s.Rows[0].Latency
	require.NoError(t, report.Summarize(s))
	assert.Equal(t, again, s.Rows[0].Latency, "to summarize twice changes nothing")
}

func TestSummarizeReportsBadLatency(t *testing.T) {
	garbled, outside := window(0, 3, 7, 1), window(1, 3, 7, 1)
	garbled.LatencyHDR = []byte("?")
	s := &result.Scenario{ID: "echo", Rows: []result.Row{{Contender: "net", Samples: []result.Sample{garbled}}}}
	require.ErrorContains(t, report.Summarize(s), "report: echo, net: latency of round 0")
	assert.Equal(t, 7.0, s.Rows[0].CPU.Median, "the rest is there")

	garbled.LatencyHDR, outside.LatencyHDR = histogram(t, 1000, 5), histogram(t, 1_000_000_000, 900_000_000)
	s.Rows[0].Samples = []result.Sample{garbled, outside}
	require.ErrorContains(t, report.Summarize(s), "out of the first round's range")
}

// JSON has no NaN and no infinity, so one of them would lose a whole run.
func TestSummarizeIsAlwaysFinite(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		checkFinite(t, func() int64 {
			switch r.IntN(6) {
			case 0:
				return 0
			case 1:
				return -r.Int64()
			case 2:
				return math.MaxInt64
			case 3:
				return math.MinInt64
			case 4:
				return r.Int64()
			}
			return r.Int64N(5)
		})
	}
}

func FuzzSummarizeIsFinite(f *testing.F) {
	f.Add([]byte("\x00\x01\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		i := -1
		checkFinite(t, func() int64 {
			if i++; len(data) == 0 {
				return 0
			}
			edges := []int64{0, 1, 2, -1, math.MaxInt64, math.MinInt64, 1000, math.MaxInt64 - 1}
			return edges[int(data[i%len(data)])%len(edges)]
		})
	})
}

func checkFinite(t *testing.T, next func() int64) {
	t.Helper()
	s := result.Scenario{ID: "echo-64B-100"}
	for _, name := range []string{"stepio", "C epoll", "net"} {
		row := result.Row{Contender: name}
		for range 3 {
			row.Samples = append(row.Samples, result.Sample{
				Round: int(next() % 3), Requests: next(), Elapsed: time.Duration(next()), CPU: time.Duration(next()),
				Client: time.Duration(next()), P50: next(), P99: next(), P999: next(), Lost: next(),
			})
			row.Density = append(row.Density, result.DensityPoint{Conns: int(next()), RSS: next(), Go: next()})
		}
		s.Rows = append(s.Rows, row)
	}
	require.NoError(t, report.Summarize(&s))
	rep := result.Report{Scenarios: []result.Scenario{s}}
	rep.Claims = report.Claims(&rep)
	_, err := json.Marshal(rep)
	require.NoError(t, err)
	for _, row := range s.Rows {
		for _, stat := range []result.Stat{row.CPU, row.Throughput, row.P50, row.P99, row.CPUToStepio, row.CPUToLimit, row.P99ToLimit} {
			require.False(t, stat.Median < stat.Min || stat.Median > stat.Max, "%s: %+v", row.Contender, stat)
		}
	}
}
