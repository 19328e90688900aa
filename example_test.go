//go:build linux || darwin

package stepio_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// echo stands for
//
//	for (;;) { n = co_await sock.read(buf); if (!n) break; co_await sock.write(buf, n); }
type echo struct {
	conn  *stepio.TCPConn
	out   stepio.WriteAll
	state echoState
}

type echoState uint8

const (
	echoReading echoState = iota // waits for a message
	echoWriting                  // sends it back
)

func (s echoState) String() string { return [...]string{"echoReading", "echoWriting"}[s] }

func (e *echo) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case echoReading:
			n, err := e.conn.Read(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return e.conn.Readable()
			}
			if err != nil {
				return sm.Done // Close, below, releases the connection
			}
			e.out.Start(e.conn, t.Scratch()[:n]) // keeps a copy only of what the socket would not take
			e.state = echoWriting
		case echoWriting:
			if a := e.out.Step(t); a.Pending() {
				return a
			}
			if e.out.Err() != nil {
				return sm.Done
			}
			e.state = echoReading
		default:
			panic(fmt.Sprintf("echo.Step: state %d", e.state))
		}
	}
}

func (e *echo) Close() error { return e.conn.Close() }

func (e *echo) Idle() bool { return e.state == echoReading } // nothing is lost when Shutdown ends it here

// serve is the README's server.
func serve(addr netip.AddrPort) error {
	loop, err := stepio.NewLoop()
	if err != nil {
		return err
	}
	defer loop.Close()
	ln, err := stepio.ListenTCP(loop, addr, stepio.ListenOptions{})
	if err != nil {
		return err
	}
	loop.Spawn(stepio.NewServe(ln, func(c *stepio.TCPConn) sm.Frame { return &echo{conn: c} }))
	return loop.Run() // until somebody calls loop.Stop, or loop.Shutdown
}

func TestExampleServeTellsThatTheAddressIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { assert.NoError(t, taken.Close()) }()
	assert.ErrorIs(t, serve(netip.MustParseAddrPort(taken.Addr().String())), syscall.EADDRINUSE)
}

// An echo server, and a client that talks to it.
func Example() {
	loop, err := stepio.NewLoop()
	if err != nil {
		log.Fatal(err)
	}
	ln, err := stepio.ListenTCP(loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	loop.Spawn(stepio.NewServe(ln, func(c *stepio.TCPConn) sm.Frame { return &echo{conn: c} }))
	stopped := make(chan error, 1)
	go func() { stopped <- loop.Run() }()

	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprint(client, "hello")
	buf := make([]byte, 5)
	if _, err := io.ReadFull(client, buf); err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(buf))

	client.Close()
	loop.Stop()
	fmt.Println(<-stopped, loop.Close())
	// Output:
	// hello
	// <nil> <nil>
}
