//go:build linux || darwin

package simkernel_test

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/internal/simkernel"
	"github.com/stepio-go/stepio/internal/testseed"
	"github.com/stepio-go/stepio/sm"
)

// What only a simulated kernel has: faults, violations, and a trace. That the rest
// of it is like Linux is TestSimKernelIsLikeLinux, in the root package.

var host = netip.MustParseAddrPort("127.0.0.1:0")

func newKernel(t *testing.T, c simkernel.Config) *simkernel.Kernel {
	c.Rand, c.SendBuffer, c.ReceiveBuffer = testseed.Rand(t), 1<<12, 1<<12
	return simkernel.New(c)
}

func nobody(uint64, uint8) {}

func socket(t *testing.T, k *simkernel.Kernel, kind int) int {
	fd, errno := k.Socket(syscall.AF_INET, kind)
	require.Zero(t, errno)
	return fd
}

func listener(t *testing.T, k *simkernel.Kernel) (fd int, addr netip.AddrPort) {
	fd = socket(t, k, syscall.SOCK_STREAM)
	require.Zero(t, k.Bind(fd, host))
	require.Zero(t, k.Listen(fd, 4))
	addr, errno := k.LocalAddr(fd)
	require.Zero(t, errno)
	return fd, addr
}

// pair is the two ends of a connection.
func pair(t *testing.T, k *simkernel.Kernel) (near, far int) {
	ln, addr := listener(t, k)
	far = socket(t, k, syscall.SOCK_STREAM)
	if errno := k.Connect(far, addr); errno != 0 {
		require.Equal(t, syscall.EINPROGRESS, errno)
	}
	arrives(t, k, ln, simkernel.Readable)
	near, errno := k.Accept(ln)
	require.Zero(t, errno)
	require.Zero(t, k.Close(ln))
	return near, far
}

// arrives lets the network move until fd is ready.
func arrives(t *testing.T, k *simkernel.Kernel, fd int, ready uint8) {
	for range 1000 {
		if k.Ready(fd)&ready == ready {
			return
		}
		require.NoError(t, k.PollWait(8, 0, nobody))
	}
	require.FailNow(t, "it does not come")
}

func TestKernelKeepsWhatMustNotBeDone(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(k *simkernel.Kernel, fd int) syscall.Errno
		want syscall.Errno
	}{
		"a call with a descriptor that is closed": {func(k *simkernel.Kernel, fd int) syscall.Errno {
			k.Close(fd)
			_, errno := k.Read(fd, 1)
			return errno
		}, syscall.EBADF},
		"a second close": {func(k *simkernel.Kernel, fd int) syscall.Errno { k.Close(fd); return k.Close(fd) }, syscall.EBADF},
		"a second registration": {func(k *simkernel.Kernel, fd int) syscall.Errno {
			_ = k.PollAdd(fd, 1, sm.Read, false)
			return k.PollAdd(fd, 1, sm.Read, false).(syscall.Errno)
		}, syscall.EEXIST},
		"a change of no registration": {func(k *simkernel.Kernel, fd int) syscall.Errno {
			return k.PollModify(fd, 1, sm.Read, false).(syscall.Errno)
		}, syscall.ENOENT},
		"a removal of no registration": {func(k *simkernel.Kernel, fd int) syscall.Errno {
			return k.PollRemove(fd).(syscall.Errno)
		}, syscall.ENOENT},
		"a close of a shared descriptor that is in the poller": {func(k *simkernel.Kernel, fd int) syscall.Errno {
			k.Share(fd)
			_ = k.PollAdd(fd, 1, sm.Read, false)
			return k.Close(fd)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t, simkernel.Config{})
			fd := socket(t, k, syscall.SOCK_STREAM)
			assert.Empty(t, k.Violations)
			assert.Equal(t, c.want, c.do(k, fd))
			assert.Len(t, k.Violations, 1)
		})
	}
}

// Each fault that can be drawn happens when its rate says always, and is counted.
func TestKernelFaultsHappenAndAreCounted(t *testing.T) {
	read := func(k *simkernel.Kernel, near, far int) syscall.Errno { _, errno := k.Read(near, 8); return errno }
	write := func(k *simkernel.Kernel, near, far int) syscall.Errno {
		_, errno := k.Write(near, []byte("ab"))
		return errno
	}
	open := func(k *simkernel.Kernel, near, far int) syscall.Errno {
		_, errno := k.Socket(syscall.AF_INET, syscall.SOCK_STREAM)
		return errno
	}
	wait := func(k *simkernel.Kernel, near, far int) syscall.Errno {
		return errnoOf(k.PollWait(8, 0, nobody))
	}
	add := func(k *simkernel.Kernel, near, far int) syscall.Errno {
		return errnoOf(k.PollAdd(near, 1, sm.Read, false))
	}
	for fault, c := range map[simkernel.Fault]struct {
		call  func(k *simkernel.Kernel, near, far int) syscall.Errno
		want  syscall.Errno
		after func(t *testing.T, k *simkernel.Kernel, near, far int)
	}{
		simkernel.Interrupted:     {read, syscall.EINTR, nil},
		simkernel.WouldBlock:      {read, syscall.EAGAIN, nil},
		simkernel.Reset:           {write, syscall.ECONNRESET, nil},
		simkernel.OutOfFiles:      {open, syscall.EMFILE, nil},
		simkernel.OutOfBuffers:    {open, syscall.ENOBUFS, nil},
		simkernel.RefusedInterest: {add, syscall.ENOMEM, nil},
		simkernel.PartialRead: {read, 0, func(t *testing.T, k *simkernel.Kernel, near, far int) {
			assert.NotZero(t, k.Ready(near)&simkernel.Readable, "the rest is there")
		}},
		simkernel.PartialWrite: {write, 0, nil},
		simkernel.SpuriousEvent: {func(k *simkernel.Kernel, near, far int) syscall.Errno {
			if errno := add(k, far, near); errno != 0 {
				return errno
			}
			for range 20 { // which descriptor is drawn
				_ = wait(k, near, far)
			}
			return 0
		}, 0, nil},
		simkernel.Concurrent: {wait, 0, nil},
	} {
		t.Run(fault.String(), func(t *testing.T) {
			k := newKernel(t, simkernel.Config{Concurrent: func() {}})
			near, far := pair(t, k)
			_, errno := k.Write(far, []byte("abc"))
			require.Zero(t, errno)
			for range 100 {
				require.NoError(t, k.PollWait(8, 0, nobody)) // all of it arrives
			}
			assert.Zero(t, k.Hits[fault])
			k.SetRate(fault, 1024)
			assert.Equal(t, c.want, c.call(k, near, far))
			assert.NotZero(t, k.Hits[fault])
			if c.after != nil {
				c.after(t, k, near, far)
			}
		})
	}
}

func errnoOf(err error) syscall.Errno {
	errno, _ := err.(syscall.Errno)
	return errno
}

func TestKernelHasAsManyDescriptorsAsItIsTold(t *testing.T) {
	k := newKernel(t, simkernel.Config{Files: 2})
	socket(t, k, syscall.SOCK_STREAM)
	fd := socket(t, k, syscall.SOCK_STREAM)
	_, errno := k.Socket(syscall.AF_INET, syscall.SOCK_STREAM)
	assert.Equal(t, syscall.EMFILE, errno)
	assert.Equal(t, 1, k.Hits[simkernel.OutOfFiles])
	id := k.ID(fd)
	require.Zero(t, k.Close(fd))
	assert.Zero(t, k.ID(fd))
	assert.Equal(t, fd, socket(t, k, syscall.SOCK_STREAM))
	assert.NotEqual(t, id, k.ID(fd), "another file")
	assert.Equal(t, 1, k.Hits[simkernel.ReusedNumber])
}

// An end of input is the peer's own, or that of a reset.
func TestKernelKnowsWhoseEndItIs(t *testing.T) {
	k := newKernel(t, simkernel.Config{})
	near, far := pair(t, k)
	require.Zero(t, k.Shutdown(far, syscall.SHUT_WR))
	arrives(t, k, near, simkernel.Ended)
	assert.True(t, k.Finished(near))
	near, far = pair(t, k)
	require.Zero(t, k.SetSocketOption(far, syscall.SOL_SOCKET, syscall.SO_LINGER, 0))
	require.Zero(t, k.Close(far))
	arrives(t, k, near, simkernel.Ended)
	assert.False(t, k.Finished(near))
}

// Time passes while the kernel waits, and at no other moment.
func TestKernelTimePassesInAWait(t *testing.T) {
	blocked := 0
	k := newKernel(t, simkernel.Config{Blocking: func(forever bool) { blocked++; assert.False(t, forever) }})
	begin := k.Clock()
	socket(t, k, syscall.SOCK_STREAM)
	assert.Equal(t, begin, k.Clock())
	require.NoError(t, k.PollWait(8, 90*time.Millisecond, nobody))
	assert.GreaterOrEqual(t, k.Clock()-begin, 90*time.Millisecond)
	assert.Equal(t, 1, blocked)
	now := k.Clock()
	require.NoError(t, k.PollWake())
	require.NoError(t, k.PollWait(8, time.Hour, nobody))
	assert.Less(t, k.Clock()-now, time.Second, "a wake ends the wait")
}

// The sum is of every call, its arguments, its result and its bytes.
func TestKernelHashIsOfTheCalls(t *testing.T) {
	run := func(text string) uint64 {
		k := simkernel.New(simkernel.Config{SendBuffer: 1 << 12, ReceiveBuffer: 1 << 12})
		fd := socket(t, k, syscall.SOCK_DGRAM)
		require.Zero(t, k.Bind(fd, host))
		addr, errno := k.LocalAddr(fd)
		require.Zero(t, errno)
		require.Zero(t, k.SendTo(fd, []byte(text), addr))
		return k.Hash()
	}
	assert.Equal(t, run("a"), run("a"))
	assert.NotEqual(t, run("a"), run("b"))
}
