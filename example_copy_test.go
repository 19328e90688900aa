//go:build linux || darwin

package stepio_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// tunnel connects a client to a backend and moves bytes both ways. It stands
// for
//
//	auto backend = co_await connect(addr);
//	co_await when_all(copy(backend, client), copy(client, backend));
type tunnel struct {
	client, backend *stepio.TCPConn
	dial            stepio.Dial
	up, down        oneWay
	both            sm.All
	err             error
	state           tunnelState
}

type tunnelState uint8

const (
	tunnelDialing tunnelState = iota // waits for the backend
	tunnelCopying                    // both directions, until both have ended
)

func (s tunnelState) String() string { return [...]string{"tunnelDialing", "tunnelCopying"}[s] }

func (u *tunnel) Step(t *sm.Task) sm.Await {
	for {
		switch u.state {
		case tunnelDialing:
			if a := u.dial.Step(t); a.Pending() {
				return a
			}
			if u.backend, u.err = u.dial.Result(); u.err != nil {
				return sm.Done
			}
			u.up.start(u.backend, u.client)
			u.down.start(u.client, u.backend)
			u.both.Start(&u.up, &u.down)
			u.state = tunnelCopying
		case tunnelCopying:
			if a := u.both.Step(t); a.Pending() {
				return a
			}
			u.err = u.both.Err() // the first that failed has ended the other
			return sm.Done
		default:
			panic(fmt.Sprintf("tunnel.Step: state %d", u.state))
		}
	}
}

func (u *tunnel) Err() error { return u.err }

func (u *tunnel) Close() error {
	err := errors.Join(u.both.Close(), u.dial.Close(), u.client.Close())
	if u.backend != nil {
		err = errors.Join(err, u.backend.Close())
	}
	return err
}

// oneWay is one direction: it passes the end of input on.
type oneWay struct {
	dst  *stepio.TCPConn
	copy stepio.Copy
	err  error
}

func (o *oneWay) start(dst, src *stepio.TCPConn) {
	o.dst = dst
	o.copy.Start(dst, src)
}

func (o *oneWay) Step(t *sm.Task) sm.Await {
	if a := o.copy.Step(t); a.Pending() {
		return a
	}
	if o.err = o.copy.Err(); o.err == nil {
		o.err = o.dst.CloseWrite()
	}
	return sm.Done
}

func (o *oneWay) Err() error   { return o.err }
func (o *oneWay) Close() error { return o.copy.Close() }

// A proxy: both directions at once, backpressure, and half-close passed on.
func ExampleCopy() {
	loop, err := stepio.NewLoop()
	if err != nil {
		log.Fatal(err)
	}
	listen := func(handle func(*stepio.TCPConn) sm.Frame) netip.AddrPort {
		ln, err := stepio.ListenTCP(loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
		if err != nil {
			log.Fatal(err)
		}
		loop.Spawn(stepio.NewServe(ln, handle))
		return ln.Addr()
	}
	backend := listen(func(c *stepio.TCPConn) sm.Frame { return &echo{conn: c} })
	front := listen(func(c *stepio.TCPConn) sm.Frame {
		return &tunnel{client: c, dial: stepio.DialTCP(loop, backend, stepio.DialOptions{})}
	})
	stopped := make(chan error, 1)
	go func() { stopped <- loop.Run() }()

	client, err := net.Dial("tcp", front.String())
	if err != nil {
		log.Fatal(err)
	}
	_ = client.SetDeadline(time.Now().Add(patience)) // it is open
	fmt.Fprint(client, "there and back")
	if err := client.(*net.TCPConn).CloseWrite(); err != nil {
		log.Fatal(err)
	}
	answer, err := io.ReadAll(client) // until the backend's end has come through
	fmt.Println(string(answer), err)

	client.Close()
	loop.Stop()
	fmt.Println(<-stopped, loop.Close())
	// Output:
	// there and back <nil>
	// <nil> <nil>
}
