//go:build linux || darwin

package stepio

import (
	"os"

	"golang.org/x/sys/unix"
)

// pipeWaker ends a poller's wait by a byte in a pipe. It is what macOS has; on
// Linux an eventfd does the same for less, and the tests run both.
//
// The reading end is registered level-triggered, and read when it is reported.
// Wakes are coalesced above, so it holds a byte or two; a full one is readable,
// and that is all a wake wants.
type pipeWaker struct{ near, far int } // reading end, writing end

func newPipeWaker() (pipeWaker, error) {
	near, far, err := openPipe()
	if err != nil {
		return pipeWaker{}, err
	}
	return pipeWaker{near, far}, nil
}

// drain empties the pipe. One read is enough: what it leaves is reported again.
func (p pipeWaker) drain() error {
	var wakes [128]byte
	switch _, err := unix.Read(p.near, wakes[:]); err {
	case nil, unix.EAGAIN, unix.EINTR:
		return nil
	default:
		return os.NewSyscallError("read", err)
	}
}

// wake makes the reading end readable. Any goroutine.
func (p pipeWaker) wake() error {
	one := [1]byte{1}
	for {
		switch _, err := unix.Write(p.far, one[:]); err {
		case nil, unix.EAGAIN: // full is readable
			return nil
		case unix.EINTR:
		default:
			return os.NewSyscallError("write", err)
		}
	}
}

func (p pipeWaker) close() error {
	err := closeFD(p.far)
	if e := closeFD(p.near); err == nil {
		err = e
	}
	return err
}
