// Command tcp_echo_server_et sends back what it gets, over TCP, edge-triggered.
//
// It is tcp_echo_server with the other trigger mode: an edge says that something
// has changed, once, so whoever is resumed by it drains the descriptor before
// it waits again: the acceptor its queue, the echo its input.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/examples/internal/cli"
	"github.com/stepio-go/stepio/sm"
)

func main() {
	flags := cli.Define(":8888", "a TCP echo server, edge-triggered")
	workers := cli.Workers()
	flags.Main(func(s *cli.Server) (netip.AddrPort, error) {
		pool := s.Pool(*workers)
		return s.ListenTCP(func(l *stepio.Loop, ln *stepio.TCPListener) {
			l.Spawn(&acceptor{ln: ln, handle: func(conn *stepio.TCPConn) sm.Frame {
				if pool != nil {
					return &pooledEcho{conn: conn, pool: pool}
				}
				return &echo{conn: conn}
			}})
		})
	})
}

// acceptor stands for
//
//	for (;;) for (auto& sock : co_await listener.async_accept_et()) spawn(handle(sock));
//
// It is what stepio.Serve is for a level-triggered server.
type acceptor struct {
	ln     *stepio.TCPListener
	handle func(*stepio.TCPConn) sm.Frame
	batch  []*stepio.TCPConn // for its memory: empty between two steps
	err    error
}

func (a *acceptor) Step(t *sm.Task) sm.Await {
	for {
		batch, err := a.ln.AcceptET(a.batch)
		if err == stepio.ErrWouldBlock {
			return a.ln.ReadableET()
		}
		if err != nil {
			if !t.Draining() || !errors.Is(err, net.ErrClosed) { // else the queue is empty, and that was all
				a.err = err
			}
			return sm.Done
		}
		for _, conn := range batch {
			t.Spawn(a.handle(conn))
		}
		clear(batch)
		a.batch = batch[:0]
	}
}

// Err is what the listener has failed with.
func (a *acceptor) Err() error { return a.err }

func (a *acceptor) Close() error { return a.ln.Close() }

// echo stands for
//
//	for (;;) { n = co_await sock.read_et(buf); if (!n) break; co_await sock.write(buf, n); }
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
			n, err := e.conn.ReadET(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return e.conn.ReadableET()
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
			e.state = echoReading // there may be more: no edge is awaited before a read would block
		default:
			panic(fmt.Sprintf("echo.Step: state %d", e.state))
		}
	}
}

// Idle is true while no message is in hand: see sm.Idler.
func (e *echo) Idle() bool { return e.state == echoReading }

func (e *echo) Close() error { return e.conn.Close() }

// pooledEcho stands for
//
//	for (;;) {
//	    n = co_await sock.read_et(buf); if (!n) break;
//	    reply = co_await pool.submit(loop, [=] { return handle(buf, n); });
//	    co_await sock.write(reply);
//	}
//
// Edges that come while a worker has the message are remembered by the loop.
type pooledEcho struct {
	conn  *stepio.TCPConn
	pool  *stepio.Pool
	job   stepio.Job[[]byte]
	out   stepio.WriteAll
	err   error
	state pooledState
}

type pooledState uint8

const (
	pooledReading  pooledState = iota // waits for a message
	pooledHandling                    // a worker has it
	pooledWriting                     // sends the reply
)

func (s pooledState) String() string {
	return [...]string{"pooledReading", "pooledHandling", "pooledWriting"}[s]
}

func (e *pooledEcho) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case pooledReading:
			n, err := e.conn.ReadET(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return e.conn.ReadableET()
			}
			if err != nil {
				return sm.Done
			}
			message := append([]byte(nil), t.Scratch()[:n]...) // the scratch stays on the loop
			e.job.Start(e.pool, func() ([]byte, error) { return handle(message), nil })
			e.state = pooledHandling
		case pooledHandling:
			if a := e.job.Step(t); a.Pending() {
				return a
			}
			reply, err := e.job.Result()
			if err != nil {
				e.err = err
				return sm.Done
			}
			e.out.Start(e.conn, reply)
			e.state = pooledWriting
		case pooledWriting:
			if a := e.out.Step(t); a.Pending() {
				return a
			}
			if e.out.Err() != nil {
				return sm.Done
			}
			e.state = pooledReading
		default:
			panic(fmt.Sprintf("pooledEcho.Step: state %d", e.state))
		}
	}
}

// Err is what handling a message has failed with, which is reported. That a
// client has gone is no failure.
func (e *pooledEcho) Err() error { return e.err }

// Idle is true while no message is in hand, or at a worker's.
func (e *pooledEcho) Idle() bool { return e.state == pooledReading }

// Close gives up the job, whose message nobody waits for any more, and releases
// the connection.
func (e *pooledEcho) Close() error {
	return errors.Join(e.job.Close(), e.conn.Close())
}

// handle stands for the work that a real server would do.
func handle(message []byte) []byte { return message }
