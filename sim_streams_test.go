//go:build linux || darwin

package stepio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"time"

	"github.com/stepio-go/stepio/internal/simkernel"
	"github.com/stepio-go/stepio/sm"
)

// The frames of a simulation that have streams. Each keeps to the rules of its
// trigger mode: edge-triggered, it reads or writes until it would block.

// simAcceptor accepts as Serve does, by the other calls.
type simAcceptor struct {
	s       *sim
	ln      *TCPListener
	session func(*TCPConn) sm.Frame
	edge    bool
	strict  bool // accepts when an event has come, and not else
	err     error
}

func (a *simAcceptor) Step(t *sm.Task) sm.Await {
	switch {
	case !a.strict || t.Ready() != 0 || a.ln.FD() < 0:
	case a.edge:
		return a.ln.ReadableET()
	default:
		return a.ln.Readable()
	}
	for a.edge {
		conns, err := a.ln.AcceptET(nil)
		if err == ErrWouldBlock {
			return a.ln.ReadableET()
		}
		if a.err = err; err != nil {
			return sm.Done
		}
		for _, c := range conns {
			t.Spawn(a.session(c))
		}
	}
	for {
		fd, err := a.ln.AcceptFD()
		if err == ErrWouldBlock {
			return a.ln.Readable()
		}
		if a.err = err; err != nil {
			return sm.Done
		}
		a.s.k.Share(fd)
		t.Spawn(a.session(NewTCPConn(a.s.Loop, fd)))
	}
}

func (a *simAcceptor) Err() error   { return a.err }
func (a *simAcceptor) Close() error { return a.ln.Close() }

// simEcho sends back what it reads until the end of input.
type simEcho struct {
	s     *sim
	conn  *TCPConn
	out   WriteAll
	bye   Linger
	room  int
	edge  bool
	lazy  bool // waits for each read, as an edge-triggered reader may
	once  bool // uses Read, edge-triggered, too
	slow  bool // thinks before each wait
	until time.Time
	long  bool // ends by Linger
	still bool // reads on when a write has failed
	state simEchoState
}

type simEchoState uint8

const (
	simEchoReading simEchoState = iota
	simEchoWriting
	simEchoDraining
	simEchoEnding
)

func newSimEcho(s *sim, c *TCPConn) *simEcho {
	return &simEcho{
		s: s, conn: c, room: simSize(s.rnd, sm.ScratchSize-1), edge: s.rnd.IntN(2) == 0,
		lazy: s.rnd.IntN(2) == 0, once: s.rnd.IntN(2) == 0, slow: s.rnd.IntN(8) == 0,
		long: s.rnd.IntN(2) == 0, still: s.rnd.IntN(2) == 0,
	}
}

func (e *simEcho) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case simEchoReading:
			if a := t.SleepUntil(e.until); a.Pending() {
				return a
			}
			n, err := e.read(t.Scratch()[:e.room])
			switch {
			case err == ErrWouldBlock:
				if !e.handOver() {
					return sm.Done
				}
				return e.wait()
			case err == io.EOF:
				e.s.ends(e.conn)
				if !e.long {
					return sm.Done
				}
				e.bye.Start(e.conn, t.Now().Add(time.Second))
				e.state = simEchoEnding
			case err != nil:
				return sm.Done
			default:
				e.out.Start(e.conn, t.Scratch()[:n])
				e.state = simEchoWriting
			}
		case simEchoWriting:
			if a := e.out.Step(t); a.Pending() {
				return a
			}
			if e.out.Err() != nil {
				if !e.still {
					return sm.Done
				}
				e.state = simEchoDraining
				continue
			}
			e.state = simEchoReading
			if e.slow {
				e.until = t.Now().Add(time.Duration(e.s.rnd.IntN(int(20 * time.Millisecond))))
				continue
			}
			if e.lazy {
				return e.wait()
			}
		case simEchoDraining:
			_, err := e.read(t.Scratch()[:e.room])
			switch {
			case err == ErrWouldBlock:
				return e.wait()
			case err == io.EOF:
				e.s.ends(e.conn)
				return sm.Done
			case err != nil:
				return sm.Done
			}
		case simEchoEnding:
			return e.bye.Step(t)
		default:
			panic(fmt.Sprintf("simEcho.Step: state %d", e.state))
		}
	}
}

func (e *simEcho) wait() sm.Await {
	if e.edge {
		return e.conn.ReadableET()
	}
	return e.conn.Readable()
}

func (e *simEcho) read(p []byte) (int, error) {
	if e.edge && !e.once {
		return e.conn.ReadET(p)
	}
	return e.conn.Read(p)
}

// handOver takes a connection out of the loop and back in again, where that is
// drawn. It is nil when that fails, since the connection has.
func (s *sim) handOver(c *TCPConn) *TCPConn {
	if !s.handsOn || s.rnd.IntN(4) != 0 {
		return c
	}
	fd, err := c.Detach()
	if err != nil {
		if !s.broken() {
			s.problem("Detach: %v", err)
		}
		return nil
	}
	s.k.Count(simkernel.HandOver)
	s.k.Share(fd)
	return s.opened(NewTCPConn(s.Loop, fd))
}

// handOver is sim.handOver. Nothing need be known of the mode before.
func (e *simEcho) handOver() bool {
	c := e.s.handOver(e.conn)
	if c == nil {
		return false
	}
	if c != e.conn {
		e.conn = c
		e.edge = e.s.rnd.IntN(2) == 0
	}
	return true
}

func (e *simEcho) Close() error {
	return errors.Join(e.out.Close(), e.bye.Close(), e.conn.Close())
}

// simSink reads to the end of input, and then says how many bytes there were, in
// four bytes. It knows every one: the first names the stream.
type simSink struct {
	s    *sim
	conn *TCPConn
	room int
	got  int
	id   int // of the stream
	edge bool
	over bool
	out  WriteAll
}

func newSimSink(s *sim, c *TCPConn) *simSink {
	return &simSink{s: s, conn: c, room: simSize(s.rnd, sm.ScratchSize-1), edge: s.rnd.IntN(2) == 0}
}

func (k *simSink) Step(t *sm.Task) sm.Await {
	for !k.over {
		n, err := k.read(t.Scratch()[:k.room])
		if k.got == 0 && n > 0 {
			k.id = int(t.Scratch()[0])
		}
		for i, b := range t.Scratch()[:n] {
			if b != simByte(k.id, k.got+i) {
				k.s.problem("sink of stream %d: byte %d is %d", k.id, k.got+i, b)
				break
			}
		}
		k.got += n
		switch {
		case err == ErrWouldBlock && k.edge:
			return k.conn.ReadableET()
		case err == ErrWouldBlock:
			return k.conn.Readable()
		case err == io.EOF:
			k.s.ends(k.conn)
			k.over = true
			k.out.Start(k.conn, binary.BigEndian.AppendUint32(nil, uint32(k.got)))
		case err != nil:
			return sm.Done
		default:
			c := k.s.handOver(k.conn)
			if c == nil {
				return sm.Done
			}
			k.conn = c
		}
	}
	return k.out.Step(t)
}

func (k *simSink) read(p []byte) (int, error) {
	if k.edge {
		return k.conn.ReadET(p)
	}
	return k.conn.Read(p)
}

func (k *simSink) Close() error { return errors.Join(k.out.Close(), k.conn.Close()) }

// simProxy dials the echo server and copies in both directions, side by side.
type simProxy struct {
	s    *sim
	near *TCPConn
	far  *TCPConn
	both sm.All
	busy bool // both is started
	simDials
}

func (p *simProxy) Step(t *sm.Task) sm.Await {
	if p.far == nil {
		conn, a := p.connect(t, p.s, p.s.echoAt)
		if conn == nil {
			return a
		}
		p.far = conn
	}
	if !p.busy {
		p.busy = true
		p.both.Start(p.half(p.far, p.near), p.half(p.near, p.far))
	}
	return p.both.Step(t)
}

func (p *simProxy) half(dst, src *TCPConn) sm.Frame {
	h := &simHalf{dst: dst}
	h.copy.Start(dst, src)
	return p.s.add(p.s.watch("proxy's half", h))
}

func (p *simProxy) Close() error {
	return errors.Join(p.both.Close(), p.simDials.Close(), p.near.Close(), p.far.Close())
}

// simHalf is one direction of a proxy.
type simHalf struct {
	copy Copy
	dst  *TCPConn
	err  error
}

func (h *simHalf) Step(t *sm.Task) sm.Await {
	if a := h.copy.Step(t); a.Pending() {
		return a
	}
	if h.err = h.copy.Err(); h.err == nil {
		h.err = h.dst.CloseWrite()
	}
	return sm.Done
}

func (h *simHalf) Err() error   { return h.err }
func (h *simHalf) Close() error { return h.copy.Close() }

// simDials connects, and tries again for lack of descriptors or memory.
type simDials struct {
	dial  Dial
	on    bool // dial is started
	again time.Time
}

// connect is a connection, or what to answer: Done when there will be none.
func (d *simDials) connect(t *sm.Task, s *sim, to netip.AddrPort) (*TCPConn, sm.Await) {
	for {
		if a := t.SleepUntil(d.again); a.Pending() {
			return nil, a
		}
		if !d.on {
			d.on = true
			d.dial = DialTCP(s.Loop, to, DialOptions{Deadline: t.Now().Add(10 * time.Minute)})
		}
		if a := d.dial.Step(t); a.Pending() {
			return nil, a
		}
		conn, err := d.dial.Result()
		switch {
		case err == nil:
			return s.opened(conn), sm.Done
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENOBUFS):
			d.on = false
			d.again = t.Now().Add(10 * time.Millisecond)
		default:
			if !s.broken() {
				s.problem("dial: %v", err)
			}
			return nil, sm.Done
		}
	}
}

func (d *simDials) Close() error { return d.dial.Close() }
