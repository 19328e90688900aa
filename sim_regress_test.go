//go:build linux || darwin

package stepio

import (
	"io"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// What the simulation has found in the library, each by itself.

// A direction that nobody waits for any more is disarmed. When the kernel refused
// that, the descriptor left the poller, and a task that waited for the other
// direction was never resumed (seed 14 of the first simulation).
func TestLoopWaiterSurvivesRefusedDisarming(t *testing.T) {
	bothRegistrations(t, func(t *testing.T, w *world) {
		c, p := w.pair()
		shrink(c, p)
		sent := fillForGood(t, c)
		reader := w.Spawn(&once{await: c.Readable()})
		writer := w.Spawn(&fake{step: func(*sm.Task) sm.Await {
			if _, err := c.Write([]byte("x")); err == ErrWouldBlock {
				return c.Writable()
			}
			return sm.Done
		}})
		w.turns(1)
		p.send([]byte("x"))
		w.ended(reader) // reading is armed, and nobody waits for it
		w.faults.fail(callPollModify, syscall.ENOMEM)
		p.send([]byte("y"))
		w.until("disarming was refused", func() bool { return len(w.faults.script[callPollModify]) == 0 })
		require.False(t, writer.Ended())
		w.alongside(func() { p.recv(sent) })
		w.ended(writer)
	})
}

// ReadET gives the bytes that came before an error, and keeps the error for the next
// read: the kernel tells it once. Detach dropped it, and whoever took the descriptor
// over read an end of input: a stream that a reset had cut short looked complete.
func TestDetachDoesNotHideAResetThatCameAfterData(t *testing.T) {
	w := newTestLoop(t)
	c, p := w.pair()
	p.send([]byte("abc"))
	arrived(c)
	p.reset()
	w.ended(w.Spawn(&once{await: c.Readable()}))
	n, err := c.ReadET(make([]byte, 8))
	assert.NoError(t, err)
	assert.Equal(t, 3, n)
	fd, err := c.Detach()
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.Equal(t, -1, fd)
	_, err = c.Read(make([]byte, 8))
	assert.ErrorIs(t, err, syscall.ECONNRESET, "the connection is as it was")
}

// A write may be told first that the connection has failed; the kernel tells it once.
// Detach did not look, and whoever took the descriptor over read an end of input.
func TestDetachDoesNotHideAResetThatAWriteHasFound(t *testing.T) {
	w := newTestLoop(t)
	c, p := w.pair()
	p.reset()
	pollFD(c.FD(), pollEnd, patience)
	_, err := c.Write([]byte("x"))
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	fd, err := c.Detach()
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.Equal(t, -1, fd)
	_, err = c.Read(make([]byte, 8))
	assert.ErrorIs(t, err, syscall.ECONNRESET, "the connection is as it was")
}

// A connection fails in other ways than by its peer: an administrator ends it (ss -K,
// ECONNABORTED), or its time is up after a router has said that the host is down. Of
// these only some were kept for the reads, and to the others a stream that was cut
// short looked complete. EPIPE is the end of this side's output, and ENOBUFS says
// nothing about the connection.
func TestWhateverEndsAConnectionIsNoEndOfInput(t *testing.T) {
	for _, c := range []struct{ told, read error }{
		{syscall.ECONNABORTED, syscall.ECONNABORTED},
		{syscall.EHOSTDOWN, syscall.EHOSTDOWN},
		{syscall.ENETDOWN, syscall.ENETDOWN},
		{syscall.ETIMEDOUT, syscall.ETIMEDOUT},
		{syscall.EPIPE, io.EOF},
		{syscall.ENOBUFS, io.EOF},
	} {
		w := newFaultyLoop(t)
		conn, peer := w.pair()
		w.faults.fail(callWrite, c.told.(syscall.Errno))
		_, err := conn.Write([]byte("x"))
		assert.ErrorIs(t, err, c.told)
		peer.closeWrite()
		pollFD(conn.FD(), pollEnd, patience)
		_, err = conn.Read(make([]byte, 8))
		assert.ErrorIs(t, err, c.read, "after %v", c.told)
	}
}

// The end of input, or what the connection has failed with, is told to one task; to
// another that waits for an edge after that no event comes any more, and it was
// never resumed (seed 46217).
func TestLoopEdgeOfAnEndIsThereForTheNextWaiter(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*peer)
		want error
	}{
		{"the end of input", (*peer).closeWrite, io.EOF},
		{"a reset", (*peer).reset, syscall.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, p := w.pair()
			read := func() (*sm.Task, *error) {
				told, waited := new(error), false
				return w.Spawn(&fake{step: func(task *sm.Task) sm.Await {
					if !waited {
						waited = true
						return conn.ReadableET()
					}
					_, *told = conn.Read(task.Scratch())
					return sm.Done
				}}), told
			}
			first, told := read()
			w.turns(1)
			c.end(p)
			w.ended(first)
			require.ErrorIs(t, *told, c.want)
			second, told := read()
			w.ended(second)
			require.ErrorIs(t, *told, c.want)
		})
	}
}
