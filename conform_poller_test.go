//go:build linux || darwin

package stepio

import (
	"math"
	"slices"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// Conformance of the poller by itself, without the loop: what it reports, when,
// and how often.

const inOut = sm.Read | sm.Write

// bare is a pair whose descriptor the case registers by itself.
func (h *host) bare() (fd int, f *far) {
	c, f := h.pair()
	return c.FD(), f
}

// add registers fd with its number as the key.
func (h *host) add(fd int, dirs sm.Dir, edge bool) {
	h.t.Helper()
	require.NoError(h.t, h.polls.add(fd, uint64(fd), dirs, edge))
}

// modify changes that.
func (h *host) modify(fd int, was, dirs sm.Dir, edge bool) {
	h.t.Helper()
	require.NoError(h.t, h.polls.modify(fd, uint64(fd), was, dirs, edge))
}

// reports waits until something is reported and returns it.
func (h *host) reports() []event {
	h.t.Helper()
	events := make([]event, 64)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		n, err := h.polls.wait(events, patience)
		require.NoError(h.t, err)
		if n > 0 { // not a signal
			return events[:n]
		}
	}
	require.FailNow(h.t, "nothing is reported")
	return nil
}

// told waits for one event, of fd, and returns what it says.
func (h *host) told(fd int) readiness {
	h.t.Helper()
	events := h.reports()
	require.Len(h.t, events, 1)
	require.Equal(h.t, uint64(fd), events[0].key)
	return events[0].ready
}

// quiet asserts that nothing is reported.
func (h *host) quiet(why string) {
	h.t.Helper()
	events := make([]event, 64)
	for range 3 {
		n, err := h.polls.wait(events, 0)
		require.NoError(h.t, err)
		assert.Empty(h.t, events[:n], why)
	}
}

// readFD takes n bytes from a descriptor that has them.
func (h *host) readFD(fd, n int) {
	h.t.Helper()
	got, errno := h.net.read(fd, make([]byte, n))
	require.Zero(h.t, errno)
	require.Equal(h.t, n, got)
}

var conformPoller = []conformCase{
	{name: "an event carries the key that its descriptor was registered with", run: func(h *host) {
		a, farA := h.bare()
		b, farB := h.bare()
		keyA, keyB := key(a, 0x80000001), key(b, math.MaxUint32-7)
		require.NoError(h.t, h.polls.add(a, keyA, sm.Read, false))
		require.NoError(h.t, h.polls.add(b, keyB, sm.Read, false))
		farA.send("a")
		farB.send("b")
		h.arrived(a, readyRead)
		h.arrived(b, readyRead)
		assert.ElementsMatch(h.t, []event{{keyA, readyRead}, {keyB, readyRead}}, h.reports())
	}},
	{name: "a modified registration has the new key", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, sm.Read, false)
		require.NoError(h.t, h.polls.modify(fd, 7<<40, sm.Read, inOut, false))
		f.send("x")
		h.arrived(fd, readyRead)
		assert.Equal(h.t, []event{{7 << 40, readyRead | readyWrite}}, h.reports())
	}},
	{name: "who asks for data is not told of room", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, sm.Read, false)
		h.quiet("there is room, and no data")
		f.send("x")
		assert.Equal(h.t, readyRead, h.told(fd))
	}},
	{name: "who asks for room is not told of data", run: func(h *host) {
		fd, f := h.bare()
		h.fill(fd)
		h.add(fd, sm.Write, false)
		f.send("x")
		h.arrived(fd, readyRead)
		h.quiet("there is data, and no room")
	}},
	{name: "a descriptor that is ready for both is one event", run: func(h *host) {
		fd, f := h.bare()
		f.send("x")
		h.arrived(fd, readyRead)
		for _, edge := range []bool{false, true} {
			h.add(fd, inOut, edge)
			assert.Equal(h.t, readyRead|readyWrite, h.told(fd))
			require.NoError(h.t, h.polls.remove(fd, inOut))
		}
	}},
	{name: "level-triggered: data is told until it is read", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, sm.Read, false)
		f.send("xy")
		for range 3 {
			assert.Equal(h.t, readyRead, h.told(fd))
		}
		h.readFD(fd, 1)
		assert.Equal(h.t, readyRead, h.told(fd), "one is left")
		h.readFD(fd, 1)
		h.quiet("it is empty")
	}},
	{name: "edge-triggered: data is told once, and again when more comes", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, sm.Read, true)
		for range 3 {
			f.send("x")
			assert.Equal(h.t, readyRead, h.told(fd))
			h.quiet("nothing has come since")
		}
	}},
	{name: "edge-triggered: a part that is read makes no new edge", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, sm.Read, true)
		f.send("xy")
		assert.Equal(h.t, readyRead, h.told(fd))
		h.readFD(fd, 1)
		h.quiet("the rest was told")
	}},
	{name: "edge-triggered: room is told once, and again after there was none", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, sm.Write, true)
		assert.Equal(h.t, readyWrite, h.told(fd))
		h.quiet("nothing has changed since")
		h.fill(fd)
		h.quiet("it is full")
		events, n, drained := make([]event, 1), 0, make([]byte, 64<<10)
		for end := time.Now().Add(patience); n == 0 && time.Now().Before(end); {
			_, _ = h.net.read(f.fd, drained) // there may be nothing before the next wait
			var err error
			n, err = h.polls.wait(events, 0)
			require.NoError(h.t, err)
		}
		assert.Equal(h.t, []event{{uint64(fd), readyWrite}}, events[:n])
	}},
	{name: "level-triggered: what is ready already is told when it is added", run: func(h *host) {
		fd, f := h.bare()
		f.send("x")
		h.arrived(fd, readyRead)
		h.add(fd, sm.Read, false)
		assert.Equal(h.t, readyRead, h.told(fd))
	}},
	{name: "edge-triggered: what is ready already is told when it is added", run: func(h *host) {
		fd, f := h.bare()
		f.send("x")
		h.arrived(fd, readyRead)
		h.add(fd, sm.Read, true)
		assert.Equal(h.t, readyRead, h.told(fd))
		h.quiet("once")
	}},
	{name: "edge-triggered: a registration that grows looks at both directions anew", run: func(h *host) {
		fd, f := h.bare()
		f.send("x")
		h.arrived(fd, readyRead)
		h.add(fd, sm.Read, true)
		assert.Equal(h.t, readyRead, h.told(fd))
		h.modify(fd, sm.Read, inOut, true)
		assert.Equal(h.t, readyRead|readyWrite, h.told(fd))
	}},
	{name: "a registration that shrinks is told the rest only", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, inOut, false)
		assert.Equal(h.t, readyWrite, h.told(fd))
		h.modify(fd, inOut, sm.Read, false)
		h.quiet("room concerns nobody now")
		f.send("x")
		assert.Equal(h.t, readyRead, h.told(fd))
	}},
	{name: "a registration that changes direction is told of the new one only", run: func(h *host) {
		fd, f := h.bare()
		f.send("x")
		h.arrived(fd, readyRead)
		h.add(fd, sm.Read, false)
		h.modify(fd, sm.Read, sm.Write, false)
		assert.Equal(h.t, readyWrite, h.told(fd))
	}},
	{name: "a registration for no direction is told nothing, and can grow again", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, inOut, false)
		h.modify(fd, inOut, 0, false)
		f.send("x")
		h.arrived(fd, readyRead)
		h.quiet("nobody has asked")
		h.modify(fd, 0, sm.Read, false)
		assert.Equal(h.t, readyRead, h.told(fd))
	}},
	{name: "levels can become edges, and edges levels", run: func(h *host) {
		fd, f := h.bare()
		f.send("x")
		h.arrived(fd, readyRead)
		h.add(fd, sm.Read, false)
		for range 2 {
			assert.Equal(h.t, readyRead, h.told(fd))
			h.modify(fd, sm.Read, sm.Read, true)
			assert.Equal(h.t, readyRead, h.told(fd), "it looks anew")
			h.quiet("an edge")
			h.modify(fd, sm.Read, sm.Read, false)
			assert.Equal(h.t, readyRead, h.told(fd), "a level")
		}
	}},
	{name: "a removed descriptor is told nothing, and can be added again", run: func(h *host) {
		fd, f := h.bare()
		h.add(fd, inOut, false)
		require.NoError(h.t, h.polls.remove(fd, inOut))
		f.send("x")
		h.arrived(fd, readyRead)
		h.quiet("it was removed")
		h.add(fd, sm.Read, true)
		assert.Equal(h.t, readyRead, h.told(fd))
	}},
	{name: "a close ends a registration, and its number can be added anew", run: func(h *host) {
		near, f := h.bareFar()
		fd := near.fd
		h.add(fd, sm.Read, false)
		f.send("x")
		h.arrived(fd, readyRead)
		near.close()
		h.quiet("it was closed")
		again, g := h.bareFar()
		require.Equal(h.t, fd, min(again.fd, g.fd), "the number is used again")
		if again.fd != fd {
			again, g = g, again
		}
		require.NoError(h.t, h.polls.add(fd, key(fd, 1), sm.Read, false))
		h.quiet("the new one has no data")
		g.send("y")
		assert.Equal(h.t, []event{{key(fd, 1), readyRead}}, h.reports())
	}},
	{name: "more descriptors than a wait has room for: each has its turn", run: func(h *host) {
		seen := make(map[uint64]int)
		h.crowd(20, false)
		events := make([]event, 4)
		for range 5 {
			n, err := h.polls.wait(events, patience)
			require.NoError(h.t, err)
			assert.Equal(h.t, 4, n)
			for _, ev := range events[:n] {
				seen[ev.key]++
			}
		}
		assert.Len(h.t, seen, 20, "who has been told once does not come before those who have not")
	}},
	{name: "more edges than a wait has room for: each is told once", run: func(h *host) {
		h.crowd(20, true)
		var keys []uint64
		events := make([]event, 3)
		for len(keys) < 20 {
			n, err := h.polls.wait(events, patience)
			require.NoError(h.t, err)
			require.LessOrEqual(h.t, n, 3)
			for _, ev := range events[:n] {
				keys = append(keys, ev.key)
			}
		}
		slices.Sort(keys)
		assert.Len(h.t, slices.Compact(keys), 20)
		h.quiet("all were told")
	}},
	{name: "a queue of connections is told until it is empty", run: func(h *host) {
		ln, addr := h.listener(8)
		h.connect(addr)
		h.connect(addr)
		h.add(ln.fd, sm.Read, false)
		assert.Equal(h.t, readyRead, h.told(ln.fd))
		ln.accept()
		h.arrived(ln.fd, readyRead)
		assert.Equal(h.t, readyRead, h.told(ln.fd), "one is left")
		ln.accept()
		h.quiet("it is empty")
		h.connect(addr)
		assert.Equal(h.t, readyRead, h.told(ln.fd))
	}},
	{name: "the end of the peer's data is no hang-up", run: func(h *host) {
		for _, edge := range []bool{false, true} {
			fd, f := h.bare()
			h.add(fd, sm.Read, edge)
			f.send("x")
			f.closeWrite()
			h.arrived(fd, readyEnd)
			assert.Equal(h.t, readyRead|readyEnd, h.told(fd))
			require.NoError(h.t, h.polls.remove(fd, sm.Read))
		}
	}},
	{name: "one's own end is no event for a reader", run: func(h *host) {
		fd, _ := h.bare()
		h.add(fd, sm.Read, false)
		require.Zero(h.t, h.net.shutdown(fd, unix.SHUT_WR))
		h.quiet("the peer has not finished")
	}},
	{name: "a reset concerns both directions, whichever was asked for", run: func(h *host) {
		for _, dirs := range []sm.Dir{sm.Read, sm.Write, inOut} {
			for _, edge := range []bool{false, true} {
				fd, f := h.bare()
				h.fill(fd)
				h.add(fd, dirs, edge)
				f.reset()
				h.arrived(fd, readyEnd)
				assert.Equal(h.t, inOut, h.told(fd).dirs(), "asked for %v, edge %t", dirs, edge)
				require.NoError(h.t, h.polls.remove(fd, dirs))
			}
		}
	}},
}

// bareFar is two ends of a connection, of which the loop knows nothing.
func (h *host) bareFar() (near, f *far) {
	ln, addr := h.listener(1)
	f = h.connect(addr)
	near = ln.accept()
	ln.reset()
	return near, f
}

// crowd registers n descriptors that have data.
func (h *host) crowd(n int, edge bool) {
	for range n {
		fd, f := h.bare()
		f.send("x")
		h.arrived(fd, readyRead)
		h.add(fd, sm.Read, edge)
	}
}
