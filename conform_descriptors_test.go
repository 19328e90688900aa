//go:build linux || darwin

package stepio

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// Conformance of descriptors that are no connections, and of what is no
// descriptor that can be polled.

var conformDescriptors = []conformCase{
	{name: "a pipe is awaited as a socket is", needs: needsPipes, run: func(h *host) {
		for _, kind := range awaits {
			r, w := pipe(h.t.(*testing.T))
			fd := r
			provoke := func() { newUnownedPeer(h.t, w).send([]byte("x")) }
			if kind.dir == sm.Write {
				fd = w
				newUnownedPeer(h.t, w).fill()
				provoke = func() { drainFD(r) }
			}
			waits, tasks := h.waiting(kind.await(h.Loop, fd))
			h.turns(2)
			assert.Equal(h.t, 1, waits[0].steps, "%s: not ready yet", kind.name)
			provoke()
			h.ended(tasks...)
			assert.Equal(h.t, kind.dir, waits[0].ready, kind.name)
			require.NoError(h.t, h.Remove(fd))
		}
	}},
	{name: "the end of a pipe's writer is told to its reader, after the data", needs: needsPipes, run: func(h *host) {
		for _, kind := range awaits[:1] {
			r, w := rawPipe(h.t.(*testing.T))
			closeLater(h.t, r)
			waits, tasks := h.waiting(kind.await(h.Loop, r))
			newUnownedPeer(h.t, w).send([]byte("x"))
			require.NoError(h.t, unix.Close(w))
			h.ended(tasks...)
			assert.Equal(h.t, sm.Read, waits[0].ready)
			drainFD(r)
			waits, tasks = h.waiting(kind.await(h.Loop, r))
			h.ended(tasks...)
			assert.NoError(h.t, waits[0].waitErr)
			require.NoError(h.t, h.Remove(r))
		}
	}},
	{name: "the end of a pipe's reader is told to its writer", needs: needsPipes, run: func(h *host) {
		r, w := rawPipe(h.t.(*testing.T))
		closeLater(h.t, w)
		newUnownedPeer(h.t, w).fill()
		waits, tasks := h.waiting(h.Writable(w))
		require.NoError(h.t, unix.Close(r))
		h.ended(tasks...)
		assert.NotZero(h.t, waits[0].ready&sm.Write)
		require.NoError(h.t, h.Remove(w))
	}},
	{name: "a pipe that nobody reads any more does not hold its writer", needs: needsPipes, run: func(h *host) {
		r, w := rawPipe(h.t.(*testing.T))
		closeLater(h.t, w)
		require.NoError(h.t, unix.Close(r))
		waits, tasks := h.waiting(h.Writable(w))
		h.ended(tasks...)
		if waits[0].waitErr != nil { // kqueue does not take it
			assert.ErrorIs(h.t, waits[0].waitErr, syscall.EPIPE)
		} else {
			assert.NotZero(h.t, waits[0].ready&sm.Write)
		}
		require.NoError(h.t, h.Remove(w))
	}},
	{name: "a Unix socket is awaited, and its end told", needs: needsPipes, run: func(h *host) {
		near, f := socketPair(h.t)
		newUnownedPeer(h.t, near).fill()
		waits, tasks := h.waiting(h.Readable(near), h.Writable(near))
		newUnownedPeer(h.t, f).send([]byte("x"))
		h.ended(tasks[0])
		h.turns(2)
		assert.False(h.t, tasks[1].Ended(), "there is no room")
		drainFD(f)
		h.ended(tasks[1])
		assert.Equal(h.t, []sm.Dir{sm.Read, sm.Write}, []sm.Dir{waits[0].ready, waits[1].ready})
		drainFD(near)
		waits, tasks = h.waiting(h.Readable(near))
		require.NoError(h.t, unix.Shutdown(f, unix.SHUT_WR))
		h.ended(tasks...)
		assert.Equal(h.t, sm.Read, waits[0].ready)
		require.NoError(h.t, h.Remove(near))
	}},
	{name: "what cannot be polled ends the wait with an error", needs: needsFiles, run: func(h *host) {
		file, err := os.Create(filepath.Join(h.t.(*testing.T).TempDir(), "regular"))
		require.NoError(h.t, err)
		defer func() { assert.NoError(h.t, file.Close()) }()
		_, err = file.WriteString("there is something to read")
		require.NoError(h.t, err)
		folder, err := os.Open(h.t.(*testing.T).TempDir())
		require.NoError(h.t, err)
		defer func() { assert.NoError(h.t, folder.Close()) }()
		for _, fd := range []int{int(file.Fd()), int(folder.Fd())} {
			for _, kind := range awaits {
				waits, tasks := h.waiting(kind.await(h.Loop, fd))
				h.ended(tasks...)
				var errno syscall.Errno
				require.ErrorAs(h.t, waits[0].waitErr, &errno, kind.name)
				assert.Contains(h.t, []syscall.Errno{syscall.EPERM, syscall.EINVAL}, errno)
			}
		}
	}},
	{name: "a number that is not open ends the wait with an error", run: func(h *host) {
		c, _ := h.pair()
		number := c.FD()
		require.NoError(h.t, c.Close())
		await := c.Readable()
		waits, tasks := h.waiting(await, h.Readable(-1))
		h.ended(tasks...)
		assert.Negative(h.t, await.FD())
		for _, o := range waits {
			assert.ErrorIs(h.t, o.waitErr, net.ErrClosed)
		}
		if h.sim == nil { // which takes it for an error of the library's
			waits, tasks = h.waiting(h.Readable(number))
			h.ended(tasks...)
			assert.ErrorIs(h.t, waits[0].waitErr, syscall.EBADF)
		}
	}},
	{name: "a descriptor that was closed before it was removed is told, and its waiters too", needs: needsBehind, run: func(h *host) {
		r, w := rawPipe(h.t.(*testing.T))
		closeLater(h.t, w)
		waits, tasks := h.waiting(h.Readable(r))
		require.NoError(h.t, unix.Close(r))
		var errno syscall.Errno
		require.ErrorAs(h.t, h.Remove(r), &errno)
		assert.Contains(h.t, []syscall.Errno{syscall.EBADF, syscall.ENOENT}, errno)
		h.ended(tasks...)
		assert.Equal(h.t, ErrRemoved, waits[0].waitErr)
	}},
	{name: "a number that was closed and opened again behind the loop's back works", needs: needsBehind, run: func(h *host) {
		for _, again := range []func(fd int) sm.Await{
			func(fd int) sm.Await { return h.Readable(fd).Or(h.Writable(fd)) }, // the registration grows
			func(fd int) sm.Await { return h.ReadableET(fd) },                  // it changes its mode
		} {
			r, w := rawPipe(h.t.(*testing.T))
			_, tasks := h.waiting(h.Readable(r))
			tasks[0].Waker().Wake()
			h.ended(tasks...)
			require.NoError(h.t, unix.Close(r))
			require.NoError(h.t, unix.Close(w))
			near, f := socketPair(h.t)
			require.Equal(h.t, r, near, "the number is used again")
			newUnownedPeer(h.t, near).fill()
			waits, tasks := h.waiting(again(near))
			newUnownedPeer(h.t, f).send([]byte("x"))
			h.ended(tasks...)
			assert.Equal(h.t, sm.Read, waits[0].ready)
			assert.NoError(h.t, waits[0].waitErr)
			require.NoError(h.t, h.Remove(near))
		}
	}},
	{name: "a connection whose file others hold is not reported after its close", needs: needsSharing, run: func(h *host) {
		c, f := h.pair()
		raw, err := c.SyscallConn()
		require.NoError(h.t, err)
		require.NoError(h.t, raw.Control(func(fd uintptr) {
			dup, err := unix.Dup(int(fd))
			require.NoError(h.t, err)
			closeLater(h.t, dup)
		}))
		_, tasks := h.waiting(c.Readable())
		require.NoError(h.t, c.Close())
		h.ended(tasks...)
		f.send("x")
		assert.Less(h.t, h.rest(20*time.Millisecond), 10, "the loop spins")
	}},
	{name: "what lies behind urgent data is read, also when somebody else has taken that", needs: needsUrgent, run: func(h *host) {
		for _, early := range []bool{false, true} {
			c, f := h.pair()
			r := &reading{conn: c}
			var task *sm.Task
			if early { // it waits already when the descriptor is given away
				task = h.Spawn(r)
				h.turns(2)
			}
			f.send("before")
			require.NoError(h.t, unix.Sendto(f.fd, []byte("!"), unix.MSG_OOB, nil))
			f.send("behind")
			h.arrived(c.FD(), readyRead)
			raw, err := c.SyscallConn()
			require.NoError(h.t, err)
			require.NoError(h.t, raw.Control(func(fd uintptr) {
				_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_OOB)
				assert.NoError(h.t, err)
			}))
			if !early {
				task = h.Spawn(r)
			}
			h.pump("all is read", func() bool { return string(r.got) == "beforebehind" })
			f.closeWrite()
			h.ended(task)
		}
	}},
	{name: "what lies behind urgent data is read", needs: needsUrgent, run: func(h *host) {
		bothModes(func(et bool) {
			c, f := h.pair()
			r := &reading{conn: c, et: et}
			task := h.Spawn(r)
			h.turns(2)
			f.send("before")
			require.NoError(h.t, unix.Sendto(f.fd, []byte("!"), unix.MSG_OOB, nil))
			f.send("behind")
			h.arrived(c.FD(), readyRead)
			h.pump("all is read", func() bool { return string(r.got) == "beforebehind" })
			f.closeWrite()
			h.ended(task)
		})
	}},
}
