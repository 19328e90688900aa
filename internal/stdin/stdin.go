// Package stdin is standard input for a child process that is told by it what to
// do, and that runs a loop besides.
//
// A goroutine that reads a blocking descriptor keeps the processor of the Go
// scheduler (GOMAXPROCS) that it ran on until the runtime's monitor thread takes it
// away, which looks once in 20 µs to 10 ms (runtime/proc.go, sysmon). With as
// many of them as loops, the goroutine that reads its next order stops a loop
// for so long: a loop's goroutine is ready to run, and its machine's processor idle.
package stdin

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// kept would close the descriptor if it were forgotten.
var kept *os.File

// Pipe is standard input. If it is a pipe, as it is for a child process, the
// goroutine that reads it waits in the runtime's poller and holds nothing
// meanwhile. It is called once, and os.Stdin is not used any more. A pipe's end is
// made non-blocking for all who have it open (fcntl(2), O_NONBLOCK), which is
// this process alone if its parent has closed it, as os/exec does.
func Pipe() (*os.File, error) {
	info, err := os.Stdin.Stat()
	if err != nil {
		return nil, err
	}
	fd := os.Stdin.Fd()
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if info.Mode()&os.ModeNamedPipe == 0 || flags&unix.O_NONBLOCK != 0 {
		return os.Stdin, nil // package os has seen to it
	}
	if err := syscall.SetNonblock(int(fd), true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	kept = os.NewFile(fd, os.Stdin.Name())
	return kept, nil
}
