package loopback

import (
	"net/netip"
	"os"
)

// Own is the address of this process in 127.64.0.0/10, which no other process of its
// PID namespace has while it lives: a process's number has at most 22 bits (pid_max,
// proc_sys_kernel(5)). On Linux all of 127.0.0.0/8 is there without being configured.
func Own() netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(64 | pid>>16), byte(pid >> 8), byte(pid)})
}
