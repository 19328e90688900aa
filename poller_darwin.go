package stepio

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The syscalls of macOS's poller; what it does with them is in kqueue.go.
//
// Every call tells the Go scheduler, unlike on Linux: x/sys reaches libSystem
// only that way, and macOS promises no syscall numbers.

func newPoller(batch int) (poller, error) { return newKqueue(batch) }

// The structs and constants of kqueue_translate.go are the system's, or this
// does not compile: a constant of an unsigned type cannot be negative.
const (
	_ = -(unsafe.Sizeof(kevent{}) ^ unsafe.Sizeof(unix.Kevent_t{}))
	_ = -(unsafe.Offsetof(kevent{}.Filter) ^ unsafe.Offsetof(unix.Kevent_t{}.Filter))
	_ = -(unsafe.Offsetof(kevent{}.Flags) ^ unsafe.Offsetof(unix.Kevent_t{}.Flags))
	_ = -(unsafe.Offsetof(kevent{}.Fflags) ^ unsafe.Offsetof(unix.Kevent_t{}.Fflags))
	_ = -(unsafe.Offsetof(kevent{}.Data) ^ unsafe.Offsetof(unix.Kevent_t{}.Data))
	_ = -(unsafe.Offsetof(kevent{}.Udata) ^ unsafe.Offsetof(unix.Kevent_t{}.Udata))

	_ = -uint(evfiltRead ^ unix.EVFILT_READ)
	_ = -uint(evfiltWrite ^ unix.EVFILT_WRITE)
	_ = -uint(evAdd ^ unix.EV_ADD)
	_ = -uint(evDelete ^ unix.EV_DELETE)
	_ = -uint(evClear ^ unix.EV_CLEAR)
	_ = -uint(evReceipt ^ unix.EV_RECEIPT)
	_ = -uint(evError ^ unix.EV_ERROR)
	_ = -uint(evEOF ^ unix.EV_EOF)
	_ = -uint(noteOOB ^ unix.NOTE_OOB)
)

// asUnix is list as x/sys takes it, for one call. The memory is that of kevents,
// so the garbage collector sees no pointer in it.
func asUnix(list []kevent) []unix.Kevent_t {
	return unsafe.Slice((*unix.Kevent_t)(unsafe.Pointer(unsafe.SliceData(list))), len(list))
}

// rawKqueue is kqueue(2). A fork leaves a kqueue behind; an exec without one
// does not.
func rawKqueue() (fd int, errno syscall.Errno) {
	fd, err := unix.Kqueue()
	if err != nil {
		return -1, errnoOf(err)
	}
	unix.CloseOnExec(fd)
	return fd, 0
}

// rawKevent is kevent(2). A nil timeout is for ever.
func rawKevent(fd int, list, events []kevent, timeout *unix.Timespec) (n int, errno syscall.Errno) {
	n, err := unix.Kevent(fd, asUnix(list), asUnix(events), timeout)
	return max(n, 0), errnoOf(err)
}

func rawKqueueClose(fd int) error { return closeFD(fd) }

// openPipe opens a pipe that does not block and does not survive exec. macOS has
// no pipe2: the lock keeps a fork from happening before the descriptors are
// marked (syscall.ForkLock).
func openPipe() (near, far int, err error) {
	var ends [2]int
	syscall.ForkLock.RLock()
	err = unix.Pipe(ends[:])
	if err == nil {
		unix.CloseOnExec(ends[0])
		unix.CloseOnExec(ends[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, -1, os.NewSyscallError("pipe", err)
	}
	for _, fd := range ends {
		if err := unix.SetNonblock(fd, true); err != nil {
			_ = unix.Close(ends[0]) // the first error is the one to return
			_ = unix.Close(ends[1])
			return -1, -1, os.NewSyscallError("fcntl", err)
		}
	}
	return ends[0], ends[1], nil
}
