//go:build linux || darwin

package stepio

import (
	"errors"
	"fmt"
	"net"

	"github.com/stepio-go/stepio/sm"
)

// Serve is the frame that accepts for ever and starts a task for every
// connection. It stands for
//
//	for (;;) spawn(handle(co_await listener.async_accept()));
//
// It ends when the listener fails or is closed, with that error, and closes the
// listener when its task ends: to end it without an error that is reported,
// destroy its task, or shut the loop down: then it takes what is in the queue,
// and ends without an error. The frame that handle returns owns the
// connection: its Close closes it. A nil frame turns the connection away: it is
// closed. So is it when handle panics, which is reported and costs nobody else
// anything.
type Serve struct {
	ln     *TCPListener
	handle func(*TCPConn) sm.Frame
	err    error
}

// NewServe is a frame that accepts from ln and runs handle's frames, on ln's loop.
// The frame that handle returns owns the connection: its Close must close it, or
// nobody does.
func NewServe(ln *TCPListener, handle func(*TCPConn) sm.Frame) *Serve {
	if ln == nil || handle == nil {
		panic("stepio: NewServe: nil listener or handle")
	}
	return &Serve{ln: ln, handle: handle}
}

// Step accepts what is in the queue.
func (s *Serve) Step(t *sm.Task) sm.Await {
	for {
		conn, err := s.ln.Accept()
		if err == ErrWouldBlock {
			return s.ln.Readable()
		}
		if err != nil {
			if !t.Draining() || !errors.Is(err, net.ErrClosed) {
				s.err = err
			}
			return sm.Done
		}
		s.start(t, conn)
	}
}

// start has the connection handled. One that no frame owns is closed.
func (s *Serve) start(t *sm.Task, conn *TCPConn) {
	owned := false
	defer func() {
		if owned {
			return
		}
		if v := recover(); v != nil {
			s.ln.loop.tell(t, newPanicError(v))
		}
		if err := conn.Close(); err != nil {
			s.ln.loop.tell(t, err)
		}
	}()
	if frame := s.handle(conn); frame != nil {
		t.Spawn(frame)
		owned = true
	}
}

// Err is what the listener has failed with.
func (s *Serve) Err() error { return s.err }

// Close closes the listener.
func (s *Serve) Close() error { return s.ln.Close() }

// Inspect tells Dump where it listens.
func (s *Serve) Inspect() (state string, callee sm.Frame) {
	return fmt.Sprintf("listening on %v", s.ln.Addr()), nil
}
