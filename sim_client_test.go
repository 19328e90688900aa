//go:build linux || darwin

package stepio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// simClient sends the bytes of a stream of its own, ends its output, and must get
// an answer and then the end: from an echo every byte, once and in order; from a
// sink, which says nothing before it has seen the end, how many bytes there were.
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
	sink   bool // the server is one
	answer []byte
	ended  bool // the output
	done   bool // the end of the input was read
	moves  int  // of the deadline, which is near but for the last time
	stays  bool // a deadline that has passed is moved, and it goes on
	out    WriteAll
	in     ReadFull
	both   sm.All
	begun  bool // both is started
	late   bool // begins after a while
	polls  bool // never waits for its connection
	err    error
	simDials
}

type simClientHow uint8

const (
	simClientAtOnce simClientHow = iota // sends and receives in one task
	simClientInTurn                     // sends a piece by WriteAll, and waits for it by ReadFull
	simClientBeside                     // sends and receives in two tasks
	simClientRelay                      // likewise, and both are replaced now and then
	simClientHows
)

func newSimClient(s *sim, stream int, to netip.AddrPort) *simClient {
	c := &simClient{s: s, to: to, stream: stream, total: simSize(s.rnd, 1<<s.rnd.IntN(15)), chunk: simSize(s.rnd, 4096)}
	c.how = simClientHow(s.rnd.IntN(int(simClientHows)))
	switch c.sink = to == s.sinkAt; {
	case c.how != simClientInTurn:
	case c.sink:
		c.how = simClientRelay
	default:
		c.chunk = min(c.chunk, s.most) // it reads nothing until all of a piece is sent
	}
	c.edge = s.rnd.IntN(2) == 0
	c.late = s.rnd.IntN(2) == 0
	c.polls = s.rnd.IntN(8) == 0
	if s.rnd.IntN(8) == 0 {
		c.moves = 1 + s.rnd.IntN(3)
		c.stays = s.rnd.IntN(2) == 0
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
	if c.moves > 0 && (!c.stays || c.conn.deadlines == nil) {
		if err := c.moveDeadline(t); err != nil {
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

func (c *simClient) moveDeadline(t *sm.Task) error {
	c.moves--
	limit := time.Duration(1+c.s.rnd.IntN(50)) * time.Millisecond
	if c.moves <= 0 {
		limit = time.Hour
	}
	return c.conn.SetDeadline(t.Now().Add(limit))
}

// overdue moves a deadline that an operation has found to be over, where the client
// does so, and reports whether it may go on: by a wait, for what there was before
// is still there.
func (c *simClient) overdue(t *sm.Task, err error) bool {
	if !c.stays || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.checkDeadline(t)
	return c.moveDeadline(t) == nil
}

func (c *simClient) wait(dirs sm.Dir) sm.Await {
	if c.polls {
		return sm.Park.Until(c.s.Now().Add(time.Duration(c.s.rnd.IntN(int(20 * time.Millisecond)))))
	}
	if c.edge {
		return c.conn.WaitET(dirs)
	}
	return c.conn.Wait(dirs)
}

func (c *simClient) atOnce(t *sm.Task) sm.Await {
	more, a := c.send(t)
	if a == sm.Done && more {
		return a
	}
	if received, a := c.receive(t); !received {
		return a
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
		if c.overdue(t, err) {
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
		case err == ErrWouldBlock || c.overdue(t, err):
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

// simRelay works by a task that is destroyed after a while, and by another one
// that takes over where it was. What the first was resumed for and has not looked
// at is the second's.
type simRelay struct {
	c    *simClient
	left int // how often it is replaced
	next func() sm.Frame
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
		runners := []sm.Frame{r.c.s.add(r.c.s.watch("client's lazy part", r.next()))}
		if r.left--; r.left >= 0 {
			pause := &simSleeper{s: r.c.s, naps: 1, when: t.Now().Add(time.Duration(r.c.s.rnd.IntN(int(5 * time.Millisecond))))}
			runners = append(runners, r.c.s.add(r.c.s.watch("client's sleeper", pause)))
		}
		r.race.Start(runners...)
	}
}

func (r *simRelay) Close() error { return r.race.Close() }

// lazyReceiver is a receiver that waits for each read: ReadET leaves an edge behind
// where there may be more. One that was destroyed in its last step has left none.
func (c *simClient) lazyReceiver() sm.Frame {
	waited := false
	return script(func(t *sm.Task) sm.Await {
		if c.done {
			return sm.Done
		}
		if !waited {
			waited = true
			return c.wait(sm.Read)
		}
		n, err := c.conn.ReadET(t.Scratch()[:c.chunk])
		c.check(t.Scratch()[:n])
		if err == nil || err == ErrWouldBlock || c.overdue(t, err) {
			return c.wait(sm.Read)
		}
		return c.over(t, err)
	})
}

// lazySender is a sender that begins with a wait: a write that was refused leaves
// an edge behind.
func (c *simClient) lazySender() sm.Frame {
	waited := false
	return script(func(t *sm.Task) sm.Await {
		if c.ended {
			return sm.Done
		}
		if !waited {
			waited = true
			return c.wait(sm.Write)
		}
		_, a := c.send(t)
		return a
	})
}

// over judges what reading has ended with.
func (c *simClient) over(t *sm.Task, err error) sm.Await {
	if err != io.EOF {
		return c.failed(t, err)
	}
	c.done = true
	if c.err == nil { // else another task has taken the error
		c.s.ends(c.conn)
	}
	if (c.got != c.total || !c.ended) && !c.s.broken() {
		c.s.problem("stream %d ends after %d bytes of %d", c.stream, c.got, c.total)
	}
	return sm.Done
}

// check compares what has come with what was sent.
func (c *simClient) check(p []byte) {
	if c.sink {
		c.checkAnswer(p)
		return
	}
	for i, b := range p {
		if b != simByte(c.stream, c.got+i) || c.got+i >= c.sent {
			c.s.problem("stream %d: byte %d is %d", c.stream, c.got+i, b)
			break
		}
	}
	c.got += len(p)
}

// checkAnswer takes the answer of a sink.
func (c *simClient) checkAnswer(p []byte) {
	switch c.answer = append(c.answer, p...); {
	case len(c.answer) > 4 || len(p) > 0 && !c.ended:
		c.s.problem("stream %d: an answer of %d bytes", c.stream, len(c.answer))
	case len(c.answer) == 4:
		c.got = int(binary.BigEndian.Uint32(c.answer))
	}
}

// failed judges an error of the connection.
func (c *simClient) failed(t *sm.Task, err error) sm.Await {
	c.err = err
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.checkDeadline(t)
		c.s.disturbed = true // the other end finds a reset, perhaps
	} else if !c.s.broken() {
		c.s.problem("stream %d: %v", c.stream, err)
	}
	return sm.Done
}

func (c *simClient) checkDeadline(t *sm.Task) {
	if d := c.conn.deadlines; d == nil || t.Now().Before(d.read) {
		c.s.problem("stream %d fails before its deadline", c.stream)
	}
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
			receiver.Frame = &simRelay{c: c, left: 20, next: c.lazyReceiver}
			sender.Frame = &simRelay{c: c, left: 20, next: c.lazySender}
		}
		c.both.Start(c.s.add(c.s.watch("client's sender", sender)), c.s.add(c.s.watch("client's receiver", receiver)))
	}
	return c.both.Step(t) // its error is this frame's own business
}

func (c *simClient) Close() error {
	return errors.Join(c.both.Close(), c.out.Close(), c.simDials.Close(), c.conn.Close())
}
