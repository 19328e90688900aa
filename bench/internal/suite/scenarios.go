// Package suite runs the scenarios of the benchmark: it starts servers and
// clients, takes the windows in rounds that interleave the contenders, and
// collects what they measured.
package suite

import (
	"fmt"
	"slices"
	"time"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stepio-go/stepio/bench/internal/load"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// A Scenario is one load and who serves it.
type Scenario struct {
	result.Scenario
	Service contend.Service
	Kind    load.Kind
	// Block: neighbours with the same non-empty block are measured in the same
	// rounds, so that they can be compared with each other.
	Block string
	// Only, when not nil, names who takes part, the limit aside.
	Only []string
	// Not names who does not.
	Not []string
	// Pace, of a paced load, is the time from message to message.
	Pace time.Duration
	// Stretch makes the windows that many times longer: for requests that are few.
	Stretch int
	// Tight: its promises are near what the library does, and a few windows would
	// leave them to noise. It gets Config.RoundsTight.
	Tight bool
	// Points, of the density scenario alone: idle connections to weigh a server at.
	Points []int
}

// The idle connections of the idle scenarios: what fits the usual limit of
// 20,000 descriptors.
const manyIdle = 15000

// ActiveAlone and ActiveAmong are the scenarios whose ratio says what idle
// connections cost the active ones.
const (
	ActiveAlone = "active-100"
	ActiveAmong = "active-100-idle-15000"
)

// spares are the contenders with a processor of the Go scheduler to spare: for
// servers that have time to spare, too.
var spares = []string{"stepio spare", "gnet spare"}

// Scenarios returns all of them, in the order of the report.
func Scenarios() []Scenario {
	var all []Scenario
	add := func(s Scenario) {
		if s.Conns != 1 && s.Kind != load.Paced { // under full load the library does not need it
			s.Not = append(s.Not, spares...)
		}
		// What a hop and a registration cost, the plain echo shows; that of 4 KiB has a
		// promise nearly as tight.
		if s.Group != result.GroupEcho {
			s.Not = append(s.Not, "stepio pool")
			if s.ID != "echo-4KiB" {
				s.Not = append(s.Not, "C edge")
			}
		}
		all = append(all, s)
	}
	for _, conns := range []int{1, 100, 1000, 10000} {
		s := tcpEcho(fmt.Sprintf("echo-64B-%d", conns), result.GroupEcho, conns, 64, 1)
		s.Tight = true
		add(s)
	}
	for _, rate := range []int{1000, 8000} {
		s := tcpEcho(fmt.Sprintf("paced-%d", rate), result.GroupPaced, 100, 64, 1)
		s.Kind, s.Pace, s.Stretch = load.Paced, time.Second/time.Duration(rate), 2
		// They show what a processor to spare is worth, and take long: a few contenders are enough.
		s.Only = append([]string{"stepio", "net", "gnet"}, spares...)
		s.Title = fmt.Sprintf("TCP echo 64 B, %d messages a second on 100 connections in turn", rate)
		add(s)
	}
	add(tcpEcho("pipeline-16", result.GroupSize, 100, 64, 16))
	add(tcpEcho("echo-4KiB", result.GroupSize, 100, 4<<10, 1))
	// Twenty: more than that many messages of this size under way measure the
	// socket buffers' memory and not the servers.
	add(tcpEcho("echo-64KiB", result.GroupSize, 20, 64<<10, 1))

	// A pair for each contender costs as much as two scenarios, so not all take part:
	// stepio and its neighbours in kind.
	some := []string{"stepio", "stepio edge", "net", "gnet"}
	for _, id := range []string{ActiveAlone, ActiveAmong} {
		s := tcpEcho(id, result.GroupIdle, 100, 64, 1)
		s.Block, s.Only = "active", some
		if id == ActiveAmong {
			s.Idle = manyIdle
			s.Title = fmt.Sprintf("TCP echo 64 B, 100 connections among %d idle ones", manyIdle)
		} else {
			s.Title = "TCP echo 64 B, 100 connections, none idle (beside the next)"
		}
		add(s)
	}
	density := tcpEcho("density", result.GroupDensity, 0, 64, 1)
	density.Title, density.Unit = "Memory of idle connections", "connection"
	density.Points = []int{1000, 5000, manyIdle}
	density.Idle = manyIdle
	add(density)

	churn := tcpEcho("churn", result.GroupChurn, 50, 64, 1)
	churn.Kind, churn.Unit = load.Churn, "connection"
	churn.Title = "Connections that come, echo 64 B once, and go, 50 at a time"
	add(churn)

	udp := tcpEcho("udp-64B", result.GroupUDP, 50, 64, 4)
	udp.Kind, udp.Service, udp.Tight = load.UDP, contend.EchoUDP, true
	udp.Title = "UDP echo 64 B, 50 sockets, 4 datagrams under way on each"
	add(udp)

	for _, depth := range []int{1, 16} {
		s := tcpEcho("http-hello", result.GroupHTTP, 100, 64, depth)
		s.Kind, s.Service = load.HTTP, contend.HTTP
		s.Title = "HTTP GET /hello, 100 keep-alive connections"
		if depth > 1 {
			s.ID += "-pipelined"
			s.Title += fmt.Sprintf(", %d requests under way on each", depth)
		}
		add(s)
	}
	for _, conns := range []int{1000, 10000} {
		s := tcpEcho(fmt.Sprintf("fanout-%d", conns), result.GroupFanout, conns, contend.FanoutSize, 1)
		s.Kind, s.Service, s.Unit = load.Fanout, contend.Fanout, "delivery"
		s.Title = fmt.Sprintf("One message of 64 B to %d subscribers", conns)
		add(s)
	}
	return all
}

// tcpEcho is the plainest scenario, and what the others are changed from.
func tcpEcho(id string, group result.Group, conns, size, depth int) Scenario {
	s := Scenario{Service: contend.Echo, Kind: load.Echo, Stretch: 1}
	s.ID, s.Group, s.Conns, s.Size, s.Depth, s.Unit = id, group, conns, size, depth, "request"
	bytes := fmt.Sprintf("%d B", size)
	if size >= 1<<10 {
		bytes = fmt.Sprintf("%d KiB", size>>10)
	}
	s.Title = fmt.Sprintf("TCP echo %s, %d connections", bytes, conns)
	if size >= 1<<10 {
		// Its small buffer is for the memory of idle connections: nobody would read
		// long messages in such pieces.
		s.Not = append(s.Not, "net small")
	}
	if size < 64<<10 {
		// Nor long buffers for short messages.
		s.Not = append(s.Not, "net large")
	}
	if conns > 1000 {
		// All of them have their turn once before the second message of any: that takes
		// a good part of a short window.
		s.Stretch = 3
	}
	if conns == 1 {
		s.Title = fmt.Sprintf("TCP echo %s, one connection", bytes)
	}
	if depth > 1 {
		s.Title += fmt.Sprintf(", %d under way on each", depth)
	}
	return s
}

// spec is the client's part of the scenario on a server at addr.
func (s *Scenario) spec(addr string) load.Spec {
	return load.Spec{Kind: s.Kind, Addr: addr, Conns: s.Conns, Size: s.Size, Depth: s.Depth, Pace: s.Pace}
}

// files is the number of descriptors that a process of the scenario needs.
func (s *Scenario) files() int {
	const beside = 100 // of the runtime, epoll, listeners, pipes
	return s.Conns + s.Idle + beside
}

// takes says whether a contender takes part.
func (s *Scenario) takes(c contend.Contender) bool {
	if slices.Contains(s.Not, c.Name) {
		return false
	}
	return s.Only == nil || c.Limit || slices.Contains(s.Only, c.Name)
}

// window is the length of one window when the plain one is base.
func (s *Scenario) window(base time.Duration) time.Duration {
	return base * time.Duration(s.Stretch)
}

// blocks cuts scenarios into those that are measured together.
func blocks(all []Scenario) [][]Scenario {
	var out [][]Scenario
	for i, s := range all {
		if i > 0 && s.Block != "" && s.Block == all[i-1].Block {
			out[len(out)-1] = append(out[len(out)-1], s)
			continue
		}
		out = append(out, []Scenario{s})
	}
	return out
}
