//go:build linux && !amd64 && !arm64

package rawcall

import "syscall"

// Call makes a syscall of up to six arguments whose result is a count or a
// descriptor; with an errno it is 0. The Go scheduler is not told, so it must not
// block, or for some milliseconds at most: until then nobody else has the processor.
// Any goroutine.
//
// In Go only the standard library can promise that the memory behind an argument
// stays where it is; here it goes to the heap, and a datagram's address costs an
// allocation.
//
//go:uintptrescapes
func Call(trap, a, b, c, d, e, f uintptr) (n int, errno syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(trap, a, b, c, d, e, f)
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}
