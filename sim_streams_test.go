//go:build linux || darwin

package stepio

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
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
	err     error
}

func (a *simAcceptor) Step(t *sm.Task) sm.Await {
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
	lazy  bool // waits for each read, as an edge-triggered reader may that uses ReadET
	long  bool // ends by Linger
	state simEchoState
}

type simEchoState uint8

const (
	simEchoReading simEchoState = iota
	simEchoWriting
	simEchoEnding
)

func newSimEcho(s *sim, c *TCPConn) *simEcho {
	return &simEcho{
		s: s, conn: c, room: simSize(s.rnd, sm.ScratchSize-1), edge: s.rnd.IntN(2) == 0,
		lazy: s.rnd.IntN(2) == 0, long: s.rnd.IntN(2) == 0,
	}
}

func (e *simEcho) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case simEchoReading:
			n, err := e.read(t.Scratch()[:e.room])
			switch {
			case err == ErrWouldBlock:
				e.handOver()
				return e.wait()
			case err == io.EOF && e.long:
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
				return sm.Done
			}
			e.state = simEchoReading
			if e.lazy {
				return e.wait()
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
	if e.edge {
		return e.conn.ReadET(p)
	}
	return e.conn.Read(p)
}

// handOver takes the connection out of the loop and back in again.
func (e *simEcho) handOver() {
	if !e.s.handsOn || e.s.rnd.IntN(8) != 0 {
		return
	}
	fd, err := e.conn.Detach()
	if err != nil {
		e.s.problem("Detach: %v", err)
	}
	e.s.k.Count(simkernel.HandOver)
	e.s.k.Share(fd)
	e.conn = e.s.opened(NewTCPConn(e.s.Loop, fd))
	e.edge = e.s.rnd.IntN(2) == 0
}

func (e *simEcho) Close() error {
	return errors.Join(e.out.Close(), e.bye.Close(), e.conn.Close())
}

// simProxy simDials the echo server and copies in both directions, side by side.
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

// simClient sends the bytes of a stream of its own to an echo, ends its output,
// and must get every byte back, once and in order, and then the end.
type simClient struct {
	s      *sim
	to     netip.AddrPort
	stream int
	total  int
	chunk  int
	sent   int
	got    int
	conn   *TCPConn
	how    simClientHow
	edge   bool
	ended  bool // the output
	moves  int  // of the deadline, which is near but for the last time
	out    WriteAll
	in     ReadFull
	both   sm.All
	steps  int
	begun  bool // both is started
	late   bool // begins after a while
	err    error
	simDials
}

type simClientHow uint8

const (
	simClientAtOnce simClientHow = iota // sends and receives in one task
	simClientInTurn                     // sends a piece by WriteAll, and waits for it by ReadFull
	simClientBeside                     // sends and receives in two tasks
	simClientRelay                      // likewise, and the receiver is replaced now and then
	simClientHows
)

func newSimClient(s *sim, stream int, to netip.AddrPort) *simClient {
	c := &simClient{s: s, to: to, stream: stream, total: simSize(s.rnd, 1<<s.rnd.IntN(15)), chunk: simSize(s.rnd, 4096)}
	if c.how = simClientHow(s.rnd.IntN(int(simClientHows))); c.how == simClientInTurn {
		c.chunk = min(c.chunk, s.most) // it reads nothing until all of a piece is sent
	}
	c.edge = s.rnd.IntN(2) == 0
	c.late = s.rnd.IntN(2) == 0
	if s.rnd.IntN(8) == 0 {
		c.moves = 1 + s.rnd.IntN(3)
	}
	return c
}

func (c *simClient) Step(t *sm.Task) sm.Await {
	if c.late {
		c.late = false
		c.again = t.Now().Add(time.Duration(c.s.rnd.IntN(int(50 * time.Millisecond))))
	}
	if c.conn == nil {
		conn, a := c.connect(t, c.s, c.to)
		if conn == nil {
			return a
		}
		c.conn = conn
	}
	if c.moves > 0 {
		c.moves--
		limit := time.Duration(1+c.s.rnd.IntN(50)) * time.Millisecond
		if c.moves == 0 {
			limit = time.Hour
		}
		if err := c.conn.SetDeadline(t.Now().Add(limit)); err != nil {
			return c.failed(t, err)
		}
	}
	switch c.how {
	case simClientAtOnce:
		return c.atOnce(t)
	case simClientInTurn:
		return c.inTurn(t)
	case simClientBeside, simClientRelay:
		return c.beside(t)
	default:
		panic(fmt.Sprintf("simClient.Step: how %d", c.how))
	}
}

func (c *simClient) wait(dirs sm.Dir) sm.Await {
	if c.edge {
		return c.conn.WaitET(dirs)
	}
	return c.conn.Wait(dirs)
}

// atOnce receives first in every second step: a budget of one operation a step
// would else go into writes that find no room.
func (c *simClient) atOnce(t *sm.Task) sm.Await {
	c.steps++
	if c.steps%2 == 0 {
		if received, a := c.receive(t); !received {
			return a
		}
	}
	more, a := c.send(t)
	if a == sm.Done && more {
		return a
	}
	if c.steps%2 == 1 {
		if received, a := c.receive(t); !received {
			return a
		}
	}
	if more {
		return c.wait(sm.Read | sm.Write)
	}
	return c.wait(sm.Read)
}

// send sends what the socket takes. The result is one of: false and Done, when
// all is sent; true and a wait; true and Done when it has failed.
func (c *simClient) send(t *sm.Task) (more bool, a sm.Await) {
	for c.sent < c.total {
		p := simBytes(t.Scratch()[:min(c.chunk, c.total-c.sent)], c.stream, c.sent)
		n, err := c.conn.Write(p)
		c.sent += n
		if err == ErrWouldBlock {
			return true, c.wait(sm.Write)
		}
		if err != nil {
			return true, c.failed(t, err)
		}
	}
	return c.end(t)
}

// end ends the output. The results are those of send.
func (c *simClient) end(t *sm.Task) (failed bool, a sm.Await) {
	if !c.ended {
		c.ended = true
		if err := c.conn.CloseWrite(); err != nil {
			return true, c.failed(t, err)
		}
	}
	return false, sm.Done
}

// receive takes what has come. The result is one of: true and a wait; false and
// Done at the end.
func (c *simClient) receive(t *sm.Task) (more bool, a sm.Await) {
	for {
		n, err := c.conn.Read(t.Scratch()[:c.chunk])
		c.check(t.Scratch()[:n])
		switch {
		case err == ErrWouldBlock:
			return true, c.wait(sm.Read)
		case err != nil:
			return false, c.over(t, err)
		}
	}
}

// simPart is a task of a client's. When one fails, the other has to end.
type simPart struct {
	c *simClient
	sm.Frame
}

func (p *simPart) Err() error { return p.c.err }

func (p *simPart) Close() error {
	if c, ok := p.Frame.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// simRelay receives by a task that is destroyed after a while, and by another one
// that takes over where it was. What the first was resumed for and has not looked
// at is the second's.
type simRelay struct {
	c    *simClient
	left int // how often it is replaced
	race sm.Any
	busy bool // race is started
}

func (r *simRelay) Step(t *sm.Task) sm.Await {
	for {
		if r.busy {
			if a := r.race.Step(t); a.Pending() {
				return a
			}
			if r.race.Winner() == 0 {
				if r.c.err == nil {
					r.c.err = r.race.Err() // it was destroyed
				}
				return sm.Done
			}
		}
		r.busy = true
		runners := []sm.Frame{r.c.s.add(r.c.s.watch("client's lazy receiver", r.c.lazy()))}
		if r.left--; r.left >= 0 {
			pause := &simSleeper{s: r.c.s, naps: 1, when: t.Now().Add(time.Duration(r.c.s.rnd.IntN(int(5 * time.Millisecond))))}
			runners = append(runners, r.c.s.add(r.c.s.watch("client's sleeper", pause)))
		}
		r.race.Start(runners...)
	}
}

func (r *simRelay) Close() error { return r.race.Close() }

// lazy is a receiver that waits for each read: ReadET leaves an edge behind
// where there may be more.
func (c *simClient) lazy() sm.Frame {
	waited := false
	return script(func(t *sm.Task) sm.Await {
		if !waited {
			waited = true
			return c.wait(sm.Read)
		}
		n, err := c.conn.ReadET(t.Scratch()[:c.chunk])
		c.check(t.Scratch()[:n])
		if err == nil || err == ErrWouldBlock {
			return c.wait(sm.Read)
		}
		return c.over(t, err)
	})
}

// over judges what reading has ended with.
func (c *simClient) over(t *sm.Task, err error) sm.Await {
	if err != io.EOF {
		return c.failed(t, err)
	}
	if (c.got != c.total || !c.ended) && !c.s.broken() {
		c.s.problem("stream %d ends after %d bytes of %d", c.stream, c.got, c.total)
	}
	return sm.Done
}

// check compares what has come with what was sent.
func (c *simClient) check(p []byte) {
	for i, b := range p {
		if b != simByte(c.stream, c.got+i) || c.got+i >= c.sent {
			c.s.problem("stream %d: byte %d is %d", c.stream, c.got+i, b)
			break
		}
	}
	c.got += len(p)
}

// failed judges an error of the connection.
func (c *simClient) failed(t *sm.Task, err error) sm.Await {
	c.err = err
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if d := c.conn.deadlines; d == nil || t.Now().Before(d.read) {
			c.s.problem("stream %d fails before its deadline", c.stream)
		}
		c.s.disturbed = true // the other end finds a reset, perhaps
	} else if !c.s.broken() {
		c.s.problem("stream %d: %v", c.stream, err)
	}
	return sm.Done
}

func (c *simClient) inTurn(t *sm.Task) sm.Await {
	buf := make([]byte, c.chunk)
	for {
		if a := c.out.Step(t); a.Pending() {
			return a
		}
		if err := c.out.Err(); err != nil {
			return c.failed(t, err)
		}
		if c.in.conn != nil {
			if a := c.in.Step(t); a.Pending() {
				return a
			}
			n, err := c.in.Result()
			c.check(c.in.buf[:n])
			c.in.conn = nil
			if err != nil {
				return c.failed(t, err)
			}
		}
		if c.sent == c.total {
			if failed, a := c.end(t); failed {
				return a
			}
			_, a := c.receive(t)
			return a
		}
		n := min(c.chunk, c.total-c.sent)
		c.out.Start(c.conn, simBytes(buf[:n], c.stream, c.sent))
		c.sent += n
		c.in.Start(c.conn, make([]byte, n))
	}
}

func (c *simClient) beside(t *sm.Task) sm.Await {
	if !c.begun {
		c.begun = true
		sender := &simPart{c, script(func(t *sm.Task) sm.Await { _, a := c.send(t); return a })}
		receiver := &simPart{c, script(func(t *sm.Task) sm.Await { _, a := c.receive(t); return a })}
		if c.how == simClientRelay {
			receiver.Frame = &simRelay{c: c, left: 20}
		}
		c.both.Start(c.s.add(c.s.watch("client's sender", sender)), c.s.add(c.s.watch("client's receiver", receiver)))
	}
	return c.both.Step(t) // its error is this frame's own business
}

func (c *simClient) Close() error {
	return errors.Join(c.both.Close(), c.out.Close(), c.simDials.Close(), c.conn.Close())
}
