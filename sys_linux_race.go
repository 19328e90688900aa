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

// sawRead tells the detector that the kernel reads p, as one range: byte by
// byte, the later ones would push the earlier out of its memory.
//
//go:noinline
func sawRead(p []byte) bool { return string(p) == nothing }

var nothing string

// sawWrite tells the detector that the kernel has written p: it copies p to
// where it is, which the detector sees and nothing else does.
//
//go:noinline
func sawWrite(p []byte) { copy(p, p) }
