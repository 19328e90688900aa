//go:build linux && (amd64 || arm64)

package rawcall

import "syscall"

// Call makes a syscall of up to six arguments whose result is a count or a
// descriptor; with an errno it is 0. The Go scheduler is not told, so it must not
// block, or for some milliseconds at most: until then nobody else has the processor.
// Any goroutine.
//
// It is syscall.RawSyscall6 without the two functions that stand between that
// and the kernel. When the kernel returns, the processor's caches have forgotten
// the program, and every function on the way back is fetched anew. The memory
// that an argument points to stays where it is during the call when the
// conversion to uintptr stands in the call itself (package unsafe, pattern 4).
func Call(trap, a, b, c, d, e, f uintptr) (n int, errno syscall.Errno)
