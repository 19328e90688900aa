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

// awaits are Loop's four, by name.
var awaits = []struct {
	name  string
	await func(*Loop, int) sm.Await
	dir   sm.Dir
	edge  bool
}{
	{"Readable", (*Loop).Readable, sm.Read, false},
	{"Writable", (*Loop).Writable, sm.Write, false},
	{"ReadableET", (*Loop).ReadableET, sm.Read, true},
	{"WritableET", (*Loop).WritableET, sm.Write, true},
}

func TestLoopAwaitsSayWhatTheyWaitFor(t *testing.T) {
	w := newTestLoop(t)
	for _, c := range awaits {
		a := c.await(w.Loop, 7)
		assert.Equal(t, 7, a.FD(), c.name)
		assert.Equal(t, c.dir, a.Dir(), c.name)
		assert.Equal(t, c.edge, a.Edge(), c.name)
		assert.True(t, a.Pending(), c.name)
	}
}

// Readiness of any pollable descriptor: what makes it ready, and that nothing
// else does.
func TestLoopAwaitsAnyPollableDescriptor(t *testing.T) {
	type ends struct {
		fd      int
		provoke func()
	}
	one := []byte{1}
	for _, kind := range []struct {
		name string
		dirs sm.Dir
		open func(t *testing.T, dir sm.Dir) ends
	}{
		{"a pipe", sm.Read | sm.Write, func(t *testing.T, dir sm.Dir) ends {
			r, w := pipe(t)
			if dir == sm.Read {
				return ends{r, func() { newUnownedPeer(t, w).send(one) }}
			}
			newUnownedPeer(t, w).fill()
			return ends{w, func() { drainFD(r) }}
		}},
		{"a Unix socket", sm.Read | sm.Write, func(t *testing.T, dir sm.Dir) ends {
			near, far := socketPair(t)
			if dir == sm.Read {
				return ends{near, func() { newUnownedPeer(t, far).send(one) }}
			}
			newUnownedPeer(t, near).fill()
			return ends{near, func() { drainFD(far) }}
		}},
		{"the end of a pipe's writer", sm.Read, func(t *testing.T, _ sm.Dir) ends {
			r, w := rawPipe(t)
			closeLater(t, r)
			return ends{r, func() { assert.NoError(t, unix.Close(w)) }}
		}},
		{"the end of a pipe's reader", sm.Write, func(t *testing.T, _ sm.Dir) ends {
			r, w := rawPipe(t)
			closeLater(t, w)
			newUnownedPeer(t, w).fill()
			return ends{w, func() { assert.NoError(t, unix.Close(r)) }}
		}},
	} {
		for _, c := range awaits {
			if kind.dirs&c.dir == 0 {
				continue
			}
			t.Run(c.name+" of "+kind.name, func(t *testing.T) {
				w := newTestLoop(t)
				e := kind.open(t, c.dir)
				o := &once{await: c.await(w.Loop, e.fd)}
				task := w.Spawn(o)
				w.turns(3)
				assert.Equal(t, 1, o.steps, "not ready yet")
				e.provoke()
				w.ended(task)
				assert.Equal(t, c.dir, o.ready)
				assert.NoError(t, o.waitErr)
				assert.NoError(t, w.Remove(e.fd))
			})
		}
	}
}

// drainFD reads all there is.
func drainFD(fd int) {
	buf := make([]byte, 64<<10)
	for {
		if n, err := unix.Read(fd, buf); n <= 0 || err != nil {
			return
		}
	}
}

// rawPipe is a pipe whose ends the test closes.
func rawPipe(t *testing.T) (r, w int) {
	var fds [2]int
	require.NoError(t, unix.Pipe(fds[:]))
	return fds[0], fds[1]
}

func TestLoopAwaitOfWhatCannotBePolled(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "regular"))
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	for _, c := range []struct {
		name string
		fd   int
		want error
	}{
		{"a regular file", int(file.Fd()), syscall.EPERM},
		{"a number that is not open", 1 << 12, syscall.EBADF},
		{"a negative number", -1, net.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			o := &once{await: w.Readable(c.fd)}
			w.ended(w.Spawn(o))
			assert.ErrorIs(t, o.waitErr, c.want)

			blind := w.spawn(func(*sm.Task) sm.Await { return w.Readable(c.fd) })
			w.ended(blind.task)
			assert.ErrorIs(t, blind.task.Err(), c.want, "a task that does not look at WaitErr does not ask for ever")
			w.reported()
		})
	}
}

// The original's second waiter replaced the first, which never ran again.
func TestDefectASecondWaiterReplacesTheFirst(t *testing.T) {
	w := newTestLoop(t)
	r, far := pipe(t)
	var tasks []*sm.Task
	var waits []*once
	for range 5 {
		o := &once{await: w.Readable(r)}
		waits = append(waits, o)
		tasks = append(tasks, w.Spawn(o))
	}
	w.turns(2)
	newUnownedPeer(t, far).send([]byte("x"))
	w.ended(tasks...)
	for _, o := range waits {
		assert.Equal(t, sm.Read, o.ready)
		assert.Equal(t, 2, o.steps)
	}
	require.NoError(t, w.Remove(r))
}

// Many tasks write to one descriptor that is full: all of them get through, and
// a reader on it is not mistaken for a writer.
func TestTrapManyWritersOnOneDescriptor(t *testing.T) {
	w := newTestLoop(t)
	near, far := socketPair(t)
	newUnownedPeer(t, near).fill()
	drained := 0
	const writers, rounds = 20, 10
	var tasks []*sm.Task
	chunk := make([]byte, 4096)
	for range writers {
		left := rounds
		tasks = append(tasks, w.spawn(func(*sm.Task) sm.Await {
			for left > 0 {
				if _, err := unix.Write(near, chunk); err == unix.EAGAIN {
					return w.Writable(near)
				}
				left--
			}
			return sm.Done
		}).task)
	}
	reader := &once{await: w.Readable(near)}
	readerTask := w.Spawn(reader)
	drain := w.spawn(func(task *sm.Task) sm.Await {
		for {
			n, err := unix.Read(far, task.Scratch()[:4096])
			if err != nil {
				return w.Readable(far)
			}
			drained += n
		}
	})
	w.ended(tasks...)
	assert.False(t, readerTask.Ended())
	assert.Equal(t, 1, reader.steps, "filtered by direction")
	newUnownedPeer(t, far).send([]byte("x"))
	w.ended(readerTask)
	drain.task.Destroy()
	require.NoError(t, w.Remove(near))
	require.NoError(t, w.Remove(far))
}

func TestLoopWaitsForBothDirectionsAtOnce(t *testing.T) {
	w := newTestLoop(t)
	near, far := socketPair(t)
	newUnownedPeer(t, near).fill()
	o := &once{await: w.Readable(near).Or(w.Writable(near))}
	task := w.Spawn(o)
	w.turns(2)
	assert.Equal(t, 1, o.steps)
	newUnownedPeer(t, far).send([]byte("x"))
	w.ended(task)
	assert.Equal(t, sm.Read, o.ready, "only what came true")
	require.NoError(t, w.Remove(near))
}

// The original dropped the handles of those who waited: they never ran again.
func TestDefectRemoveForgetsItsWaiters(t *testing.T) {
	w := newTestLoop(t)
	near, far := socketPair(t)
	newUnownedPeer(t, near).fill()
	reader, writer := &once{await: w.Readable(near)}, &once{await: w.Writable(near)}
	both := &once{await: w.Readable(near).By(time.Now().Add(time.Hour))}
	tasks := []*sm.Task{w.Spawn(reader), w.Spawn(writer), w.Spawn(both)}
	w.turns(2)
	require.NoError(t, w.Remove(near))
	w.ended(tasks...)
	for _, o := range []*once{reader, writer, both} {
		assert.Equal(t, ErrRemoved, o.waitErr)
		assert.Zero(t, o.ready)
	}
	require.NoError(t, w.Remove(near), "removing twice does nothing")

	again := &once{await: w.Readable(near)}
	task := w.Spawn(again)
	w.turns(2)
	newUnownedPeer(t, far).send([]byte("x"))
	w.ended(task)
	assert.Equal(t, sm.Read, again.ready, "it may be awaited again")
	require.NoError(t, w.Remove(near))
	assert.NoError(t, w.Remove(1<<20), "a descriptor that was never seen")
}

// A registration outlives the close of a descriptor that was duplicated, and is
// reported for ever after: Remove must not make the loop forget that.
func TestLoopRemoveRemembersThatOthersHoldTheFile(t *testing.T) {
	w := newFaultyLoop(t)
	c, _ := w.pair()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		dup, err := unix.Dup(int(fd))
		require.NoError(t, err)
		closeLater(t, dup)
	}))
	require.NoError(t, w.Remove(c.FD()))
	task := w.Spawn(&once{await: c.Readable()})
	w.turns(1)
	removals := w.faults.during(func() { require.NoError(t, c.Close()) }, callPollRemove)
	assert.Equal(t, 1, removals)
	w.ended(task)
}

func TestLoopRemoveOfAClosedDescriptorSaysSo(t *testing.T) {
	w := newTestLoop(t)
	r, wr := rawPipe(t)
	closeLater(t, wr)
	o := &once{await: w.Readable(r)}
	task := w.Spawn(o)
	w.turns(1)
	require.NoError(t, unix.Close(r))
	var errno syscall.Errno
	require.ErrorAs(t, w.Remove(r), &errno)
	assert.Contains(t, []syscall.Errno{syscall.EBADF, syscall.ENOENT}, errno, "kqueue looks for its filter, not for the file")
	w.ended(task)
	assert.Equal(t, ErrRemoved, o.waitErr, "and its waiters are resumed all the same")
}

func TestLoopTriggerModes(t *testing.T) {
	t.Run("a second waiter in the other mode is refused", func(t *testing.T) {
		w := newTestLoop(t)
		near, far := socketPair(t)
		first := &once{await: w.Readable(near)}
		firstTask := w.Spawn(first)
		w.turns(1)
		second := &once{await: w.ReadableET(near)}
		w.ended(w.Spawn(second))
		assert.Equal(t, ErrTriggerMode, second.waitErr)
		assert.False(t, firstTask.Ended(), "the first is not disturbed")
		newUnownedPeer(t, far).send([]byte("x"))
		w.ended(firstTask)
		assert.Equal(t, sm.Read, first.ready)
		require.NoError(t, w.Remove(near))
	})
	t.Run("switching with no waiter costs one call and loses nothing", func(t *testing.T) {
		w := newFaultyLoop(t)
		near, far := socketPair(t)
		modes := []sm.Await{w.Readable(near), w.ReadableET(near), w.Readable(near), w.ReadableET(near)}
		for i, a := range modes {
			o := &once{await: a.By(time.Now())}
			calls := w.faults.during(func() { w.ended(w.Spawn(o)) }, callPollAdd, callPollModify, callPollRemove)
			assert.Equal(t, 1, calls, "switch %d", i)
			assert.ErrorIs(t, o.waitErr, os.ErrDeadlineExceeded)
		}
		newUnownedPeer(t, far).send([]byte("x")) // never read: ready all the time
		for i, a := range modes {
			o := &once{await: a}
			w.ended(w.Spawn(o))
			assert.Equal(t, sm.Read, o.ready, "switch %d", i)
			assert.NoError(t, o.waitErr)
		}
		o := &once{await: w.ReadableET(near)}
		task := w.Spawn(o)
		w.turns(3)
		assert.Equal(t, 1, o.steps, "no new edge")
		newUnownedPeer(t, far).send([]byte("y"))
		w.ended(task)
		require.NoError(t, w.Remove(near))
	})
}

// An event of the loop that the kernel was told to interrupt, refuse or delay.
func TestLoopPollerErrors(t *testing.T) {
	t.Run("a failed wait ends Run", func(t *testing.T) {
		w := newFaultyLoop(t)
		w.faults.fail(callPollWait, syscall.EBADF)
		assert.ErrorIs(t, w.Run(), syscall.EBADF)
		assert.Equal(t, ErrLoopClosed, w.Post(func() {}))
	})
	t.Run("a descriptor that can't be added is the task's error", func(t *testing.T) {
		w := newFaultyLoop(t)
		r, _ := pipe(t)
		w.faults.fail(callPollAdd, syscall.ENOSPC) // max_user_watches
		o := &once{await: w.Readable(r)}
		w.ended(w.Spawn(o))
		assert.ErrorIs(t, o.waitErr, syscall.ENOSPC)
		again := &once{await: w.Readable(r).By(time.Now().Add(time.Millisecond))}
		w.ended(w.Spawn(again))
		assert.ErrorIs(t, again.waitErr, os.ErrDeadlineExceeded, "the next try works")
		require.NoError(t, w.Remove(r))
	})
}

// A task that waits in no direction has no trigger mode.
func TestLoopTriggerModeOfAWaitInNoDirection(t *testing.T) {
	w := newTestLoop(t)
	c, _ := w.pair()
	w.spawn(func(*sm.Task) sm.Await { return c.Wait(0) })
	w.settle()
	o := &once{await: c.WritableET()}
	w.ended(w.Spawn(o))
	assert.NoError(t, o.waitErr)
	assert.Equal(t, sm.Write, o.ready)
}
