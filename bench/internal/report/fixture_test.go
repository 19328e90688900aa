package report_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/report"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// madeUp is a whole report of invented figures, the same in every run: every
// group, every contender, failures of a row and of a round, lost datagrams.
func madeUp(t *testing.T) *result.Report {
	t.Helper()
	text, err := madeUpJSON() // made once, for it takes a while; each test gets its own
	require.NoError(t, err)
	r := new(result.Report)
	require.NoError(t, json.Unmarshal(text, r))
	return r
}

var madeUpJSON = sync.OnceValues(func() ([]byte, error) {
	m := &maker{rand: rand.New(rand.NewPCG(1, 2))}
	r := &result.Report{
		Started: time.Date(2026, 11, 23, 14, 5, 0, 0, time.UTC),
		Took:    291*time.Second + 400*time.Millisecond,
		Command: "go -C bench run .",
		Commit:  "e5c0a3f+",
		Machine: result.Machine{
			CPU: "Imaginary EPYC 9R14", CPUs: 2, MemoryBytes: 8 << 30, Kernel: "6.18.0", OS: "Debian GNU/Linux 13",
			Go: "go1.26.8 linux/amd64", CC: "gcc 14.2.0", Virtual: "kvm", ClockSource: "tsc", Congestion: "cubic", Load: "0.08 0.12 0.10 1/201 4711",
		},
		Settings: result.Settings{Window: 250 * time.Millisecond, Rounds: 6, RoundsTight: 6, Life: 3, ServerCores: []int{0}, ClientCores: []int{1}},
		Contend: []result.Contender{
			{Name: "stepio", About: "This library, level-triggered."},
			{Name: "C epoll", About: "A hand-tuned server in C.", Limit: true},
			{Name: "net", About: "Package net, a goroutine and a 4 KiB buffer for each connection."},
		},
		Notes: []string{"gaio was left out of churn: it has no way to close with a reset & <keep> the descriptor."},
	}
	echo := map[string]float64{
		"stepio": 4.4, "stepio edge": 4.3, "stepio pool": 6.6, "C epoll": 4.2, "net": 7.9, "net small": 7.8, "gnet": 6.1,
		"gnet poll_opt": 5.9, "nbio": 7.1, "netpoll": 8.4, "evio": 6.8, "gaio": 9.6,
	}
	order := []string{"stepio", "stepio edge", "stepio pool", "C epoll", "net", "net small", "gnet", "gnet poll_opt", "nbio", "netpoll", "evio", "gaio"}
	for i, conns := range []int{1, 100, 1000, 10000} {
		factor := []float64{2.6, 1, 1.08, 1.35}[i]
		s := result.Scenario{
			ID: fmt.Sprintf("echo-64B-%d", conns), Title: "echo 64 B, " + []string{"1 connection", "100 connections", "1,000 connections", "10,000 connections"}[i],
			Group: result.GroupEcho, Conns: conns, Size: 64, Depth: 1, Unit: "request",
		}
		m.rows(&s, order, echo, factor)
		r.Scenarios = append(r.Scenarios, s)
	}
	evio := &r.Scenarios[3].Rows[10]
	*evio = result.Row{Contender: "evio", Failure: "evio: 37 bytes of connection 812 came back wrong: <script>alert(1)</script>"}
	for _, e := range []struct {
		s      result.Scenario
		factor float64
	}{
		{result.Scenario{ID: "pipeline-16", Title: "16 pipelined messages", Group: result.GroupSize, Conns: 100, Size: 64, Depth: 16, Unit: "request"}, 0.3},
		{result.Scenario{ID: "echo-4KiB", Title: "echo 4 KiB", Group: result.GroupSize, Conns: 100, Size: 4096, Depth: 1, Unit: "request"}, 1.4},
		{result.Scenario{ID: "echo-64KiB", Title: "echo 64 KiB", Group: result.GroupSize, Conns: 16, Size: 65536, Depth: 1, Unit: "request"}, 9},
		{result.Scenario{ID: "active-100", Title: "100 active alone", Group: result.GroupIdle, Conns: 100, Size: 64, Depth: 1, Unit: "request"}, 1},
		{result.Scenario{ID: "active-100-idle-15000", Title: "100 active among 15,000 idle", Group: result.GroupIdle, Conns: 100, Idle: 15000, Size: 64, Depth: 1, Unit: "request"}, 1.06},
		{result.Scenario{ID: "churn", Title: "churn", Group: result.GroupChurn, Conns: 32, Size: 64, Depth: 1, Unit: "connection"}, 8},
		{result.Scenario{ID: "fanout-1000", Title: "fan-out to 1,000", Group: result.GroupFanout, Conns: 1000, Size: 64, Depth: 1, Unit: "delivery"}, 0.6},
	} {
		m.rows(&e.s, order, echo, e.factor)
		r.Scenarios = append(r.Scenarios, e.s)
	}
	partly := &r.Scenarios[len(r.Scenarios)-2].Rows[4]
	partly.Samples[2] = result.Sample{Round: 2, Failure: "connect: cannot assign requested address"}
	udp := result.Scenario{ID: "udp-64B", Title: "UDP echo 64 B", Group: result.GroupUDP, Conns: 64, Size: 64, Depth: 1, Unit: "request"}
	m.rows(&udp, []string{"stepio", "stepio batch", "C epoll", "C mmsg", "net", "gnet"},
		map[string]float64{"stepio": 3.9, "stepio batch": 2.9, "C epoll": 3.8, "C mmsg": 2.7, "net": 6, "gnet": 3.2}, 1)
	udp.Rows[4].Samples[1].Lost = 1204
	http := result.Scenario{ID: "http-hello", Title: "HTTP keep-alive", Group: result.GroupHTTP, Conns: 100, Depth: 1, Unit: "request"}
	m.rows(&http, []string{"stepio", "C epoll", "net/http", "fasthttp"},
		map[string]float64{"stepio": 6.5, "C epoll": 5.2, "net/http": 17.4, "fasthttp": 9.1}, 1)
	r.Scenarios = append(r.Scenarios, udp, http, density())
	r.Parked = &result.Parked{
		Tasks: 1_000_000, HeapTask: 152.3, RSSTask: 171.9, GCCPU: 96 * time.Millisecond, GCWall: 51 * time.Millisecond,
		GCPause: 184 * time.Microsecond, WakeTask: 143, AllocWake: 0, Goroutine: 2661,
	}
	if m.err != nil {
		return nil, m.err
	}
	for i := range r.Scenarios {
		if err := report.Summarize(&r.Scenarios[i]); err != nil {
			return nil, err
		}
	}
	r.Claims = report.Claims(r)
	return json.Marshal(r)
})

type maker struct {
	rand *rand.Rand
	err  error
}

func (m *maker) rows(s *result.Scenario, order []string, micros map[string]float64, factor float64) {
	for _, name := range order {
		row := result.Row{Contender: name, Syscalls: map[string]float64{
			"epoll_pwait": 0.02, "futex": 0.0004, "recvfrom": 1, "sendto": 1,
		}}
		if name == "net" || name == "netpoll" {
			row.Syscalls = map[string]float64{"read": 1.98, "write": 1, "futex": 0.31, "epoll_pwait": 0.5, "nanosleep": 0.07}
		}
		for round := range 6 {
			cpu := micros[name] * 1e3 * factor * (1 + 0.06*m.rand.Float64())
			row.Samples = append(row.Samples, m.sample(round, cpu, max(1, float64(s.Conns*s.Depth))))
		}
		s.Rows = append(s.Rows, row)
	}
}

// sample makes up a window of a quarter of a second in which the server was
// busy all the time.
func (m *maker) sample(round int, cpu, queue float64) result.Sample {
	const window = 250 * time.Millisecond
	requests := int64(float64(window) / cpu)
	h := hdrhistogram.New(1, int64(10*time.Second), 2)
	for range 1000 {
		v := cpu * queue * (0.8 + 0.3*m.rand.Float64()) * math.Exp(0.25*m.rand.ExpFloat64())
		m.err = errors.Join(m.err, h.RecordValues(int64(v), max(1, requests/1000)))
	}
	hdr, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	m.err = errors.Join(m.err, err)
	return result.Sample{
		Round: round, Requests: requests, Elapsed: window, CPU: window - time.Millisecond, Client: window * 4 / 5,
		P50: h.ValueAtQuantile(50), P99: h.ValueAtQuantile(99), P999: h.ValueAtQuantile(99.9),
		ServerRSS: 12 << 20, LatencyHDR: hdr,
	}
}

func density() result.Scenario {
	s := result.Scenario{ID: "density", Title: "idle connections", Group: result.GroupDensity, Unit: "request"}
	for _, c := range []struct {
		name      string
		rss, heap int64
	}{
		{"stepio", 196, 184}, {"C epoll", 24, -1}, {"net", 9510, 7120}, {"net small", 5790, 3080},
		{"gnet", 780, 640}, {"gaio", 4460, 4300},
	} {
		row := result.Row{Contender: c.name}
		for _, n := range []int{1000, 5000, 15000} {
			p := result.DensityPoint{Conns: n, RSS: 9<<20 + int64(n)*c.rss, Go: -1}
			if c.heap > 0 {
				p.Go = 400_000 + int64(n)*c.heap
			}
			row.Density = append(row.Density, p)
		}
		s.Rows = append(s.Rows, row)
	}
	s.Rows = append(s.Rows, result.Row{Contender: "evio", Failure: "evio: accept: too many open files"})
	return s
}
