//go:build !linux

package measure

import (
	"errors"
	"syscall"
)

var errLinux = errors.New("the benchmark needs Linux")

// CPUs returns an error: only Linux can pin a process to CPUs.
func CPUs() ([]int, error) { return nil, errLinux }

func pinned(cpus []int, f func() error) error {
	if len(cpus) == 0 {
		return f()
	}
	return errLinux
}

// endWithParent does nothing: no server is ever started here.
func endWithParent(*syscall.SysProcAttr) {}
