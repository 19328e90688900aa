//go:build linux || darwin

package simkernel

import (
	"net/netip"
	"syscall"
)

// datagrams is the UDP part of a file.
type datagrams struct {
	box      []datagram
	boxed    int // bytes in box
	underway int // bytes that were sent and have not arrived
}

type datagram struct {
	data []byte
	from netip.AddrPort
}

// overhead is what a datagram takes of a buffer besides its bytes.
const overhead = 64

// ReceiveFrom is recvfrom(2) with MSG_TRUNC.
func (k *Kernel) ReceiveFrom(fd, room int) (data []byte, from netip.AddrPort, truncated bool, errno syscall.Errno) {
	f, errno := k.file("recvfrom", fd)
	if errno == 0 {
		data, from, truncated, errno = k.receive(f, room)
	}
	k.moved(errno)
	k.trace("recvfrom", fd, room, errno, data)
	return data, from, truncated, errno
}

func (k *Kernel) receive(f *file, room int) ([]byte, netip.AddrPort, bool, syscall.Errno) {
	none := netip.AddrPort{}
	if k.draw(Interrupted) {
		return nil, none, false, syscall.EINTR
	}
	switch {
	case f.err != 0:
		errno := f.err
		f.err = 0
		return nil, none, false, errno
	case len(f.box) == 0:
		return nil, none, false, syscall.EAGAIN
	case k.draw(WouldBlock):
		k.again(f, Readable)
		return nil, none, false, syscall.EAGAIN
	}
	d := f.box[0]
	f.box = f.box[1:]
	f.boxed -= len(d.data) + overhead
	n := min(room, len(d.data))
	return d.data[:n], d.from, n < len(d.data), 0
}

// SendTo is sendto(2).
func (k *Kernel) SendTo(fd int, data []byte, to netip.AddrPort) syscall.Errno {
	f, errno := k.file("sendto", fd)
	if errno == 0 {
		errno = k.transmit(f, data, to)
	}
	k.moved(errno)
	k.trace("sendto", fd, int(to.Port()), errno, data)
	return errno
}

func (k *Kernel) transmit(f *file, data []byte, to netip.AddrPort) syscall.Errno {
	if k.draw(Interrupted) {
		return syscall.EINTR
	}
	size := len(data) + overhead
	switch {
	case f.err != 0:
		errno := f.err
		f.err = 0
		return errno
	case !to.IsValid():
		return syscall.EDESTADDRREQ
	case f.underway > 0 && f.underway+size > k.config.SendBuffer:
		f.nospace = true
		return syscall.EAGAIN
	case k.draw(WouldBlock):
		k.again(f, Writable)
		return syscall.EAGAIN
	case k.draw(OutOfBuffers):
		return syscall.ENOBUFS
	}
	k.named(f)
	f.underway += size
	copies := 1
	if k.draw(LostDatagram) {
		copies = 0
	} else if k.draw(DoubleDatagram) {
		copies = 2
	}
	k.send(func() {
		f.underway -= size
		k.spaced(f, f.underway <= k.config.SendBuffer/2)
	})
	for range copies {
		k.send(func() { k.arrive(f, datagram{data, f.near}, to) })
	}
	return 0
}

// arrive is the arrival of a datagram of f's.
func (k *Kernel) arrive(f *file, d datagram, to netip.AddrPort) {
	for _, box := range k.boxes {
		if box.near != to || box.far.IsValid() && box.far != d.from {
			continue
		}
		if size := len(d.data) + overhead; box.boxed == 0 || box.boxed+size <= k.config.ReceiveBuffer {
			box.box = append(box.box, d)
			box.boxed += size
			k.wake(box, Readable)
		}
		return
	}
	if f.far.IsValid() && !f.gone { // port unreachable
		f.err = syscall.ECONNREFUSED
		k.wake(f, everything)
	}
}
