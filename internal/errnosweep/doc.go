// Package errnosweep holds a test of the library's answer to every error that a
// syscall documents: go test ./internal/errnosweep hits the first call of each
// name, with -all others too and all from the second on (-all takes minutes), and
// with -v it prints a table.
//
// The test binary is the probe as well. The probe lives a whole life of the
// library, one activity after the other, each a task with a deadline, and prints
// what became of each. The test runs it under strace, which makes the n-th call
// of one name fail with one errno, without making it.
//
// Only the library's calls are hit: strace follows the probe's first thread
// alone, and the loop's goroutine is locked to that, so nothing else runs there.
// The calls that the Go runtime made on it at its start are counted in a dry run
// and passed over. A marker, getppid(2), that opens each activity tells in
// strace's log which activity a failed call belonged to. For write(2), which
// wakes a loop from other threads, the loop lives elsewhere and the first thread
// has nothing to do but to wake it.
package errnosweep
