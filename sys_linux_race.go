//go:build linux && race

package stepio

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// The syscalls that move data, for the race detector: x/sys annotates read and
// write, so that the detector sees who touches a buffer. It has no such calls
// for sockets, so SIGPIPE is the Go runtime's to ignore here.

func rawRead(fd int, p []byte) (int, syscall.Errno) {
	n, err := unix.Read(fd, p)
	return max(n, 0), errnoOf(err)
}

func rawWrite(fd int, p []byte) (int, syscall.Errno) {
	n, err := unix.Write(fd, p)
	return max(n, 0), errnoOf(err)
}

// sawRead tells the detector that the kernel reads p: it reads p itself.
func sawRead(p []byte) { _ = sum(p) }

//go:noinline
func sum(p []byte) (s byte) {
	for _, b := range p {
		s ^= b
	}
	return s
}

// sawWrite tells the detector that the kernel has written p: it copies p to
// where it is, which the detector sees and nothing else does.
//
//go:noinline
func sawWrite(p []byte) { copy(p, p) }
