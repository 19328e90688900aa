// Package rawcall enters the kernel with nothing in between, for the syscalls of a
// request: the library's, and those of the benchmark's client. There is something for
// Linux only; on other processors than amd64 and arm64 it is package syscall's.
package rawcall
