package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// echo stands for
//
//	for (;;) { n = co_await sock.read(buf); if (!n) break; co_await sock.write(buf, n); }
//
// in either trigger mode.
type echo struct {
	conn  *stepio.TCPConn
	out   stepio.WriteAll
	edge  bool
	state echoState
}

type echoState uint8

const (
	echoReading echoState = iota // waits for a message
	echoWriting                  // sends it back
)

func (s echoState) String() string { return [...]string{"echoReading", "echoWriting"}[s] }

// newEcho makes the frame of a connection of the echo servers. The tests put
// servers with faults in its place, to see that they are found.
var newEcho = func(conn *stepio.TCPConn, edge bool) sm.Frame { return &echo{conn: conn, edge: edge} }

func (e *echo) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case echoReading:
			n, err := e.read(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return e.wait()
			}
			if err != nil {
				return sm.Done // the end of input, or a reset, which clients do on purpose
			}
			e.out.Start(e.conn, t.Scratch()[:n])
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

func (e *echo) read(p []byte) (int, error) {
	if e.edge {
		return e.conn.ReadET(p)
	}
	return e.conn.Read(p)
}

func (e *echo) wait() sm.Await {
	if e.edge {
		return e.conn.ReadableET()
	}
	return e.conn.Readable()
}

// Idle is true while no message is in hand: see sm.Idler.
func (e *echo) Idle() bool { return e.state == echoReading }

func (e *echo) Close() error { return errors.Join(e.out.Close(), e.conn.Close()) }

// edgeAcceptor is to edge-triggered connections what stepio.Serve is to the
// others.
type edgeAcceptor struct {
	ln     *stepio.TCPListener
	handle func(*stepio.TCPConn) sm.Frame
	err    error
}

func (a *edgeAcceptor) Step(t *sm.Task) sm.Await {
	for {
		conns, err := a.ln.AcceptET(nil)
		if err == stepio.ErrWouldBlock {
			return a.ln.ReadableET()
		}
		if err != nil {
			if !t.Draining() || !errors.Is(err, net.ErrClosed) {
				a.err = err
			}
			return sm.Done
		}
		for _, conn := range conns {
			t.Spawn(a.handle(conn))
		}
	}
}

// Err is what the listener has failed with.
func (a *edgeAcceptor) Err() error { return a.err }

func (a *edgeAcceptor) Close() error { return a.ln.Close() }
