package load

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/rawcall"
)

// A vector is datagrams of one socket that are sent or received in one call:
// sendmmsg(2) and recvmmsg(2) when there can be more than one, which measured
// 15 % less CPU of the client than a call for each at depth 16.
type vector struct {
	size  int
	bytes []byte
	iovs  []unix.Iovec
	heads []mmsghdr
	n     int // datagrams to be sent
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

func newVector(n, size int) vector {
	v := vector{
		size: size, bytes: make([]byte, n*size), iovs: make([]unix.Iovec, n), heads: make([]mmsghdr, n),
	}
	for i := range n {
		v.iovs[i].Base = &v.bytes[i*size]
		v.iovs[i].SetLen(size)
		v.heads[i].header.Iov = &v.iovs[i]
		v.heads[i].header.SetIovlen(1)
	}
	return v
}

// add returns the place for another datagram to be sent.
func (v *vector) add() []byte {
	v.n++
	return v.bytes[(v.n-1)*v.size:][:v.size]
}

// send sends what was added.
func (v *vector) send(fd int32) error {
	n := v.n
	v.n = 0
	if n == 1 {
		if _, errno := sysSend(fd, v.bytes[:v.size]); errno != 0 {
			return errno
		}
		return nil
	}
	for at := 0; at < n; {
		k, errno := rawcall.Call(unix.SYS_SENDMMSG, uintptr(fd),
			uintptr(unsafe.Pointer(&v.heads[at])), uintptr(n-at), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		at += k
	}
	return nil
}

// receive receives what has come, as much as there is room for.
func (v *vector) receive(fd int32) (int, syscall.Errno) {
	if len(v.heads) == 1 {
		n, errno := sysRecv(fd, v.bytes)
		v.heads[0].length = uint32(n)
		return 1, errno
	}
	return rawcall.Call(unix.SYS_RECVMMSG, uintptr(fd),
		uintptr(unsafe.Pointer(&v.heads[0])), uintptr(len(v.heads)), unix.MSG_DONTWAIT, 0, 0)
}

// datagram is one that was received.
func (v *vector) datagram(i int) []byte {
	return v.bytes[i*v.size:][:v.heads[i].length]
}
