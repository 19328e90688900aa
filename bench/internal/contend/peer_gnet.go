package contend

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/panjf2000/gnet/v2"
)

// gnetPeers are gnet with its two pollers: the same program, the second built
// with the tag that its documentation offers for one connection an address in the
// event.
func gnetPeers() []Contender {
	const about = "gnet v2.9.1, one event loop that accepts, reads and writes (SO_REUSEPORT mode, level-triggered as its documentation advises), Next and Write inside OnTraffic"
	starts := map[Service]Start{
		Echo:    func() (string, error) { return gnetStart(&gnetEcho{}, "tcp4") },
		EchoUDP: func() (string, error) { return gnetStart(&gnetEcho{}, "udp4") },
		Fanout:  func() (string, error) { return gnetStart(&gnetFan{}, "tcp4") },
	}
	return []Contender{
		{Name: "gnet", About: about + ".", Starts: starts},
		{Name: "gnet spare", About: "gnet, with one more in GOMAXPROCS than it has CPUs, as stepio spare.", Starts: map[Service]Start{Echo: withSpare(starts[Echo])}},
		{Name: "gnet poll_opt", About: about + ", built with -tags poll_opt, its optimised poller.", Tags: "poll_opt", Starts: starts},
	}
}

// gnetHandler is a service on gnet.
type gnetHandler interface {
	gnet.EventHandler
	onBoot(func(gnet.Engine) gnet.Action)
}

// gnetStart runs h on a free port. Nagle's algorithm is off: gnet sets
// TCP_NODELAY on the listening socket by default and connections inherit it.
func gnetStart(h gnetHandler, network string) (string, error) {
	return launch("gnet", func(ready func(string)) error {
		var failed error
		h.onBoot(func(e gnet.Engine) gnet.Action {
			addr, err := gnetAddr(e)
			if err != nil {
				failed = err
				return gnet.Shutdown
			}
			ready(addr)
			return gnet.None
		})
		options := []gnet.Option{
			gnet.WithNumEventLoop(1),
			// Without it a second loop on a goroutine of its own accepts, and hands
			// each connection over by an eventfd.
			gnet.WithReusePort(true),
			gnet.WithLogger(gnetLog{}),
		}
		if network == "udp4" {
			options = append(options, gnet.WithSocketRecvBuffer(udpRoom))
		}
		err := gnet.Run(h, network+"://127.0.0.1:0", options...)
		return errors.Join(failed, err)
	})
}

// gnetAddr is where the engine listens. The socket is bound and listening when
// OnBoot runs, so clients may connect from here on.
func gnetAddr(e gnet.Engine) (string, error) {
	fd, err := e.Dup()
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd) // a duplicate: what matters is the original
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	v4, ok := sa.(*syscall.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("bench: gnet listens on %T", sa)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(v4.Port)), nil
}

// gnetBoot keeps what is to be done when the engine listens.
type gnetBoot struct {
	gnet.BuiltinEventEngine
	boot func(gnet.Engine) gnet.Action
}

func (b *gnetBoot) onBoot(f func(gnet.Engine) gnet.Action) { b.boot = f }

// OnBoot is called by gnet, inside Run.
func (b *gnetBoot) OnBoot(e gnet.Engine) gnet.Action { return b.boot(e) }

// gnetEcho is Echo and EchoUDP.
type gnetEcho struct{ gnetBoot }

// OnTraffic sends back all that has come. Write keeps what the socket does not
// take, and closes the connection itself when it fails.
func (*gnetEcho) OnTraffic(c gnet.Conn) gnet.Action {
	in, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	if _, err := c.Write(in); err != nil {
		return gnet.Close
	}
	return gnet.None
}

// gnetFan is Fanout. All connections belong to one loop, which runs all of its
// methods, so the publisher's event writes to the others: gnet asks only that
// Write is called inside a method of the handler.
type gnetFan struct {
	gnetBoot
	subs subscribers[*gnetMember]
}

// gnetMember is the context of a connection.
type gnetMember struct {
	member
	conn   gnet.Conn
	closed bool // then the descriptor may be another's, and conn must not be written
}

// OnOpen is called by gnet.
func (*gnetFan) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	c.SetContext(&gnetMember{conn: c})
	return nil, gnet.None
}

// OnClose is called by gnet, also inside a Write that fails.
func (*gnetFan) OnClose(c gnet.Conn, _ error) gnet.Action {
	if m, ok := c.Context().(*gnetMember); ok {
		m.closed = true
	}
	return gnet.None
}

// OnTraffic is called by gnet.
func (f *gnetFan) OnTraffic(c gnet.Conn) gnet.Action {
	in, err := c.Next(-1)
	if err != nil {
		return gnet.Close
	}
	m := c.Context().(*gnetMember)
	answer, messages, err := m.input(in)
	if err != nil {
		fmt.Fprintln(libraryLog, err)
		return gnet.Close
	}
	if len(answer) > 0 {
		if _, err := c.Write(answer); err != nil {
			return gnet.Close
		}
		if m.role == 'S' {
			f.subs.add(m)
		}
	}
	if len(messages) > 0 {
		f.subs.publish(func(to *gnetMember) error {
			if to.closed {
				return net.ErrClosed
			}
			_, err := to.conn.Write(messages)
			return err
		})
	}
	return gnet.None
}

// gnetLog keeps gnet's log away from standard output and to what goes wrong.
type gnetLog struct{}

// Debugf is of no use here.
func (gnetLog) Debugf(string, ...any) {}

// Infof is of no use here.
func (gnetLog) Infof(string, ...any) {}

// Warnf logs.
func (gnetLog) Warnf(format string, args ...any) {
	fmt.Fprintf(libraryLog, "gnet: "+format+"\n", args...)
}

// Errorf logs.
func (gnetLog) Errorf(format string, args ...any) {
	fmt.Fprintf(libraryLog, "gnet: "+format+"\n", args...)
}

// Fatalf logs and ends the process, as gnet expects.
func (gnetLog) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "gnet: "+format+"\n", args...)
	os.Exit(1)
}
