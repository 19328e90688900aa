package hostile

import (
	"errors"
	"io"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The library's end of a connection in the half-close matrix: a task that reads
// and one that writes, which do as they are told.

// patterned is what every stream of these tests consists of: a slip of a few
// bytes shows. Its length is no power of two, as that of buffers is.
var patterned = func() []byte {
	p := make([]byte, 1<<20+7)
	x := uint32(1)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}()

// pattern is at most n bytes of a stream, from an offset on; at least one.
func pattern(from, n int) []byte {
	p := patterned[from%len(patterned):]
	return p[:min(n, len(p))]
}

// follows reports whether p is what stands at an offset of the stream.
func follows(from int, p []byte) bool {
	for len(p) > 0 {
		want := pattern(from, len(p))
		if string(want) != string(p[:len(want)]) {
			return false
		}
		from += len(want)
		p = p[len(want):]
	}
	return true
}

var errWrong = errors.New("other bytes than were sent")

// check reads to the end of input, and says how much was right.
func check(r io.Reader) (got int, err error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if !follows(got, buf[:n]) {
			return got, errWrong
		}
		got += n
		if err == io.EOF {
			return got, nil
		}
		if err != nil {
			return got, err
		}
	}
}

// nearEnd runs both tasks and closes the connection when both have ended.
type nearEnd struct {
	conn    *stepio.TCPConn
	reader  nearReader
	writer  nearWriter
	both    sm.AllSettled
	started bool
	closes  int
}

func newNearEnd(c *stepio.TCPConn, edge bool) *nearEnd {
	n := &nearEnd{conn: c}
	n.reader.conn, n.reader.edge = c, edge
	n.writer.conn, n.writer.edge = c, edge
	return n
}

// Step implements sm.Frame.
func (n *nearEnd) Step(t *sm.Task) sm.Await {
	if !n.started {
		n.started = true
		n.both.Start(&n.reader, &n.writer)
	}
	return n.both.Step(t)
}

// Close implements sm.Frame's end.
func (n *nearEnd) Close() error {
	n.closes++
	return n.conn.Close()
}

// side is what the two have in common.
type side struct {
	conn  *stepio.TCPConn
	edge  bool
	task  *sm.Task
	waits bool // has come to a wait
	over  bool
	err   error // what it has ended with
}

func (s *side) wake() { s.task.Waker().Wake() }

func (s *side) wait(dir sm.Dir) sm.Await {
	s.waits = true
	if s.edge {
		return s.conn.WaitET(dir)
	}
	return s.conn.Wait(dir)
}

func (s *side) end(err error) sm.Await {
	s.over, s.err = true, err
	return sm.Done
}

// nearReader reads to the end, unless it is held. Held, it still is known to the
// poller, and waits for nothing.
type nearReader struct {
	side
	hold, held bool
	got        int // bytes
	wrong      bool
}

// Step implements sm.Frame.
func (r *nearReader) Step(t *sm.Task) sm.Await {
	if r.task == nil {
		r.task = t
		return r.wait(sm.Read).Until(t.Now()) // comes back at once
	}
	for {
		if r.hold {
			r.held = true
			return sm.Park
		}
		read := r.conn.Read
		if r.edge {
			read = r.conn.ReadET
		}
		n, err := read(t.Scratch())
		r.wrong = r.wrong || !follows(r.got, t.Scratch()[:n])
		r.got += n
		if err == stepio.ErrWouldBlock {
			return r.wait(sm.Read)
		}
		if err != nil {
			return r.end(err)
		}
	}
}

// nearWriter does nothing until it is told to fill the connection, after which it
// waits to write on, or to write so many tails, after which it ends.
type nearWriter struct {
	side
	state writerState
	tails int
	sent  int // bytes
}

type writerState uint8

const (
	writerParked  writerState = iota // has nothing to write
	writerFilling                    // writes until the kernel takes no more
	writerBlocked                    // waits to write on
	writerTailing                    // writes what is left
)

// String is the state by name, for Dump.
func (s writerState) String() string {
	return [...]string{"writerParked", "writerFilling", "writerBlocked", "writerTailing"}[s]
}

// begin has it go on in another state.
func (w *nearWriter) begin(s writerState, tails int) {
	w.state, w.tails = s, tails
	w.wake()
}

// Step implements sm.Frame.
func (w *nearWriter) Step(t *sm.Task) sm.Await {
	w.task = t
	if w.state == writerBlocked { // an event, or an error
		w.state, w.tails = writerTailing, 1
	}
	for first := true; ; first = false {
		if w.state == writerParked {
			w.waits = true
			return sm.Park
		}
		n, err := w.write()
		w.sent += n
		switch {
		case err == stepio.ErrWouldBlock && w.state == writerTailing:
			return w.wait(sm.Write)
		case err == stepio.ErrWouldBlock && (n > 0 || !first):
			return sm.Yield // it may be the step's budget that is used up
		case err == stepio.ErrWouldBlock:
			w.state = writerBlocked
			return w.wait(sm.Write)
		case err != nil || w.state == writerTailing && w.tails == 0:
			return w.end(err)
		}
	}
}

func (w *nearWriter) write() (n int, err error) {
	if w.state == writerFilling {
		return w.conn.Write(pattern(w.sent, 64<<10))
	}
	n, err = w.conn.Write(pattern(w.sent, tailSize))
	if err == nil {
		w.tails--
	}
	return n, err
}
