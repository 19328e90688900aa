package stepio

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/rawcall"
)

// The syscalls of datagrams on Linux. They are raw, as those in
// sys_linux_fast.go are and for the same reason. The race detector does not see
// what the kernel does with a buffer, so it is told: sawRead and sawWrite are
// empty without it.

// rawName is the other end of a datagram, as the kernel writes and reads it. Its
// address is that of sa.
type rawName struct {
	sa     sockaddr
	length uint32 // of sa; when the kernel is to write, the room for it
}

// roomForName is a name for rawReceive to write.
func roomForName() rawName { return rawName{length: uint32(len(sockaddr{}))} }

// rawReceive takes one datagram. n is its whole length (recvfrom(2), MSG_TRUNC), which
// may be more than p had room for. The kernel may not tell the sender, as some do on a
// connected socket. The caller tells the race detector: sawWrite.
func rawReceive(fd int, p []byte, from *rawName) (n int, errno syscall.Errno) {
	n, errno = rawcall.Call(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_TRUNC,
		uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&from.length)))
	return n, errno
}

// is4 reports whether the sender is an IPv4 address, v4.
func (from *rawName) is4() bool { return from.sa.family() == unix.AF_INET }

// v4 is sender where is4 says yes: what of it can be inlined.
func (from *rawName) v4() netip.AddrPort { return from.sa.v4() }

// sender is not valid when the kernel has not told it.
func (from *rawName) sender() netip.AddrPort { return from.sa.sender(from.length) }

// rawSend sends one datagram to an address.
func rawSend(fd int, p []byte, to *rawName) (errno syscall.Errno) {
	sawRead(p)
	_, errno = rawcall.Call(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0,
		uintptr(unsafe.Pointer(to)), uintptr(to.length))
	return errno
}

// rawSendToPeer sends one datagram from a connected socket.
func rawSendToPeer(fd int, p []byte) (errno syscall.Errno) {
	sawRead(p)
	_, errno = rawcall.Call(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
	return errno
}

// set4 makes the zero rawName that of an IPv4 address.
func (to *rawName) set4(ip [4]byte, port uint16) { to.length = to.sa.put4(ip, port) }

// isSet reports whether it is the name of an address.
func (to *rawName) isSet() bool { return to.length != 0 }

// set makes it the name of addr.
func (to *rawName) set(addr netip.AddrPort) (errno syscall.Errno) {
	to.length, errno = to.sa.put(addr)
	return errno
}

// sender is where a datagram came from. A socket of IPv4 or IPv6 has senders of
// no other family; the kernel may say nothing.
func (sa *sockaddr) sender(length uint32) netip.AddrPort {
	if length == 0 {
		return netip.AddrPort{}
	}
	from, _ := sa.addrPort()
	return from
}

// batchBuffers are a loop's arguments of recvmmsg(2) and sendmmsg(2), 7 KiB.
// They hold pointers to the caller's buffers during a call only.
//
// They are on the heap, and the pointers in them are pointers to the Go
// runtime too, so that whatever they point to is on the heap and stays there.
type batchBuffers struct {
	headers [maxBatch]unix.Mmsghdr
	vectors [maxBatch]unix.Iovec
	addrs   [maxBatch]sockaddr
	calls   int // that were made, for tests
}

func newBatchBuffers() *batchBuffers {
	b := new(batchBuffers)
	for i := range b.headers {
		h := &b.headers[i].Hdr
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
	}
	return b
}

// receive is sys.receiveBatch by one recvmmsg. The kernel ends a batch early
// when the socket is empty, or at an error, which it keeps and returns next time
// (recvmmsg(2), BUGS).
func (b *batchBuffers) receive(fd int, ds []Datagram) (n int, errno syscall.Errno) {
	ds = ds[:min(len(ds), maxBatch)]
	for i := range ds {
		room := ds[i].Data[:cap(ds[i].Data)]
		b.vectors[i].Base = unsafe.SliceData(room)
		b.vectors[i].SetLen(len(room))
		h := &b.headers[i].Hdr
		h.Name = &b.addrs[i][0]
		h.Namelen = uint32(len(b.addrs[i]))
	}
	n, errno = b.call(unix.SYS_RECVMMSG, fd, len(ds))
	for i := range ds[:n] {
		d, h := &ds[i], &b.headers[i]
		d.Data = d.Data[:h.Len]
		d.Addr = b.addrs[i].sender(h.Hdr.Namelen)
		d.Truncated = h.Hdr.Flags&unix.MSG_TRUNC != 0
		d.Err = nil
		sawWrite(d.Data)
	}
	b.release(len(ds))
	if errno == 0 && n < len(ds) {
		errno = unix.EAGAIN
	}
	return n, errno
}

// send is sys.sendBatch by one sendmmsg. The kernel ends a batch before the
// first datagram that it does not take, and says why only when that is the very
// first (sendmmsg(2)).
func (b *batchBuffers) send(fd int, ds []Datagram, family int) (n int, errno syscall.Errno) {
	ds = ds[:min(len(ds), maxBatch)]
	filled := 0
	for i := range ds {
		d, h := &ds[i], &b.headers[i].Hdr
		h.Name, h.Namelen = nil, 0
		if family != unix.AF_UNSPEC && d.Addr.IsValid() {
			h.Namelen, errno = b.addrs[i].put(mapped(family, unmapped(d.Addr)))
			if errno != 0 {
				break
			}
			h.Name = &b.addrs[i][0]
		}
		b.vectors[i].Base = unsafe.SliceData(d.Data)
		b.vectors[i].SetLen(len(d.Data))
		sawRead(d.Data)
		filled++
	}
	if filled == 0 {
		return 0, errno
	}
	n, errno = b.call(unix.SYS_SENDMMSG, fd, filled)
	b.release(filled)
	return n, errno
}

// call makes the syscall for the first n headers, and again when a signal came
// first.
func (b *batchBuffers) call(trap uintptr, fd, n int) (done int, errno syscall.Errno) {
	for {
		b.calls++
		done, errno = rawcall.Call(trap, uintptr(fd),
			uintptr(unsafe.Pointer(&b.headers[0])), uintptr(n), 0, 0, 0)
		switch errno {
		case 0:
			return done, 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// release lets go of the caller's buffers.
func (b *batchBuffers) release(n int) {
	for i := range n {
		b.vectors[i].Base = nil
	}
}
