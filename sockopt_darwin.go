package stepio

import "golang.org/x/sys/unix"

// tcpKeepIdle is the time until the first keep-alive probe, in seconds: tcp(4)
// calls it TCP_KEEPALIVE.
const tcpKeepIdle = unix.TCP_KEEPALIVE
