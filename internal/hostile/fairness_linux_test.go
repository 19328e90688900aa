package hostile

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a flood does to others on the same loop: a thousand connections that ping,
// alone and beside a flood of each kind. The server's processor is its own.

// pingers is how many connections ping.
const pingers = 1000

// mostOfAlone is by how much a flood may multiply the 99th percentile of the
// others.
const mostOfAlone = 3

// flooding is a way to flood.
type flooding struct {
	name   string
	config flooderConfig
}

func floods(hello serverHello) []flooding {
	return []flooding{
		{"one flooder, 16 KiB at a time", flooderConfig{Addr: hello.Level, Conns: 1, Chunk: 16 << 10, Want: wantEcho}},
		{"one flooder, edge-triggered", flooderConfig{Addr: hello.Edge, Conns: 1, Chunk: 16 << 10, Want: wantEcho}},
		{"one flooder, 64 B messages pipelined", flooderConfig{Addr: hello.Level, Conns: 1, Chunk: 64, Want: wantEcho}},
		{"one flooder, which gets no answers", flooderConfig{Addr: hello.Level, Conns: 1, Chunk: 16 << 10, Want: wantSink}},
		{"eight flooders, 16 KiB at a time", flooderConfig{Addr: hello.Level, Conns: 8, Chunk: 16 << 10, Want: wantEcho}},
		{"datagrams, one at a time", flooderConfig{Addr: hello.UDP["single level"], Conns: 1, Chunk: datagramSize, UDP: true}},
		{"datagrams, in batches", flooderConfig{Addr: hello.UDP["batch level"], Conns: 1, Chunk: datagramSize, UDP: true}},
	}
}

// load is how the others ping, and how a flood is compared: alone and beside in
// turns, so that what else the machine does is in both. Of each, the window with
// the median p99 counts.
//
// A virtual machine stops, for a tenth of a millisecond to some milliseconds, some
// times a second. With a thousand pings under way all the time, that alone is more
// than a hundredth of them. So the windows are so short that the machine does not
// stop in most.
type load struct {
	name     string
	interval time.Duration // of one connection; 0: none
	window   time.Duration
	rounds   int
}

var (
	// As fast as they are answered, or rather as the pinger can: its processor has no
	// time to spare to begin with, and leaves the flooder little.
	incessant = load{"1,000 pingers without a pause", 0, 20 * time.Millisecond, 81}
	// A few hundredths of what the server can do, so that a ping finds it idle when
	// there is no flood, and the flooder has the other processor nearly to itself.
	paced = load{"1,000 pingers, 4 a second each", 250 * time.Millisecond, 250 * time.Millisecond, 25}
)

func TestFloodersStarveNobody(t *testing.T) {
	server, hello := startServer(t, serverConfig{})
	f := floods(hello)
	compareAll(t, server, hello, incessant, f[:1], mostOfAlone)
	if raceDetector {
		return // its times say nothing
	}
	compareAll(t, server, hello, incessant, f[1:4], mostOfAlone)
	compareAll(t, server, hello, paced, f[:4], mostOfAlone)
	// Several flooders take a budget each, and the answers to datagrams cost more
	// than bytes: what is promised is one flooder's.
	compareAll(t, server, hello, incessant, f[4:], 0)
	compareAll(t, server, hello, paced, f[4:], 0)
	assert.Empty(t, server.ask("stat", 0).Reports)

	// The control: what would be without the budget of a step, or nearly so.
	server, hello = startServer(t, serverConfig{Budget: 64})
	control := floods(hello)[:1]
	control[0].name = "64 times the budget of a step, for comparison"
	compareAll(t, server, hello, incessant, control, 0)
	compareAll(t, server, hello, paced, control, 0)
}

// startFlooder starts a flooder, and waits until it is ready.
//
// One whose connection takes nothing in a whole window is replaced. It may be that
// it was not given its processor. But Linux, since 6.17, drops what ends beyond the
// window of a socket that has unread input, together with the acknowledgement in it
// ("tcp: do not accept packets beyond window"), and on 6.18 a connection full in
// both directions was seen to stand still for good: 30 MB unread at the server, 4 MB
// of its answers unsent, and a flooder that read and found nothing. Its task waits
// for room, as it should.
func startFlooder(t *testing.T, config flooderConfig) *child {
	c := startClient(t, "flooder", config)
	c.receive(&struct{}{})
	return c
}

// compareAll compares what floods do to pings. With a bound it is promised.
func compareAll(t *testing.T, server *child, hello serverHello, l load, floods []flooding, bound float64) {
	pinger := startClient(t, "pinger", pingerConfig{Addr: hello.Level, Conns: pingers, Interval: l.interval})
	pinger.ping(200 * time.Millisecond)
	for _, kind := range floods {
		var alone, beside []compared
		flooder := startFlooder(t, kind.config)
		rounds := 1
		if *figures {
			rounds = l.rounds
		}
		for still := 0; len(beside) < rounds; {
			c := compare(t, server, pinger, flooder, l.window)
			if c.flood.Sent > 0 {
				alone, beside = append(alone, c), append(beside, c)
				continue
			}
			still++
			require.LessOrEqual(t, still, 2+rounds/10, "windows in which nothing flooded")
			flooder.end()
			flooder = startFlooder(t, kind.config)
		}
		flooder.end()
		slices.SortFunc(alone, func(a, b compared) int { return cmp.Compare(a.alone.P99, b.alone.P99) })
		slices.SortFunc(beside, func(a, b compared) int { return cmp.Compare(a.beside.P99, b.beside.P99) })
		c := beside[len(beside)/2]
		c.alone = alone[len(alone)/2].alone
		t.Logf("%s, %s: %v", l.name, kind.name, c)
		promise := l.name + "; " + kind.name + ": p99 to p99 alone"
		value := fmt.Sprintf("%.2f (%s to %s)", c.ratio(), micros(c.alone.P99), micros(c.beside.P99))
		if bound == 0 {
			figure(promise, value, "", true)
		} else {
			timed(t, promise, value, fmt.Sprintf("at most %g", bound), c.ratio() <= bound)
		}
	}
	pinger.end()
}

// compared is the pings alone, and beside a flood.
type compared struct {
	alone, beside pings
	flood         flood
	busy          float64 // the server beside the flood, of its processor
}

func (c compared) ratio() float64 { return float64(c.beside.P99) / float64(c.alone.P99) }

// String is all that there is to know.
func (c compared) String() string {
	return fmt.Sprintf("%d pings, p50 %v, p99 %v, max %v; alone %d, p50 %v, p99 %v, max %v; flood %.0f MiB/s sent, %.0f received, %d writes; CPU: server %.2f, pinger %.2f, flooder %.2f",
		c.beside.N, c.beside.P50, c.beside.P99, c.beside.Max, c.alone.N, c.alone.P50, c.alone.P99, c.alone.Max,
		mibs(c.flood.Sent, c.flood.Took), mibs(c.flood.Received, c.flood.Took), c.flood.Writes, c.busy, c.beside.CPU, c.flood.CPU)
}

// compare makes a round.
func compare(t *testing.T, server, pinger, flooder *child, d time.Duration) (c compared) {
	c.alone = pinger.ping(d)
	cpu := server.ask("stat", 0).CPU
	// The flood begins before the pings and ends after them.
	flooder.send(flooderCommand{For: settling + d + 100*time.Millisecond})
	server.eventually("the flood has begun", func(s serverStat) bool { return s.CPU-cpu > 10*time.Millisecond })
	cpu = server.ask("stat", 0).CPU
	begun := time.Now()
	c.beside = pinger.ping(d)
	c.busy = float64(server.ask("stat", 0).CPU-cpu) / float64(time.Since(begun))
	flooder.receive(&c.flood)
	require.Zero(t, c.alone.Lost)
	require.Zero(t, c.beside.Lost, "pings that were not answered")
	return c
}

func mibs(bytes int, d time.Duration) float64 { return float64(bytes) / (1 << 20) / d.Seconds() }
