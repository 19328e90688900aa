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
