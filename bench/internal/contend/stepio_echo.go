package contend

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// serveEcho is examples/tcp_echo_server on one loop.
func serveEcho(l *stepio.Loop) (netip.AddrPort, error) {
	return serveTCP(l, func(c *stepio.TCPConn) sm.Frame { return &levelEcho{conn: c} })
}

// servePooledEcho is the same with -workers 1.
func servePooledEcho(l *stepio.Loop) (netip.AddrPort, error) {
	pool := stepio.NewPool(1, 64) // until the process ends
	return serveTCP(l, func(c *stepio.TCPConn) sm.Frame { return &pooledEcho{conn: c, pool: pool} })
}

func serveTCP(l *stepio.Loop, handle func(*stepio.TCPConn) sm.Frame) (netip.AddrPort, error) {
	ln, err := stepio.ListenTCP(l, anyPort, stepio.ListenOptions{})
	if err != nil {
		return netip.AddrPort{}, err
	}
	l.Spawn(stepio.NewServe(ln, handle))
	return ln.Addr(), nil
}

// serveEdgeEcho is examples/tcp_echo_server_et on one loop.
func serveEdgeEcho(l *stepio.Loop) (netip.AddrPort, error) {
	ln, err := stepio.ListenTCP(l, anyPort, stepio.ListenOptions{})
	if err != nil {
		return netip.AddrPort{}, err
	}
	l.Spawn(&edgeAcceptor{ln: ln})
	return ln.Addr(), nil
}

type echoState uint8

const (
	echoReading  echoState = iota // waits for a message
	echoHandling                  // a worker has it: pooledEcho only
	echoWriting                   // sends it back
)

func (s echoState) String() string {
	return [...]string{"echoReading", "echoHandling", "echoWriting"}[s]
}

// levelEcho stands for
//
//	for (;;) { n = co_await sock.read(buf); if (!n) break; co_await sock.write(buf, n); }
type levelEcho struct {
	conn  *stepio.TCPConn
	out   stepio.WriteAll
	state echoState
}

func (e *levelEcho) Step(t *sm.Task) sm.Await {
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
			panic(fmt.Sprintf("levelEcho.Step: state %d", e.state))
		}
	}
}

func (e *levelEcho) Close() error { return e.conn.Close() }

// edgeAcceptor stands for
//
//	for (;;) for (auto& sock : co_await listener.async_accept_et()) spawn(handle(sock));
type edgeAcceptor struct {
	ln    *stepio.TCPListener
	batch []*stepio.TCPConn // for its memory: empty between two steps
	err   error
}

func (a *edgeAcceptor) Step(t *sm.Task) sm.Await {
	for {
		batch, err := a.ln.AcceptET(a.batch)
		if err == stepio.ErrWouldBlock {
			return a.ln.ReadableET()
		}
		if err != nil {
			a.err = err
			return sm.Done
		}
		for _, conn := range batch {
			t.Spawn(&edgeEcho{conn: conn})
		}
		clear(batch)
		a.batch = batch[:0]
	}
}

// Err is what the listener has failed with.
func (a *edgeAcceptor) Err() error { return a.err }

func (a *edgeAcceptor) Close() error { return a.ln.Close() }

// edgeEcho stands for
//
//	for (;;) { n = co_await sock.read_et(buf); if (!n) break; co_await sock.write(buf, n); }
type edgeEcho struct {
	conn  *stepio.TCPConn
	out   stepio.WriteAll
	state echoState
}

func (e *edgeEcho) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case echoReading:
			n, err := e.conn.ReadET(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return e.conn.ReadableET()
			}
			if err != nil {
				return sm.Done
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
			e.state = echoReading // there may be more: no edge is awaited before a read would block
		default:
			panic(fmt.Sprintf("edgeEcho.Step: state %d", e.state))
		}
	}
}

func (e *edgeEcho) Close() error { return e.conn.Close() }

// pooledEcho stands for
//
//	for (;;) {
//	    n = co_await sock.read(buf); if (!n) break;
//	    reply = co_await pool.submit(loop, [=] { return message; });
//	    co_await sock.write(reply);
//	}
type pooledEcho struct {
	conn  *stepio.TCPConn
	pool  *stepio.Pool
	job   stepio.Job[[]byte]
	out   stepio.WriteAll
	err   error
	state echoState
}

func (e *pooledEcho) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case echoReading:
			n, err := e.conn.Read(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return e.conn.Readable()
			}
			if err != nil {
				return sm.Done
			}
			message := append([]byte(nil), t.Scratch()[:n]...) // the scratch stays on the loop
			e.job.Start(e.pool, func() ([]byte, error) { return message, nil })
			e.state = echoHandling
		case echoHandling:
			if a := e.job.Step(t); a.Pending() {
				return a
			}
			reply, err := e.job.Result()
			if err != nil {
				e.err = err
				return sm.Done
			}
			e.out.Start(e.conn, reply)
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
			panic(fmt.Sprintf("pooledEcho.Step: state %d", e.state))
		}
	}
}

// Err is what handling a message has failed with.
func (e *pooledEcho) Err() error { return e.err }

// Close gives up the job, whose message nobody waits for any more, and releases
// the connection.
func (e *pooledEcho) Close() error {
	return errors.Join(e.job.Close(), e.conn.Close())
}
