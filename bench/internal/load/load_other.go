//go:build !linux

package load

import (
	"errors"
	"io"
)

// Main is the process "bench load". It needs epoll.
func Main(io.Reader, io.Writer) error {
	return errors.New("bench: the client needs Linux")
}
