//go:build linux || darwin

package stepio

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// A protocol for simulations, of messages that are sent back: a byte that is the
// length, and so many bytes. It is served by a chain of frames on a Stack, which
// carries what is not a whole message yet in an Input.

// simSession is the outermost frame of a connection.
type simSession struct {
	s      *sim
	conn   *TCPConn
	in     Input
	reply  *simReply
	linger Linger
	state  simSessionState
}

type simSessionState uint8

const (
	simSessionParsing  simSessionState = iota // a message may be in hand
	simSessionReplied                         // its reply has ended
	simSessionLeaving                         // the client has ended its output
	simSessionFinished                        // nothing more is to be done
)

// newSimSession is a Stack with a session on it.
func newSimSession(s *sim, c *TCPConn) sm.Frame {
	stack := new(sm.Stack)
	stack.Start(&simSession{s: s, conn: c})
	return stack
}

func (f *simSession) Step(t *sm.Task) sm.Await {
	for {
		switch f.state {
		case simSessionParsing:
			in := f.in.Bytes()
			if len(in) > 0 && len(in) > int(in[0]) {
				f.reply = &simReply{conn: f.conn, message: append([]byte(nil), in[:1+int(in[0])]...)}
				f.in.Discard(1 + int(in[0]))
				f.state = simSessionReplied
				return t.Call(f.reply)
			}
			switch err := f.in.More(t, f.conn); {
			case err == nil:
			case err == ErrWouldBlock:
				return f.conn.Readable()
			case err == io.EOF:
				if len(in) > 0 && !f.s.broken() {
					f.s.problem("a message is cut short: %d bytes of %d", len(in), 1+int(in[0]))
				}
				f.linger.Start(f.conn, t.Now().Add(time.Minute))
				f.state = simSessionLeaving
			default:
				f.state = simSessionFinished
			}
		case simSessionReplied:
			if f.reply.closes != 1 {
				f.s.problem("a reply was closed %d times", f.reply.closes)
			}
			f.state = simSessionParsing
			if f.reply.err != nil {
				f.state = simSessionFinished
			}
		case simSessionLeaving:
			return f.linger.Step(t)
		case simSessionFinished:
			return sm.Done
		default:
			panic(fmt.Sprintf("simSession.Step: state %d", f.state))
		}
	}
}

func (f *simSession) Close() error {
	return errors.Join(f.in.Close(), f.linger.Close(), f.conn.Close())
}

// simReply sends a message by halves, each of which is a frame of its own; the
// smallest one waits for it.
type simReply struct {
	conn    *TCPConn
	message []byte
	out     WriteAll
	half    *simReply
	sent    int
	started bool
	err     error
	closes  int
}

func (r *simReply) Step(t *sm.Task) sm.Await {
	if r.half != nil && r.half.err != nil {
		r.err = r.half.err
		return sm.Done
	}
	if n := len(r.message); n > 3 && r.sent < n {
		part := r.message[r.sent:min(n, r.sent+(n+1)/2)]
		r.sent += len(part)
		r.half = &simReply{conn: r.conn, message: part}
		return t.Call(r.half)
	} else if n > 3 {
		return sm.Done
	}
	if !r.started {
		r.started = true
		r.out.Start(r.conn, r.message)
	}
	if a := r.out.Step(t); a.Pending() {
		return a
	}
	r.err = r.out.Err()
	return sm.Done
}

func (r *simReply) Close() error {
	r.closes++
	return r.out.Close()
}

// simCaller is a client of such a server. It sends messages without waiting for
// the replies, which another task of its reads meanwhile.
type simCaller struct {
	s      *sim
	to     netip.AddrPort
	conn   *TCPConn
	stream int
	sizes  []int
	both   sm.All
	begun  bool
	simDials
}

func (c *simCaller) Step(t *sm.Task) sm.Await {
	if c.conn == nil {
		conn, a := c.connect(t, c.s, c.to)
		if conn == nil {
			return a
		}
		c.conn = conn
	}
	if !c.begun {
		c.begun = true
		c.both.Start(
			c.s.add(c.s.watch("caller's sender", &simSender{c: c})),
			c.s.add(c.s.watch("caller's receiver", &simReceiver{c: c})))
	}
	return c.both.Step(t) // its error is judged where it happens
}

func (c *simCaller) Close() error {
	return errors.Join(c.both.Close(), c.simDials.Close(), c.conn.Close())
}

// message is the i-th one.
func (c *simCaller) message(i int) []byte {
	p := simBytes(make([]byte, 1+c.sizes[i]), c.stream, 1000*i)
	p[0] = byte(c.sizes[i])
	return p
}

func (c *simCaller) failed(err error) error {
	if err != nil && !c.s.broken() {
		c.s.problem("caller %d: %v", c.stream, err)
	}
	return err
}

// simSender is the half of a caller that sends.
type simSender struct {
	c   *simCaller
	out WriteAll
	i   int
	err error
}

func (h *simSender) Step(t *sm.Task) sm.Await {
	for {
		if a := h.out.Step(t); a.Pending() {
			return a
		}
		if h.err = h.c.failed(h.out.Err()); h.err != nil {
			return sm.Done
		}
		if h.i == len(h.c.sizes) {
			h.err = h.c.failed(h.c.conn.CloseWrite())
			return sm.Done
		}
		h.out.Start(h.c.conn, h.c.message(h.i))
		h.i++
	}
}

func (h *simSender) Err() error   { return h.err }
func (h *simSender) Close() error { return h.out.Close() }

// simReceiver is the half that reads the replies, and the end after them.
type simReceiver struct {
	c   *simCaller
	in  ReadFull
	i   int
	err error
}

func (h *simReceiver) Step(t *sm.Task) sm.Await {
	for ; h.i < len(h.c.sizes); h.i++ {
		want := h.c.message(h.i)
		if h.in.conn == nil {
			h.in.Start(h.c.conn, make([]byte, len(want)))
		}
		if a := h.in.Step(t); a.Pending() {
			return a
		}
		if _, err := h.in.Result(); err != nil {
			h.err = h.c.failed(err)
			return sm.Done
		}
		if string(h.in.buf) != string(want) {
			h.c.s.problem("caller %d, reply %d: %x, and sent was %x", h.c.stream, h.i, h.in.buf, want)
		}
		h.in.conn = nil
	}
	switch n, err := h.c.conn.Read(t.Scratch()); {
	case err == ErrWouldBlock:
		return h.c.conn.Readable()
	case n > 0:
		h.c.s.problem("caller %d: %d bytes more than it has sent", h.c.stream, n)
	case err != io.EOF:
		h.err = h.c.failed(err)
	}
	return sm.Done
}

func (h *simReceiver) Err() error { return h.err }

// calls starts a server of messages, and its clients.
func (s *sim) calls(clients int) {
	at := s.serve("message server", func(c *TCPConn) sm.Frame { return newSimSession(s, c) })
	for i := range clients {
		sizes := make([]int, s.rnd.IntN(12))
		for j := range sizes {
			sizes[j] = s.rnd.IntN(1 + s.rnd.IntN(256))
		}
		s.client("caller", &simCaller{s: s, to: at, stream: 100 + i, sizes: sizes})
	}
}
