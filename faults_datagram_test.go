//go:build linux || darwin

package stepio

import (
	"net/netip"
	"syscall"
)

// The datagram calls of faults. A batch is a call for each datagram here.

func (f *faults) ReceiveFrom(fd, room int) ([]byte, netip.AddrPort, bool, syscall.Errno) {
	if errno := f.answerSlow(callReceiveFrom); errno != 0 {
		return nil, netip.AddrPort{}, false, errno
	}
	data := make([]byte, room)
	n, from, truncated, errno := f.real.receiveFrom(fd, data)
	return data[:n], from, truncated, errno
}

func (f *faults) SendTo(fd int, data []byte, to netip.AddrPort) syscall.Errno {
	if errno := f.answerSlow(callSendTo); errno != 0 {
		return errno
	}
	return f.real.sendTo(fd, data, to)
}
