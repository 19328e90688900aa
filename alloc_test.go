//go:build (linux || darwin) && !race

package stepio

import (
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// Nothing is allocated in the steady state. The real kernel is used, and no
// check mode: both are what production has. The race detector allocates.

// plainLoop is a loop as production has it.
func plainLoop(t *testing.T) *world {
	return newTestLoop(t, func(c *loopConfig) { c.check = false })
}

func assertAllocatesNothing(t *testing.T, runs int, fn func()) {
	t.Helper()
	for range 10 {
		fn() // what is kept for reuse is made here
	}
	assert.Zero(t, testing.AllocsPerRun(runs, fn))
}

func TestEchoAllocatesNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame func(c *TCPConn) sm.Frame
	}{
		{"level-triggered", func(c *TCPConn) sm.Frame { return &echoFrame{conn: c} }},
		{"edge-triggered", func(c *TCPConn) sm.Frame {
			return &fake{step: func(task *sm.Task) sm.Await {
				for {
					n, err := c.ReadET(task.Scratch())
					if err != nil {
						return c.ReadableET()
					}
					_, _ = c.Write(task.Scratch()[:n])
				}
			}}
		}},
		{"with a deadline that is moved at every request", func(c *TCPConn) sm.Frame {
			return &fake{step: func(task *sm.Task) sm.Await {
				for {
					n, err := c.Read(task.Scratch())
					if err != nil {
						return c.Readable()
					}
					_ = c.SetReadDeadline(task.Now().Add(time.Minute))
					_, _ = c.Write(task.Scratch()[:n])
				}
			}}
		}},
		{"with a deadline that is set and cleared", func(c *TCPConn) sm.Frame {
			return &fake{step: func(task *sm.Task) sm.Await {
				for {
					n, err := c.Read(task.Scratch())
					if err != nil {
						_ = c.SetReadDeadline(task.Now().Add(time.Minute))
						return c.Readable()
					}
					_ = c.SetReadDeadline(time.Time{})
					_, _ = c.Write(task.Scratch()[:n])
				}
			}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := plainLoop(t)
			conn, peer := w.pair()
			require.NoError(t, unix.SetNonblock(peer.fd, false))
			w.Spawn(c.frame(conn))
			w.turns(2)
			buf := make([]byte, 64)
			assertAllocatesNothing(t, 200, func() {
				if _, err := unix.Write(peer.fd, buf); err != nil {
					panic(err)
				}
				if err := w.turn(); err != nil { // waits for the request
					panic(err)
				}
				if n, err := unix.Read(peer.fd, buf); err != nil || n != len(buf) {
					panic(err)
				}
			})
		})
	}
}

func TestBlockedWriteAllocatesNothing(t *testing.T) {
	w := plainLoop(t)
	conn, peer := w.pair()
	shrink(conn, peer)
	message := make([]byte, 32<<10) // more than the smallest buffer takes
	var out WriteAll
	f := w.spawn(func(task *sm.Task) sm.Await {
		if out.conn == nil || task.Woken() && out.Pending() == 0 {
			out.Start(conn, message)
		}
		if a := out.Step(task); a.Pending() {
			return a
		}
		return sm.Park
	})
	w.turns(2)
	buf := make([]byte, 64<<10)
	blocked := 0
	assertAllocatesNothing(t, 50, func() {
		f.task.Waker().Wake()
		for {
			if err := w.turn(); err != nil {
				panic(err)
			}
			if out.Pending() == 0 {
				break
			}
			blocked++
			_, _ = unix.Read(peer.fd, buf)
		}
	})
	assert.Positive(t, blocked, "or this tests nothing")
}

func TestWakeAndPostAllocateNothing(t *testing.T) {
	w := plainLoop(t)
	f := w.spawn(nil)
	fn := func() {}
	assertAllocatesNothing(t, 200, func() {
		f.task.Waker().Wake()
		if err := w.Post(fn); err != nil {
			panic(err)
		}
		w.mail.alert.Store(false)
		w.mail.notify() // the eventfd, too
		if err := w.turn(); err != nil {
			panic(err)
		}
	})
}

func TestTimerAllocatesNothing(t *testing.T) {
	w := plainLoop(t)
	var when time.Time
	f := w.spawn(func(task *sm.Task) sm.Await {
		return sm.Park.By(task.Now().Add(time.Hour)).Until(when)
	})
	w.turns(1)
	assertAllocatesNothing(t, 200, func() { // set and cancelled
		f.task.Waker().Wake()
		if err := w.turn(); err != nil {
			panic(err)
		}
	})
	assertAllocatesNothing(t, 20, func() { // set and fired
		when = time.Now()
		f.task.Waker().Wake()
		for range 3 {
			if err := w.turn(); err != nil {
				panic(err)
			}
		}
	})
}

func TestRawReadinessAllocatesNothing(t *testing.T) {
	for _, c := range awaits {
		if c.dir != sm.Read {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			w := plainLoop(t)
			r, far := pipe(t)
			w.spawn(func(task *sm.Task) sm.Await {
				for {
					if _, err := unix.Read(r, task.Scratch()); err != nil {
						return c.await(w.Loop, r)
					}
				}
			})
			w.turns(1)
			one := []byte{1}
			assertAllocatesNothing(t, 200, func() {
				_, _ = unix.Write(far, one)
				if err := w.turn(); err != nil {
					panic(err)
				}
			})
			require.NoError(t, w.Remove(r))
		})
	}
}

// The sizes of what exists once a connection: growth is a decision.
func TestSizes(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("the budget is for 64-bit machines")
	}
	assert.EqualValues(t, 24, unsafe.Sizeof(TCPConn{}), "TCPConn")
	assert.EqualValues(t, 16, unsafe.Sizeof(slot{}), "slot")
	assert.EqualValues(t, 32, unsafe.Sizeof(WriteAll{}), "WriteAll")
	assert.EqualValues(t, 48, unsafe.Sizeof(echoFrame{}), "echo frame")
	assert.EqualValues(t, 8, unsafe.Sizeof(Input{}), "Input")
	assert.EqualValues(t, 80, unsafe.Sizeof(sm.Task{}), "Task")
}
