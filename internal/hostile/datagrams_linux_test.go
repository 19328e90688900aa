package hostile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// What the server runs for datagrams: those that answer, and those that write to
// ports where nobody is.

// datagramKind says how a socket is read and written.
type datagramKind struct {
	batch bool // by ReadBatch and WriteBatch
	edge  bool // edge-triggered
}

var datagramKinds = map[string]datagramKind{
	"single level": {},
	"single edge":  {edge: true},
	"batch level":  {batch: true},
	"batch edge":   {batch: true, edge: true},
}

const datagramSize = 64

// answerer sends back what it gets. It stands for
//
//	for (;;) { n = co_await sock.recv_batch(batch); co_await sock.send_batch(batch, n); }
type answerer struct {
	server *server
	conn   *stepio.UDPConn
	kind   datagramKind
	batch  []stepio.Datagram
	out    []stepio.Datagram // of the batch, what is not sent yet
	err    error
}

func newAnswerer(s *server, c *stepio.UDPConn, kind datagramKind) *answerer {
	n := 1
	if kind.batch {
		n = 64
	}
	return &answerer{server: s, conn: c, kind: kind, batch: stepio.NewBatch(n, datagramSize)}
}

// Step implements sm.Frame.
func (a *answerer) Step(*sm.Task) sm.Await {
	for {
		for len(a.out) > 0 {
			n, err := a.write()
			a.server.stat.Answered += n
			a.out = a.out[n:]
			if err == stepio.ErrWouldBlock {
				return a.await(sm.Write)
			}
			if err != nil {
				a.err = err
				return sm.Done
			}
		}
		n, err := a.read()
		if err == stepio.ErrWouldBlock {
			return a.await(sm.Read)
		}
		if errors.Is(err, net.ErrClosed) {
			return sm.Done
		}
		if err != nil { // an unconnected socket is told of nobody's refusal
			a.err = err
			return sm.Done
		}
		a.out = a.batch[:n]
	}
}

func (a *answerer) read() (n int, err error) {
	if a.kind.batch {
		return a.conn.ReadBatch(a.batch)
	}
	d := &a.batch[0]
	n, d.Addr, err = a.conn.ReadFrom(d.Data[:cap(d.Data)])
	d.Data = d.Data[:n]
	if err != nil {
		return 0, err
	}
	return 1, nil
}

func (a *answerer) write() (n int, err error) {
	if a.kind.batch {
		return a.conn.WriteBatch(a.out)
	}
	if _, err := a.conn.WriteTo(a.out[0].Data, a.out[0].Addr); err == stepio.ErrWouldBlock {
		return 0, err
	}
	return 1, nil // or it could not be sent, which is its own affair
}

func (a *answerer) await(dirs sm.Dir) sm.Await {
	if a.kind.edge {
		return a.conn.WaitET(dirs)
	}
	return a.conn.Wait(dirs)
}

// Err is what the socket has failed with.
func (a *answerer) Err() error { return a.err }

// Close implements sm.Frame's end.
func (a *answerer) Close() error { return a.conn.Close() }

// caller writes to a port where nobody is, from a connected socket, and writes
// again when it is told so. It stands for
//
//	while (left--) { co_await sock.send(msg); co_await sock.recv(buf); /* refused */ }
//	for (;;) co_await sock.recv(buf);
//
// A deaf one writes once and never looks: the refusal stays with its socket,
// which the poller knows, while nobody waits for it.
type caller struct {
	server *server
	conn   *stepio.UDPConn
	kind   datagramKind
	deaf   bool
	left   int
	again  time.Time // when the one under way is given up
	in     []stepio.Datagram
	err    error
	state  callerState
}

type callerState uint8

const (
	callerArming    callerState = iota // makes itself known to the poller
	callerSending                      // has some left
	callerListening                    // waits for the refusal
	callerSilent                       // has sent all
)

// String is the state by name, for Dump.
func (s callerState) String() string {
	return [...]string{"callerArming", "callerSending", "callerListening", "callerSilent"}[s]
}

// storm starts callers of each kind, each with so many datagrams to send, and
// deaf ones. Their sockets stay when they have sent all.
func (s *server) storm(datagrams int) error {
	nobody, err := deadPort()
	if err != nil {
		return err
	}
	for _, kind := range datagramKinds {
		for range 2 {
			for _, deaf := range []bool{false, true} {
				conn, err := stepio.DialUDP(s.loop, nobody, stepio.DialUDPOptions{})
				if err != nil {
					return err
				}
				c := &caller{server: s, conn: conn, kind: kind, deaf: deaf, left: datagrams, in: stepio.NewBatch(4, datagramSize)}
				if deaf {
					c.left = 1
				}
				s.stat.Storming++
				s.loop.Spawn(c)
			}
		}
	}
	return nil
}

// deadPort is a port where nobody is: one that was free a moment ago, of an
// address that nothing else here uses.
func deadPort() (netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.MustParseAddrPort("127.6.6.6:0"))); err != nil {
		return netip.AddrPort{}, err
	}
	return localAddr(fd)
}

// Step implements sm.Frame.
func (c *caller) Step(t *sm.Task) sm.Await {
	c.server.stat.Resumes++
	for {
		switch c.state {
		case callerArming:
			c.state = callerSending
			return c.readable().Until(t.Now())
		case callerSending:
			if c.left == 0 {
				c.server.stat.Storming--
				c.state = callerSilent
				continue
			}
			_, err := c.conn.Write([]byte("anybody?"))
			switch {
			case errors.Is(err, syscall.ECONNREFUSED): // told here, of the one before
				c.server.stat.Refused++
				continue
			case err == stepio.ErrWouldBlock:
				return sm.Yield
			case err != nil:
				c.err = err
				return sm.Done
			}
			c.left--
			if !c.deaf {
				c.state, c.again = callerListening, t.Now().Add(100*time.Millisecond)
				return c.readable().Until(c.again) // the refusal is an event
			}
		case callerListening, callerSilent:
			if c.deaf {
				return sm.Park
			}
			refused, err := c.listen()
			switch {
			case err != nil:
				c.err = err
				return sm.Done
			case refused:
				c.server.stat.Refused++
				if c.state == callerListening {
					c.state = callerSending
				}
			case c.state == callerSilent:
				return c.readable()
			case t.Now().Before(c.again):
				return c.readable().Until(c.again)
			default:
				c.state = callerSending
			}
		default:
			panic(fmt.Sprintf("caller.Step: state %d", c.state))
		}
	}
}

// listen finds out whether the last one was refused.
func (c *caller) listen() (refused bool, err error) {
	if c.kind.batch {
		_, err = c.conn.ReadBatch(c.in)
	} else {
		_, err = c.conn.Read(c.in[0].Data[:cap(c.in[0].Data)])
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return true, nil
	case err == stepio.ErrWouldBlock:
		return false, nil
	case err == nil:
		return false, errors.New("an answer from nobody")
	}
	return false, err
}

func (c *caller) readable() sm.Await {
	if c.kind.edge {
		return c.conn.ReadableET()
	}
	return c.conn.Readable()
}

// Err is what the socket has failed with.
func (c *caller) Err() error { return c.err }

// Close implements sm.Frame's end.
func (c *caller) Close() error { return c.conn.Close() }
