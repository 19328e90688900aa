// Package rawcall enters the kernel with nothing in between: for the syscalls of a
// request, those of the library and those of the benchmark's client. On Linux only;
// elsewhere it is empty.
package rawcall
