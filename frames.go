//go:build linux || darwin

package stepio

import (
	"fmt"
	"io"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// The frames that read and move whole things. WriteAll has a file of its own.

// ReadFull is the frame that reads exactly len(p) bytes into p, which is the
// frame's until it is done.
type ReadFull struct {
	conn *TCPConn
	buf  []byte
	n    int
	err  error
}

// Start says where to read from and into what. Nothing is read before Step.
func (r *ReadFull) Start(conn *TCPConn, p []byte) { *r = ReadFull{conn: conn, buf: p} }

// Step runs until p is full, or reading has failed.
func (r *ReadFull) Step(*sm.Task) sm.Await {
	for r.err == nil && r.n < len(r.buf) {
		n, err := r.conn.Read(r.buf[r.n:])
		r.n += n
		switch {
		case err == ErrWouldBlock:
			return r.conn.again(sm.Read)
		case err == io.EOF && r.n > 0:
			r.err = io.ErrUnexpectedEOF
		default:
			r.err = err
		}
	}
	return sm.Done
}

// Result is one of: len(p) and nil; fewer bytes and io.ErrUnexpectedEOF; 0 and
// io.EOF; fewer bytes and an error of Read.
func (r *ReadFull) Result() (n int, err error) { return r.n, r.err }

// Err is what reading has failed with.
func (r *ReadFull) Err() error { return r.err }

// Inspect tells Dump how much is there.
func (r *ReadFull) Inspect() (state string, callee sm.Frame) {
	if r.err != nil || r.n == len(r.buf) {
		return "", nil
	}
	return fmt.Sprintf("%d of %d bytes", r.n, len(r.buf)), nil
}

// Copy is the frame that moves bytes from one connection to another until the
// end of input. It stands for
//
//	for (;;) { n = co_await src.read(buf); if (!n) break; co_await dst.write(buf, n); }
//
// While dst takes nothing, src is not read: backpressure reaches the sender
// through the kernel's buffers. It holds at most one read, sm.ScratchSize
// bytes, and that only while dst is blocked. Neither connection is closed, nor
// half-closed, at the end.
type Copy struct {
	dst, src *TCPConn
	out      WriteAll
	written  int64
	err      error
	state    copyState
}

type copyState uint8

const (
	copyReading copyState = iota // waits for src
	copyWriting                  // waits for dst
	copyDone
)

// String is the state by name, for Dump.
func (s copyState) String() string {
	return [...]string{"copyReading", "copyWriting", "copyDone"}[s]
}

// Start says what to move where. Nothing is read before Step.
func (c *Copy) Start(dst, src *TCPConn) { *c = Copy{dst: dst, src: src} }

// Step runs until the end of input, or an error on either side.
func (c *Copy) Step(t *sm.Task) sm.Await {
	if c.src == nil {
		panic("stepio: Copy.Step: not started")
	}
	for {
		switch c.state {
		case copyReading:
			n, err := c.src.Read(t.Scratch())
			if err == ErrWouldBlock {
				return c.src.again(sm.Read)
			}
			if err != nil {
				return c.end(err)
			}
			c.written += int64(n)
			c.out.Start(c.dst, t.Scratch()[:n])
			c.state = copyWriting
		case copyWriting:
			if a := c.out.Step(t); a.Pending() {
				return a
			}
			if err := c.out.Err(); err != nil {
				return c.end(err)
			}
			c.state = copyReading
		case copyDone:
			return sm.Done
		default:
			panic(fmt.Sprintf("stepio: Copy.Step: state %d", c.state))
		}
	}
}

func (c *Copy) end(err error) sm.Await {
	c.state = copyDone
	if err != io.EOF {
		c.err = err
	}
	return sm.Done
}

// Pending is how many bytes were read from src that dst has not taken; 0 once
// writing has failed.
func (c *Copy) Pending() int { return c.out.Pending() }

// Result is how many bytes were read from src and what ended it: nil is the end
// of input, after which all of them are written.
func (c *Copy) Result() (n int64, err error) { return c.written, c.err }

// Err is what ended the copy, nil for the end of input.
func (c *Copy) Err() error { return c.err }

// Close drops what dst has not taken. Both connections stay open.
func (c *Copy) Close() error { return c.out.Close() }

// Linger is the frame that closes a connection gracefully: it half-closes,
// reads and drops what still comes until the peer has finished or a deadline
// has passed, and closes. So what was written reaches the peer even when it has
// sent what nobody read: an early close would turn that into a reset, which
// takes the output along (RFC 1122, 4.2.2.13). Its deadline takes the place of
// the connection's own, which may be what has ended it. After CloseRead it cannot see
// whether the peer has finished, and closes once it has read what had come: that may be
// such an early close.
type Linger struct {
	conn  *TCPConn
	until time.Time
	err   error
	state lingerState
}

type lingerState uint8

const (
	lingerEnding   lingerState = iota // output to be ended
	lingerDraining                    // reads until the peer has finished
	lingerDone                        // the connection is closed
)

// String is the state by name, for Dump.
func (s lingerState) String() string {
	return [...]string{"lingerEnding", "lingerDraining", "lingerDone"}[s]
}

// Start says which connection to close, and by when at the latest. All output
// must have been handed to it. Nothing happens before Step.
func (l *Linger) Start(conn *TCPConn, deadline time.Time) { *l = Linger{conn: conn, until: deadline} }

// Step runs until the connection is closed.
func (l *Linger) Step(t *sm.Task) sm.Await {
	if l.conn == nil {
		panic("stepio: Linger.Step: not started")
	}
	for {
		switch l.state {
		case lingerEnding:
			if err := l.conn.CloseWrite(); err != nil {
				return l.end() // gone already: nothing to wait for
			}
			if err := l.conn.SetDeadline(time.Time{}); err != nil {
				return l.end()
			}
			l.state = lingerDraining
		case lingerDraining:
			if !t.Now().Before(l.until) {
				return l.end()
			}
			_, err := l.conn.Read(t.Scratch())
			if err == ErrWouldBlock {
				return l.conn.again(sm.Read).By(l.until)
			}
			if err != nil {
				return l.end()
			}
		case lingerDone:
			return sm.Done
		default:
			panic(fmt.Sprintf("stepio: Linger.Step: state %d", l.state))
		}
	}
}

func (l *Linger) end() sm.Await {
	l.state = lingerDone
	l.err = l.conn.Close()
	return sm.Done
}

// Err is what closing the descriptor has failed with.
func (l *Linger) Err() error { return l.err }

// Close closes the connection at once.
func (l *Linger) Close() error {
	if l.conn == nil || l.state == lingerDone {
		return nil
	}
	l.end()
	return l.err
}
