//go:build linux || darwin

package stepio

import (
	"fmt"

	"github.com/stepio-go/stepio/sm"
)

// WriteAll is the frame that sends all of a message:
//
//	f.out.Start(conn, msg)
//	...
//	if a := f.out.Step(t); a.Pending() {
//		return a
//	}
//	err := f.out.Err()
//
// Start sends what the socket takes at once and keeps a copy of the rest only,
// so the message may live in t.Scratch(), and an idle WriteAll owns no memory.
// The zero WriteAll has nothing to send: its Step is Done.
type WriteAll struct {
	conn *TCPConn
	rest *buffer // what is not sent yet; nil when all is
	err  error
}

// Start begins to send p on conn. p is the caller's again when Start returns.
// It panics while an earlier message is not sent: see Pending. Loop only.
func (w *WriteAll) Start(conn *TCPConn, p []byte) {
	w.begin(conn)
	n, err := conn.Write(p)
	if err != nil && w.goesOn(err) {
		w.rest = conn.loop.spares.take(len(p) - n)
		w.rest.data = append(w.rest.data, p[n:]...)
		w.rest.fresh = true
	}
}

// StartShared is Start without the copy: p must not change until the frame is
// done. For a message that many connections get, or that lives for ever.
func (w *WriteAll) StartShared(conn *TCPConn, p []byte) {
	w.begin(conn)
	n, err := conn.Write(p)
	if err != nil && w.goesOn(err) {
		w.rest = conn.loop.spares.borrow(p[n:])
		w.rest.fresh = true
	}
}

// begin makes w ready for a message.
func (w *WriteAll) begin(conn *TCPConn) {
	if w.rest != nil {
		panic("stepio: WriteAll.Start: the last message is not sent yet")
	}
	w.conn, w.err = conn, nil
}

// goesOn reports whether the rest of a message is still to be sent, after a write
// that has not taken all. If not, it keeps the error.
func (w *WriteAll) goesOn(err error) bool {
	if err == ErrWouldBlock {
		return true
	}
	w.err = err
	return false
}

// Step runs until all is sent, or sending has failed.
func (w *WriteAll) Step(*sm.Task) sm.Await {
	if w.rest == nil {
		return sm.Done
	}
	if w.rest.fresh { // the socket was full a moment ago: do not ask again
		w.rest.fresh = false
		return w.conn.again(sm.Write)
	}
	n, err := w.conn.Write(w.rest.left())
	w.rest.begin += n
	switch err {
	case nil:
	case ErrWouldBlock:
		return w.conn.again(sm.Write)
	default:
		w.err = err
	}
	w.drop()
	return sm.Done
}

// Pending is how many bytes are not sent yet: 0 when Start may be called.
func (w *WriteAll) Pending() int {
	if w.rest == nil {
		return 0
	}
	return len(w.rest.left())
}

// Err is what the last message has failed with, nil while it has not.
func (w *WriteAll) Err() error { return w.err }

// Close drops what is not sent. The connection stays open. An owner that closes
// the connection as well need not call it: the memory goes to the collector then,
// instead of back to the loop.
func (w *WriteAll) Close() error {
	w.drop()
	return nil
}

func (w *WriteAll) drop() {
	if w.rest != nil {
		w.rest.give()
		w.rest = nil
	}
}

// Inspect tells Dump how much is left.
func (w *WriteAll) Inspect() (state string, callee sm.Frame) {
	if w.rest == nil {
		return "", nil
	}
	return fmt.Sprintf("%d bytes left", w.Pending()), nil
}
