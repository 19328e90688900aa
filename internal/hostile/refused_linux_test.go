package hostile

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Storms of ICMP port unreachable. A refused datagram is that datagram's affair:
// nothing stops, nobody else waits, and nothing spins, neither while refusals
// come, nor with refusals that nobody fetches.

// Answers to ports that are closed already, from sockets that serve others too.
func TestDatagramsToPortsThatAreGoneStopNothing(t *testing.T) {
	server, hello := startServer(t, serverConfig{})
	for name, addr := range hello.UDP {
		stranger := startClient(t, "stranger", strangerConfig{Addr: addr})
		before := server.ask("stat", 0)
		var s strange
		stranger.send(strangerCommand{Bursts: size(2000, 50), Size: 50})
		stranger.receive(&s)
		stranger.end()
		after := server.ask("stat", 0)
		what := fmt.Sprintf("%d answers to closed ports, %s", s.Sent, name)
		behaves(t, what+": others served, lost", fmt.Sprintf("%d, %d (p99 %s)", s.Served, s.Lost, micros(s.P99)), "all, 0",
			s.Lost == 0 && s.Served == size(2000, 50))
		assert.Equal(t, s.Sent+s.Served, after.Answered-before.Answered, "each is answered")
		assert.Equal(t, before.Tasks, after.Tasks)
		assert.Empty(t, after.Reports)
	}
	quiet(t, server, "after answers to closed ports")
}

// Connected sockets, which the kernel tells that their port is refused, beside
// sockets and connections that are served.
func TestRefusedDatagramsStopNothing(t *testing.T) {
	server, hello := startServer(t, serverConfig{})
	datagrams := startClient(t, "pinger", pingerConfig{Addr: hello.UDP["single level"], Conns: 10, Interval: 10 * time.Millisecond, UDP: true})
	streams := startClient(t, "pinger", pingerConfig{Addr: hello.Level, Conns: 10, Interval: 10 * time.Millisecond})
	aloneD, aloneS := datagrams.ping(window(200*time.Millisecond)), streams.ping(window(200*time.Millisecond))
	before := server.ask("stat", 0)

	each := size(12_500, 500) // of 8 sockets that listen; as many do not
	begun := time.Now()
	server.ask("storm", each)
	for _, c := range []*child{datagrams, streams} {
		c.send(pingerCommand{For: window(200 * time.Millisecond)})
	}
	besideD, besideS := datagrams.pinged(), streams.pinged()
	after := server.eventually("all are sent", func(s serverStat) bool { return s.Storming == 0 })
	took := time.Since(begun)

	all := 8*each + 8
	what := fmt.Sprintf("%d refused datagrams of 16 sockets", all)
	told := after.Refused - before.Refused
	behaves(t, what+": told to the 8 that listen", fmt.Sprintf("%d", told), fmt.Sprint(8*each), told == 8*each)
	// One for each refusal, and a few to begin with: an error does not wake twice.
	perRefusal := float64(after.Resumes-before.Resumes) / float64(8*each)
	behaves(t, what+": steps a refusal", fmt.Sprintf("%.3f", perRefusal), "at most 1.1", perRefusal <= 1.1)
	figure(what+": a second", fmt.Sprintf("%.0f", float64(all)/took.Seconds()), "", true)
	behaves(t, what+": datagrams and pings of others lost", fmt.Sprintf("%d, %d", besideD.Lost, besideS.Lost), "0, 0",
		besideD.Lost+besideS.Lost == 0 && besideD.N > 0 && besideS.N > 0)
	figure(what+": p99 of others, before and meanwhile", fmt.Sprintf("datagrams %s, %s; streams %s, %s",
		micros(aloneD.P99), micros(besideD.P99), micros(aloneS.P99), micros(besideS.P99)), "", true)
	assert.Empty(t, after.Reports)
	datagrams.end()
	streams.end()
	require.Equal(t, before.Tasks+16, server.eventually("the pingers have left", func(s serverStat) bool { return s.Opened == s.Closed }).Tasks+10)
	quiet(t, server, "with 8 refusals that nobody fetches")
}

// quiet sees to it that a server to which nothing happens does nothing.
func quiet(t *testing.T, server *child, what string) {
	d := window(300 * time.Millisecond)
	before := server.ask("stat", 0)
	<-time.After(d)
	after := server.ask("stat", 0)
	used := float64(after.CPU-before.CPU) / float64(d)
	// The ticker and what it takes to ask are in it. A loop that spins is at 1.
	behaves(t, what+": CPU of a server that nobody asks", fmt.Sprintf("%.1f %%", 100*used), "at most 20 %", used <= 0.2)
}
