package measure

import (
	"fmt"
	"syscall"
)

// RaiseFiles lifts the limit of open descriptors as far as it goes, for this
// process and for those that it starts, and returns it. (The Go runtime lifts its
// own, but gives its children the old one.)
func RaiseFiles() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	return limit.Cur, nil
}
