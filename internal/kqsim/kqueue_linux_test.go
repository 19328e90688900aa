package kqsim

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

// The rules of kqueue(2) that the manual states, each a sentence.

// sim is a kqueue under test.
type sim struct {
	t  *testing.T
	fd int
}

func open(t *testing.T) sim {
	fd, errno := Open()
	require.Zero(t, errno)
	t.Cleanup(func() { require.NoError(t, Close(fd)) })
	return sim{t, fd}
}

// change makes changes, each of which answers, and returns the errnos.
func (s sim) change(changes ...Event) (errnos []syscall.Errno) {
	s.t.Helper()
	for i := range changes {
		changes[i].Flags |= Receipt
	}
	receipts := make([]Event, len(changes))
	n, errno := Kevent(s.fd, changes, receipts, nil)
	require.Zero(s.t, errno)
	require.Equal(s.t, len(changes), n, "every change answers, and nothing is waited for")
	for i, r := range receipts {
		assert.Equal(s.t, Event{changes[i].Ident, changes[i].Filter, changes[i].Flags | Error, changes[i].Fflags, r.Data, changes[i].Udata}, r)
		errnos = append(errnos, syscall.Errno(r.Data))
	}
	return errnos
}

// add adds one filter.
func (s sim) add(fd int, filter int16, flags uint16) {
	s.t.Helper()
	require.Equal(s.t, []syscall.Errno{0}, s.change(Event{Ident: uint64(fd), Filter: filter, Flags: Add | flags, Udata: uint64(fd)}))
}

// scan is what is reported at once.
func (s sim) scan() []Event {
	s.t.Helper()
	events := make([]Event, 8)
	n, errno := Kevent(s.fd, nil, events, &unix.Timespec{})
	require.Zero(s.t, errno)
	return events[:n]
}

// one is the only event that is reported.
func (s sim) one() Event {
	s.t.Helper()
	events := s.scan()
	require.Len(s.t, events, 1)
	return events[0]
}

func pair(t *testing.T) (near, far int) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	closeLater(t, fds[0], fds[1])
	return fds[0], fds[1]
}

// closeLater closes what is still open when the test ends.
func closeLater(t *testing.T, fds ...int) {
	t.Cleanup(func() {
		for _, fd := range fds {
			_ = unix.Close(fd) // the test may have closed it
		}
	})
}

// tcp is a connection, and the listener that it came from.
func tcp(t *testing.T) (ln, near, far int) {
	const kind = unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	ln, err := unix.Socket(unix.AF_INET, kind, 0)
	require.NoError(t, err)
	require.NoError(t, unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(ln, 8))
	far = dial(t, ln)
	require.Eventually(t, func() bool { near, _, err = unix.Accept4(ln, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); return err == nil }, 10*time.Second, time.Millisecond)
	closeLater(t, ln, near)
	return ln, near, far
}

func dial(t *testing.T, ln int) (fd int) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	addr, err := unix.Getsockname(ln)
	require.NoError(t, err)
	require.NoError(t, unix.Connect(fd, addr))
	require.NoError(t, unix.SetNonblock(fd, true))
	closeLater(t, fd)
	return fd
}

func write(t *testing.T, fd int, data string) {
	_, err := unix.Write(fd, []byte(data))
	require.NoError(t, err)
}

// awaitEvent waits for the kernel to have carried something to fd.
func awaitEvent(t *testing.T, fd int, events int16) {
	require.Eventually(t, func() bool {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
		_, _ = unix.Poll(fds[:], 0) // asked again
		return fds[0].Revents&events != 0
	}, 10*time.Second, time.Millisecond)
}

func TestKeventRegistrations(t *testing.T) {
	t.Run("reading and writing are two filters of their own", func(t *testing.T) {
		s := open(t)
		near, far := pair(t)
		s.add(near, FilterRead, 0)
		assert.Empty(t, s.scan())
		s.add(near, FilterWrite, 0)
		assert.EqualValues(t, FilterWrite, s.one().Filter)
		write(t, far, "abc")
		assert.Len(t, s.scan(), 2)
		assert.Equal(t, []syscall.Errno{0}, s.change(Event{Ident: uint64(near), Filter: FilterWrite, Flags: Delete}))
		ev := s.one()
		assert.EqualValues(t, FilterRead, ev.Filter)
		assert.EqualValues(t, 3, ev.Data, "the bytes that can be read")
	})
	t.Run("adding what exists changes its data, makes no second one, and keeps its EV_CLEAR", func(t *testing.T) {
		s := open(t)
		near, far := pair(t)
		s.add(near, FilterRead, Clear)
		write(t, far, "x")
		require.Len(t, s.scan(), 1)
		require.Empty(t, s.scan())
		require.Equal(t, []syscall.Errno{0}, s.change(Event{Ident: uint64(near), Filter: FilterRead, Flags: Add, Udata: 77}))
		assert.EqualValues(t, 77, s.one().Udata, "and it looks anew")
		assert.Empty(t, s.scan(), "EV_CLEAR still")
	})
	t.Run("what is not there can't be deleted, and what is not open can't be added", func(t *testing.T) {
		s := open(t)
		near, _ := pair(t)
		assert.Equal(t, []syscall.Errno{unix.ENOENT, unix.ENOENT, unix.EBADF}, s.change(
			Event{Ident: uint64(near), Filter: FilterRead, Flags: Delete},
			Event{Ident: 1 << 20, Filter: FilterRead, Flags: Delete},
			Event{Ident: 1 << 20, Filter: FilterRead, Flags: Add}))
	})
	t.Run("a failure without a receipt is an event where there is room, and else the call's", func(t *testing.T) {
		s := open(t)
		near, _ := pair(t)
		wrong := []Event{{Ident: 1 << 20, Filter: FilterRead, Flags: Add}, {Ident: uint64(near), Filter: FilterWrite, Flags: Add}}
		events := make([]Event, 2)
		n, errno := Kevent(s.fd, wrong, events, nil)
		assert.Zero(t, errno)
		require.Equal(t, 1, n)
		assert.EqualValues(t, Add|Error, events[0].Flags)
		assert.EqualValues(t, unix.EBADF, events[0].Data)
		assert.Len(t, s.scan(), 1, "the change after it was made")
		_, errno = Kevent(s.fd, wrong, nil, nil)
		assert.Equal(t, unix.EBADF, errno)
	})
	t.Run("a flag that is not modelled is refused", func(t *testing.T) {
		const oneShot = 0x0010
		near, _ := pair(t)
		assert.Equal(t, []syscall.Errno{unix.EINVAL}, open(t).change(Event{Ident: uint64(near), Filter: FilterRead, Flags: Add | oneShot}))
	})
	t.Run("a close removes the filters, though another descriptor keeps the file open", func(t *testing.T) {
		s := open(t)
		near, far := pair(t)
		s.add(near, FilterRead, 0)
		write(t, far, "x")
		dup, err := unix.Dup(near)
		require.NoError(t, err)
		closeLater(t, dup)
		require.Len(t, s.scan(), 1)
		require.NoError(t, unix.Close(near))
		assert.Empty(t, s.scan())
		again, _ := pair(t)
		require.Equal(t, near, again, "the number is used again")
		assert.Equal(t, []syscall.Errno{unix.ENOENT}, s.change(Event{Ident: uint64(again), Filter: FilterRead, Flags: Delete}))
	})
	t.Run("a directory has no filters, a pipe without a reader none for writing", func(t *testing.T) {
		folder, err := os.Open(t.TempDir())
		require.NoError(t, err)
		defer func() { require.NoError(t, folder.Close()) }()
		var ends [2]int
		require.NoError(t, unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC))
		closeLater(t, ends[1])
		require.NoError(t, unix.Close(ends[0]))
		assert.Equal(t, []syscall.Errno{unix.EINVAL, unix.EPIPE}, open(t).change(
			Event{Ident: uint64(folder.Fd()), Filter: FilterRead, Flags: Add},
			Event{Ident: uint64(ends[1]), Filter: FilterWrite, Flags: Add}))
	})
}

func TestKeventScan(t *testing.T) {
	t.Run("without EV_CLEAR the condition is told as long as it holds", func(t *testing.T) {
		s := open(t)
		near, far := pair(t)
		s.add(near, FilterRead, 0)
		write(t, far, "x")
		assert.Len(t, s.scan(), 1)
		assert.Len(t, s.scan(), 1)
		_, err := unix.Read(near, make([]byte, 8))
		require.NoError(t, err)
		assert.Empty(t, s.scan())
		write(t, far, "x")
		assert.Len(t, s.scan(), 1)
	})
	t.Run("with EV_CLEAR it is told again when more comes", func(t *testing.T) {
		s := open(t)
		near, far := pair(t)
		s.add(near, FilterRead, Clear)
		for n := range 3 {
			write(t, far, "x")
			assert.EqualValues(t, n+1, s.one().Data)
			assert.Empty(t, s.scan())
		}
	})
	t.Run("what was told goes behind what was not", func(t *testing.T) {
		s := open(t)
		seen := make(map[uint64]bool)
		for range 6 {
			near, _ := pair(t)
			s.add(near, FilterWrite, 0)
		}
		for range 3 {
			events := make([]Event, 2)
			n, errno := Kevent(s.fd, nil, events, nil)
			require.Zero(t, errno)
			for _, ev := range events[:n] {
				seen[ev.Ident] = true
			}
		}
		assert.Len(t, seen, 6)
	})
	t.Run("a wait ends at its timeout, and a timeout that is none is refused", func(t *testing.T) {
		s := open(t)
		began := time.Now()
		_, errno := Kevent(s.fd, nil, make([]Event, 1), &unix.Timespec{Nsec: 2_500_000})
		assert.Zero(t, errno)
		assert.GreaterOrEqual(t, time.Since(began), 2500*time.Microsecond)
		for _, ts := range []unix.Timespec{{Sec: -1}, {Nsec: -1}, {Nsec: 1e9}, {Sec: longest + 1}} {
			_, errno := Kevent(s.fd, nil, make([]Event, 1), &ts)
			assert.Equal(t, unix.EINVAL, errno)
		}
	})
}

func TestKeventConditions(t *testing.T) {
	t.Run("a listener has as much data as connections", func(t *testing.T) {
		s := open(t)
		ln, _, _ := tcp(t)
		s.add(ln, FilterRead, 0)
		assert.Empty(t, s.scan())
		dial(t, ln)
		dial(t, ln)
		awaitEvent(t, ln, unix.POLLIN)
		require.Eventually(t, func() bool { return s.one().Data == 2 }, 10*time.Second, time.Millisecond)
	})
	t.Run("the peer's end is EV_EOF of the read filter, with what is left to read", func(t *testing.T) {
		s := open(t)
		_, near, far := tcp(t)
		s.add(near, FilterRead, 0)
		s.add(near, FilterWrite, 0)
		write(t, far, "abc")
		require.NoError(t, unix.Shutdown(far, unix.SHUT_WR))
		awaitEvent(t, near, unix.POLLRDHUP)
		for _, ev := range s.scan() {
			assert.Equal(t, ev.Filter == FilterRead, ev.Flags&EOF != 0)
			assert.Zero(t, ev.Fflags)
			if ev.Filter == FilterRead {
				assert.EqualValues(t, 3, ev.Data)
			}
		}
	})
	t.Run("one's own end is EV_EOF of the write filter", func(t *testing.T) {
		s := open(t)
		_, near, _ := tcp(t)
		s.add(near, FilterRead, 0)
		s.add(near, FilterWrite, 0)
		require.NoError(t, unix.Shutdown(near, unix.SHUT_WR))
		ev := s.one()
		assert.EqualValues(t, FilterWrite, ev.Filter)
		assert.NotZero(t, ev.Flags&EOF)
	})
	t.Run("a reset is EV_EOF of both, and an errno", func(t *testing.T) {
		s := open(t)
		_, near, far := tcp(t)
		s.add(near, FilterRead, Clear)
		s.add(near, FilterWrite, 0)
		s.scan()
		require.NoError(t, unix.SetsockoptLinger(far, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		require.NoError(t, unix.Close(far))
		awaitEvent(t, near, unix.POLLERR)
		events := s.scan()
		require.Len(t, events, 2)
		for _, ev := range events {
			assert.NotZero(t, ev.Flags&EOF)
			assert.NotZero(t, ev.Fflags)
		}
	})
	t.Run("a socket that was never connected is ready for nothing", func(t *testing.T) {
		s := open(t)
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		closeLater(t, fd)
		s.add(fd, FilterRead, 0)
		s.add(fd, FilterWrite, 0)
		assert.Empty(t, s.scan())
	})
	t.Run("the end of a pipe's other side is EV_EOF", func(t *testing.T) {
		s := open(t)
		var ends [2]int
		require.NoError(t, unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC))
		closeLater(t, ends[0])
		s.add(ends[0], FilterRead, 0)
		write(t, ends[1], "ab")
		assert.EqualValues(t, 2, s.one().Data)
		require.NoError(t, unix.Close(ends[1]))
		ev := s.one()
		assert.NotZero(t, ev.Flags&EOF)
		assert.EqualValues(t, 2, ev.Data)
	})
	t.Run("urgent data is told to whom it concerns, and before the end", func(t *testing.T) {
		s := open(t)
		_, near, far := tcp(t)
		require.Equal(t, []syscall.Errno{0}, s.change(Event{Ident: uint64(near), Filter: FilterRead, Flags: Add | Clear, Fflags: NoteOOB}))
		require.NoError(t, unix.Sendto(far, []byte("!"), unix.MSG_OOB, nil))
		require.NoError(t, unix.Shutdown(far, unix.SHUT_WR))
		awaitEvent(t, near, unix.POLLRDHUP)
		ev := s.one()
		assert.EqualValues(t, NoteOOB, ev.Fflags)
		assert.Zero(t, ev.Flags&EOF)
	})
	t.Run("a regular file has what is left of it", func(t *testing.T) {
		s := open(t)
		path := filepath.Join(t.TempDir(), "regular")
		require.NoError(t, os.WriteFile(path, []byte("abcd"), 0o600))
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		closeLater(t, fd)
		s.add(fd, FilterRead, 0)
		assert.EqualValues(t, 4, s.one().Data)
		_, err = unix.Read(fd, make([]byte, 8))
		require.NoError(t, err)
		assert.Empty(t, s.scan(), "and nothing at its end")
	})
}
