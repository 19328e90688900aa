package main

import (
	"fmt"
	"syscall"

	"github.com/stepio-go/stepio"
)

// maxUnsent is how many bytes of answers the kernel takes from a connection ahead
// of those that are under way. The rest waits here, where the content of a file
// is shared by all who ask for it. Without the limit a client that has large
// answers sent to it, and does not read, holds as much of the kernel's memory as
// a socket's buffer can grow to, 4 MiB by default on Linux: a few hundred such
// clients use up what all connections of the machine may have (tcp(7), tcp_wmem
// and tcp_mem).
const maxUnsent = 64 << 10

// limitUnsent has every connection that ln accepts keep to maxUnsent: on Linux
// they inherit it.
func limitUnsent(ln *stepio.TCPListener) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, notSentLowat, maxUnsent)
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("TCP_NOTSENT_LOWAT: %w", err)
	}
	return nil
}
