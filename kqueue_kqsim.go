//go:build linux && kqsim

package stepio

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/kqsim"
)

// The syscalls of poller_darwin.go, emulated, so that the tests can run kqueue.go
// on Linux. internal/kqsim says how near that is.

func rawKqueue() (fd int, errno syscall.Errno) { return kqsim.Open() }

func rawKevent(fd int, list, events []kevent, timeout *unix.Timespec) (n int, errno syscall.Errno) {
	changes, got := make([]kqsim.Event, len(list)), make([]kqsim.Event, len(events))
	for i := range list {
		changes[i] = kqsim.Event(list[i])
	}
	n, errno = kqsim.Kevent(fd, changes, got, timeout)
	for i := range got[:n] {
		events[i] = kevent(got[i])
	}
	return n, errno
}

func rawKqueueClose(fd int) error { return kqsim.Close(fd) }
