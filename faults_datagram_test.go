//go:build linux || darwin

package stepio

import (
	"net/netip"
	"syscall"
)

// The datagram calls of faults. No test of this file's neighbours makes one.

func (f *faults) ReceiveFrom(fd, room int) ([]byte, netip.AddrPort, bool, syscall.Errno) {
	panic("faults: ReceiveFrom is not there yet")
}

func (f *faults) SendTo(fd int, data []byte, to netip.AddrPort) syscall.Errno {
	panic("faults: SendTo is not there yet")
}
