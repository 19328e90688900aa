//go:build linux || darwin

package stepio

import (
	"bytes"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// A kernel may report events in any order, late, twice, and for nothing; calls
// may be interrupted. Nothing of that may lose a byte, a connection or a wake.
func TestLoopUnderChaos(t *testing.T) {
	rnd := seededRand(t)
	w := newFaultyLoop(t)
	var held []event
	w.faults.onWait = func(events []event) []event {
		var out []event
		for _, ev := range append(held, events...) {
			switch rnd.IntN(8) {
			case 0: // once more
				out = append(out, ev, ev)
			case 1: // for nothing
				out = append(out, event{key: ev.key, ready: readyRead | readyWrite}, ev)
			default:
				out = append(out, ev)
			}
		}
		held = nil
		rnd.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
		if len(out) > 1 && rnd.IntN(2) == 0 { // late
			cut := 1 + rnd.IntN(len(out)-1)
			held = append(held, out[cut:]...)
			out = out[:cut]
			_ = w.Post(func() {}) // so that the next wait comes soon
		}
		return out
	}
	w.faults.interrupted = true

	ln := w.listen(ListenOptions{})
	w.spawn(func(task *sm.Task) sm.Await {
		for {
			c, err := ln.AcceptET(nil)
			if err != nil {
				require.Equal(t, ErrWouldBlock, err)
				return ln.ReadableET()
			}
			for _, c := range c {
				if c.FD()%2 == 0 {
					task.Spawn(&echoFrame{conn: c})
				} else {
					task.Spawn(newEdgeEcho(c))
				}
			}
		}
	})
	var clients []*chaosClient
	var tasks []*sm.Task
	for range 20 {
		cl := &chaosClient{dial: DialTCP(w.Loop, ln.Addr(), DialOptions{})}
		cl.sent = make([]byte, 1+rnd.IntN(60_000))
		for i := range cl.sent {
			cl.sent[i] = byte(rnd.Uint32())
		}
		clients = append(clients, cl)
		tasks = append(tasks, w.Spawn(cl))
		if rnd.IntN(3) == 0 {
			w.faults.fail(callAccept, syscall.EMFILE)
		}
	}
	pacer := w.spawn(func(task *sm.Task) sm.Await { // what is held back is looked at again
		return sm.Park.Until(task.Now().Add(time.Millisecond))
	})
	w.ended(tasks...)
	for i, cl := range clients {
		assert.True(t, bytes.Equal(cl.sent, cl.got), "client %d", i)
	}
	pacer.task.Destroy()
	w.faults.interrupted = false
	w.until("the echoes have ended", func() bool { return w.Tasks() == 1 })
}

// newEdgeEcho is an echo that is edge-triggered throughout.
func newEdgeEcho(c *TCPConn) *fake {
	var left []byte
	buf := make([]byte, 1000)
	ended := false
	f := &fake{close: c.Close}
	f.step = func(*sm.Task) sm.Await {
		for {
			if len(left) > 0 {
				n, err := c.Write(left)
				left = left[n:]
				if err == ErrWouldBlock {
					return c.WritableET()
				}
				if err != nil {
					return sm.Done
				}
			}
			if ended {
				return sm.Done
			}
			n, err := c.ReadET(buf)
			if err == ErrWouldBlock {
				return c.ReadableET()
			}
			left, ended = buf[:n], err != nil
		}
	}
	return f
}

// chaosClient dials, sends, half-closes and receives, sending and receiving at
// once.
type chaosClient struct {
	dial   Dial
	conn   *TCPConn
	sent   []byte
	at     int
	got    []byte
	closed bool
}

func (c *chaosClient) Step(t *sm.Task) sm.Await {
	if c.conn == nil {
		if a := c.dial.Step(t); a.Pending() {
			return a
		}
		var err error
		if c.conn, err = c.dial.Result(); err != nil {
			return sm.Done
		}
	}
	dirs := sm.Read
	if c.at < len(c.sent) {
		n, err := c.conn.Write(c.sent[c.at:])
		c.at += n
		if err == ErrWouldBlock {
			dirs |= sm.Write
		} else if err != nil {
			return sm.Done
		}
	}
	if c.at == len(c.sent) && !c.closed {
		c.closed = true
		if err := c.conn.CloseWrite(); err != nil {
			return sm.Done
		}
	}
	for {
		n, err := c.conn.Read(t.Scratch())
		c.got = append(c.got, t.Scratch()[:n]...)
		if err == ErrWouldBlock {
			return c.conn.Wait(dirs)
		}
		if err != nil {
			return sm.Done
		}
	}
}

func (c *chaosClient) Close() error {
	if c.conn != nil {
		return c.conn.Close()
	}
	return c.dial.Close()
}
