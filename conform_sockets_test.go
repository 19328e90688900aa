//go:build linux || darwin

package stepio

import (
	"bytes"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// Conformance of what sockets need from the poller: accepting, connecting,
// datagrams, and bytes in both directions at once.

// listenTCP is a listener of the loop.
func (h *host) listenTCP() *TCPListener {
	ln, err := ListenTCP(h.Loop, loopback, ListenOptions{Backlog: 16})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { assert.NoError(h.t, ln.Close()) })
	return ln
}

// listenUDP is a datagram socket of the loop.
func (h *host) listenUDP() *UDPConn {
	c, err := ListenUDP(h.Loop, loopback, ListenUDPOptions{})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { assert.NoError(h.t, c.Close()) })
	return c
}

// dialing spawns a frame that connects, and keeps what comes of it.
func (h *host) dialing(addr netip.AddrPort, options DialOptions) (task *sm.Task, err *error) {
	err = new(error)
	d := DialTCP(h.Loop, addr, options)
	return h.Spawn(script(d.Step, func(*sm.Task) sm.Await {
		var c *TCPConn
		if c, *err = d.Result(); *err == nil {
			h.conns = append(h.conns, c)
		}
		return sm.Done
	})), err
}

// sendTo sends a datagram.
func (f *far) sendTo(to netip.AddrPort, data string) {
	f.h.t.Helper()
	require.Zero(f.h.t, f.h.net.sendTo(f.fd, []byte(data), to))
}

var conformSockets = []conformCase{
	{name: "connections that wait are accepted one by one", run: func(h *host) {
		ln := h.listenTCP()
		for range 5 {
			h.connect(ln.Addr())
		}
		h.arrived(ln.FD(), readyRead)
		accepted := 0
		task := h.spawn(func(*sm.Task) sm.Await {
			c, err := ln.Accept()
			if err == nil {
				h.conns = append(h.conns, c)
				accepted++
			}
			if accepted == 7 {
				return sm.Done
			}
			return ln.Readable()
		})
		h.pump("five are accepted", func() bool { return accepted == 5 })
		h.connect(ln.Addr())
		h.connect(ln.Addr())
		h.ended(task.task)
	}},
	{name: "edge-triggered, the queue is drained, and later connections make new edges", run: func(h *host) {
		ln := h.listenTCP()
		h.spawn(func(*sm.Task) sm.Await {
			for {
				conns, err := ln.AcceptET(nil)
				h.conns = append(h.conns, conns...)
				if err != nil {
					assert.Equal(h.t, ErrWouldBlock, err)
					return ln.ReadableET()
				}
			}
		})
		h.turns(2)
		for round := range 3 {
			for range 4 {
				h.connect(ln.Addr())
			}
			h.pump("four are accepted", func() bool { return len(h.conns) == 4*(round+1) })
		}
	}},
	{name: "edge-triggered, an acceptor that stops early goes on without a new edge", run: func(h *host) {
		ln := h.listenTCP()
		for range 6 {
			h.connect(ln.Addr())
		}
		h.arrived(ln.FD(), readyRead)
		task := h.spawn(func(*sm.Task) sm.Await {
			c, err := ln.Accept() // one a step
			if err == nil {
				h.conns = append(h.conns, c)
			}
			if len(h.conns) == 6 {
				return sm.Done
			}
			return ln.ReadableET()
		})
		h.ended(task.task)
	}},
	{name: "a connection that is made is told", run: func(h *host) {
		_, addr := h.listener(4)
		task, err := h.dialing(addr, DialOptions{})
		h.ended(task)
		assert.NoError(h.t, *err)
	}},
	{name: "a connection that is refused is told", run: func(h *host) {
		f, addr := h.bound(unix.SOCK_STREAM) // and does not listen
		task, err := h.dialing(addr, DialOptions{})
		h.ended(task)
		assert.ErrorIs(h.t, *err, syscall.ECONNREFUSED)
		f.close()
	}},
	{name: "a connection that nobody answers ends at its deadline", run: func(h *host) {
		_, addr := h.listener(1)
		for range 4 { // more than the queue takes
			h.connect(addr)
		}
		task, err := h.dialing(addr, DialOptions{Deadline: h.Now().Add(30 * time.Millisecond)})
		h.ended(task)
		assert.ErrorIs(h.t, *err, os.ErrDeadlineExceeded)
	}},
	{name: "a dial that is destroyed leaves nothing", run: func(h *host) {
		_, addr := h.listener(1)
		for range 4 {
			h.connect(addr)
		}
		d := DialTCP(h.Loop, addr, DialOptions{})
		f := &fake{step: d.Step, close: d.Close}
		task := h.Spawn(f)
		h.turns(2)
		task.Destroy()
		assert.Equal(h.t, 1, f.closes)
	}},
	{name: "a datagram resumes its reader, also one of no bytes", run: func(h *host) {
		c := h.listenUDP()
		f, _ := h.bound(unix.SOCK_DGRAM)
		var got []string
		reader := h.spawn(func(t *sm.Task) sm.Await {
			for {
				n, _, err := c.ReadFrom(t.Scratch())
				if err == ErrWouldBlock {
					return c.Readable()
				}
				assert.NoError(h.t, err)
				got = append(got, string(t.Scratch()[:n]))
				if len(got) == 3 {
					return sm.Done
				}
			}
		})
		h.turns(2)
		for _, message := range []string{"a", "", "c"} {
			f.sendTo(c.LocalAddr(), message)
			h.pump("it is read", func() bool { return len(got) > 0 && got[len(got)-1] == message })
		}
		h.ended(reader.task)
		assert.Equal(h.t, []string{"a", "", "c"}, got)
	}},
	{name: "edge-triggered, a batch of datagrams keeps them apart and loses none", run: func(h *host) {
		c := h.listenUDP()
		f, _ := h.bound(unix.SOCK_DGRAM)
		got := make(map[string]bool)
		batch := NewBatch(3, 64)
		reader := h.spawn(func(*sm.Task) sm.Await {
			for {
				n, err := c.ReadFromET(batch)
				for _, d := range batch[:n] {
					got[string(d.Data)] = true
				}
				if len(got) == 10 {
					return sm.Done
				}
				if err == ErrWouldBlock {
					return c.ReadableET()
				}
				assert.NoError(h.t, err)
			}
		})
		h.turns(2)
		for i := range 10 {
			f.sendTo(c.LocalAddr(), string(rune('a'+i)))
			if i == 6 {
				h.pump("seven are read", func() bool { return len(got) == 7 })
			}
		}
		h.ended(reader.task)
	}},
	{name: "a datagram that is refused is the reader's error, and reading goes on", run: func(h *host) {
		bothModes(func(et bool) {
			f, addr := h.bound(unix.SOCK_DGRAM)
			f.close() // nobody is there
			c, err := DialUDP(h.Loop, addr, DialUDPOptions{})
			require.NoError(h.t, err)
			h.t.Cleanup(func() { assert.NoError(h.t, c.Close()) })
			var failed error
			reader := h.spawn(func(t *sm.Task) sm.Await {
				if _, failed = c.Read(t.Scratch()); failed != ErrWouldBlock {
					return sm.Done
				}
				if et {
					return c.ReadableET()
				}
				return c.Readable()
			})
			h.turns(2)
			_, err = c.Write([]byte("x"))
			require.NoError(h.t, err)
			h.ended(reader.task)
			assert.ErrorIs(h.t, failed, syscall.ECONNREFUSED)
			waits, tasks := h.waiting(c.Readable().By(h.Now().Add(2 * time.Millisecond)))
			if et {
				tasks[0].Destroy()
				waits, tasks = h.waiting(c.ReadableET().By(h.Now().Add(2 * time.Millisecond)))
			}
			h.ended(tasks...)
			assert.LessOrEqual(h.t, waits[0].steps, 2)
		})
	}},
	{name: "a writer that is blocked takes what comes meanwhile", run: func(h *host) {
		c, f := h.narrow()
		const size = 100_000
		var out WriteAll
		out.Start(c, bytes.Repeat([]byte("o"), size))
		in := 0
		task := h.spawn(func(t *sm.Task) sm.Await {
			wait := out.Step(t)
			for {
				n, err := c.Read(t.Scratch())
				in += n
				if err != nil {
					break
				}
			}
			if wait.Pending() || in < size/10 {
				return c.Readable().Or(wait)
			}
			return sm.Done
		})
		f.send(string(bytes.Repeat([]byte("i"), size/10)))
		h.pump("all has come in", func() bool { return in == size/10 })
		assert.False(h.t, task.task.Ended(), "nobody has read what goes out")
		assert.Len(h.t, f.recv(size), size)
		h.ended(task.task)
		require.NoError(h.t, out.Err())
	}},
	{name: "an echo through small buffers returns every byte in its order", run: func(h *host) { h.echoes(1 << 16) }},
	{name: "an echo goes on under signals", needs: needsSignals, run: func(h *host) {
		if h.back.interrupt != nil {
			defer h.back.interrupt(h.t)()
		}
		h.echoes(1 << 15)
		end := h.Now().Add(20 * time.Millisecond)
		h.ended(h.Spawn(sleeper(end)))
		assert.False(h.t, h.Now().Before(end))
	}},
}

// echoes sends size bytes to an echo and compares what comes back.
func (h *host) echoes(size int) {
	c, f := h.narrow()
	h.Spawn(&echoFrame{conn: c})
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*i>>8 ^ i)
	}
	var back []byte
	sent, buf := 0, make([]byte, 4096)
	h.pump("the echo", func() bool {
		if n, errno := h.net.write(f.fd, data[sent:min(sent+3000, size)]); errno == 0 && sent < size {
			sent += n
		}
		n, errno := h.net.read(f.fd, buf)
		if errno != 0 {
			assert.Equal(h.t, unix.EAGAIN, errno)
		}
		back = append(back, buf[:n]...)
		return len(back) >= size
	})
	assert.True(h.t, bytes.Equal(data, back), "it differs")
}
