package contend

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// Buffers of package net's contenders. A goroutine that waits for input has to
// own a buffer: the first is what people write, the second as little as a 64-byte
// protocol could do with, the third what the others lend their long messages.
const (
	netBuffer      = 4 << 10
	netSmallBuffer = 512
	netLargeBuffer = 64 << 10
)

// netPeer is the plain contender.
func netPeer() Contender {
	return Contender{
		Name:  "net",
		About: "Package net, a goroutine a connection that reads into a 4 KiB buffer and writes it back, without TCP keep-alive probes, as all others; UDP by one goroutine with ReadFromUDPAddrPort; fan-out by blocking writes from the publisher's goroutine under the list's lock.",
		Starts: map[Service]Start{
			Echo:    func() (string, error) { return netEcho(netBuffer) },
			EchoUDP: netEchoUDP,
			Fanout:  netFanout,
		},
	}
}

// netSmallPeer is the one that is generous about memory.
func netSmallPeer() Contender {
	return Contender{
		Name:  "net small",
		About: "Package net, a goroutine a connection with a buffer of 512 bytes: generous about the memory of idle connections, at the price of more calls for large messages.",
		Starts: map[Service]Start{
			Echo: func() (string, error) { return netEcho(netSmallBuffer) },
		},
	}
}

// netLargePeer is the one for long messages.
func netLargePeer() Contender {
	return Contender{
		Name:  "net large",
		About: "Package net, a goroutine a connection with a buffer of 64 KiB, as large as those of the event loops: only where the messages are as long.",
		Starts: map[Service]Start{
			Echo: func() (string, error) { return netEcho(netLargeBuffer) },
		},
	}
}

// netEcho serves Echo. Package net turns Nagle's algorithm off by itself.
func netEcho(size int) (string, error) {
	return launch("net", func(ready func(string)) error {
		ln, err := listen()
		if err != nil {
			return err
		}
		ready(ln.Addr().String())
		return acceptEach(ln, func(c net.Conn) { go netEchoConn(c, size) })
	})
}

// netEchoConn ends with its connection: end of input, reset, or a write that
// fails.
func netEchoConn(c net.Conn, size int) {
	defer c.Close()
	buf := make([]byte, size)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// maxDatagram is the largest payload of UDP over IPv4, rounded up.
const maxDatagram = 64 << 10

func netEchoUDP() (string, error) {
	return launch("net", func(ready func(string)) error {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
		if err != nil {
			return err
		}
		if err := c.SetReadBuffer(udpRoom); err != nil {
			return err
		}
		ready(c.LocalAddr().String())
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err == nil {
				_, err = c.WriteToUDPAddrPort(buf[:n], from)
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			if err != nil { // of this datagram alone
				fmt.Fprintf(libraryLog, "net: datagram: %v\n", err)
			}
		}
	})
}

// netFan is the Fanout service. The lock is held while a publisher writes, so
// that messages of two publishers do not mix, and the answer of a new subscriber
// comes before its first message.
type netFan struct {
	mu   sync.Mutex
	subs subscribers[net.Conn]
}

func netFanout() (string, error) {
	return launch("net", func(ready func(string)) error {
		ln, err := listen()
		if err != nil {
			return err
		}
		ready(ln.Addr().String())
		fan := new(netFan)
		return acceptEach(ln, func(c net.Conn) { go fan.serve(c) })
	})
}

// serve reads until the connection ends. The next publication forgets a closed
// subscriber, because its write fails.
func (f *netFan) serve(c net.Conn) {
	defer c.Close()
	var m member
	buf := make([]byte, netSmallBuffer)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		answer, messages, err := m.input(buf[:n])
		if err != nil {
			fmt.Fprintln(libraryLog, err)
			return
		}
		if !f.handle(c, &m, answer, messages) {
			return
		}
	}
}

// handle answers and publishes, and reports whether c can go on.
func (f *netFan) handle(c net.Conn, m *member, answer, messages []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(answer) > 0 {
		if _, err := c.Write(answer); err != nil {
			return false
		}
		if m.role == 'S' {
			f.subs.add(c)
		}
	}
	if len(messages) > 0 {
		f.subs.publish(func(to net.Conn) error {
			_, err := to.Write(messages)
			return err
		})
	}
	return true
}
