package stepio

import (
	"net/netip"
	"syscall"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

func (k *kernelSide) datagrams() (fd int, addr netip.AddrPort) {
	k.t.Helper()
	return k.bound(k.own(k.sys.socket(unix.AF_INET, unix.SOCK_DGRAM)))
}

// receives takes the next datagram, which must be text, into room bytes.
func (k *kernelSide) receives(fd, room int, text string, from netip.AddrPort, truncated bool) {
	k.t.Helper()
	p := make([]byte, room)
	n, sender, cut, errno := k.sys.receiveFrom(fd, p)
	require.Zero(k.t, errno)
	require.Equal(k.t, text, string(p[:n]))
	require.Equal(k.t, from, sender)
	require.Equal(k.t, truncated, cut)
}

func (k *kernelSide) receiveFails(fd int, errno syscall.Errno) {
	k.t.Helper()
	_, _, _, got := k.sys.receiveFrom(fd, make([]byte, 8))
	require.Equal(k.t, errno, got)
}

func (k *kernelSide) sends(fd int, text string, to netip.AddrPort) {
	k.t.Helper()
	require.Zero(k.t, k.sys.sendTo(fd, []byte(text), to))
}

// nowhere is an address that nobody has.
func (k *kernelSide) nowhere() netip.AddrPort {
	k.t.Helper()
	fd, addr := k.datagrams()
	k.close(fd)
	return addr
}

// Datagrams.
var kernelDatagramCases = map[string]func(k *kernelSide){
	"an idle datagram socket": func(k *kernelSide) {
		fd, _ := k.datagrams()
		k.becomes(fd, readyWrite)
		k.receiveFails(fd, unix.EAGAIN)
		require.Equal(k.t, unix.EDESTADDRREQ, k.sys.sendTo(fd, []byte("x"), netip.AddrPort{}))
		_, errno := k.sys.remoteAddr(fd)
		require.Equal(k.t, unix.ENOTCONN, errno)
	},
	"datagrams keep their bounds, their sender and their order": func(k *kernelSide) {
		a, from := k.datagrams()
		b, to := k.datagrams()
		k.watch(b, sm.Read, false)
		for _, text := range []string{"one", "", "three"} {
			k.sends(a, text, to)
			k.event(b, readyRead)
			k.receives(b, 8, text, from, false)
		}
		k.quiet(b)
		k.receiveFails(b, unix.EAGAIN)
	},
	"a datagram that is too long is cut, and no other": func(k *kernelSide) {
		a, from := k.datagrams()
		b, to := k.datagrams()
		k.sends(a, "much too long", to)
		k.becomes(b, readyRead|readyWrite)
		k.receives(b, 4, "much", from, true)
		k.receiveFails(b, unix.EAGAIN)
		k.sends(a, "next", to)
		k.becomes(b, readyRead|readyWrite)
		k.receives(b, 4, "next", from, false)
	},
	"each datagram is an edge": func(k *kernelSide) {
		a, from := k.datagrams()
		b, to := k.datagrams()
		k.watch(b, sm.Read, true)
		k.quiet(b)
		for range 2 {
			k.sends(a, "x", to)
			k.event(b, readyRead)
			k.quiet(b)
		}
		k.receives(b, 8, "x", from, false)
		k.quiet(b)
		k.receives(b, 8, "x", from, false)
	},
	"a connected socket takes its peer's alone": func(k *kernelSide) {
		a, from := k.datagrams()
		b, to := k.datagrams()
		c, _ := k.datagrams()
		require.Zero(k.t, k.sys.connect(b, from))
		far, errno := k.sys.remoteAddr(b)
		require.Zero(k.t, errno)
		require.Equal(k.t, from, far)
		k.sends(c, "a stranger's", to)
		k.quiet(b)
		k.becomes(b, readyWrite)
		k.sends(a, "the peer's", to)
		k.becomes(b, readyRead|readyWrite)
		k.receives(b, 16, "the peer's", from, false)
		k.receiveFails(b, unix.EAGAIN)
		k.sends(b, "back", netip.AddrPort{})
		k.becomes(a, readyRead|readyWrite)
		k.receives(a, 16, "back", to, false)
	},
	"a port that nobody has, of a connected socket": func(k *kernelSide) {
		fd, _ := k.datagrams()
		require.Zero(k.t, k.sys.connect(fd, k.nowhere()))
		k.sends(fd, "x", netip.AddrPort{})
		k.becomes(fd, readyWrite|readyError)
		k.receiveFails(fd, unix.ECONNREFUSED)
		k.receiveFails(fd, unix.EAGAIN)
		k.becomes(fd, readyWrite)
		k.sends(fd, "x", netip.AddrPort{})
		k.becomes(fd, readyWrite|readyError)
		require.Equal(k.t, unix.ECONNREFUSED, k.sys.sendTo(fd, []byte("x"), netip.AddrPort{}), "a write finds it, too")
		k.becomes(fd, readyWrite)
		k.sends(fd, "x", netip.AddrPort{})
		k.becomes(fd, readyWrite|readyError)
		require.Equal(k.t, unix.ECONNREFUSED, k.pending(fd))
		k.becomes(fd, readyWrite)
	},
	"a refused port is an edge": func(k *kernelSide) {
		fd, _ := k.datagrams()
		require.Zero(k.t, k.sys.connect(fd, k.nowhere()))
		k.watch(fd, sm.Read, true)
		k.quiet(fd)
		k.sends(fd, "x", netip.AddrPort{})
		k.event(fd, readyError)
		k.quiet(fd)
	},
	"a port that nobody has, of another socket": func(k *kernelSide) {
		fd, _ := k.datagrams()
		k.sends(fd, "x", k.nowhere())
		k.quiet(fd)
		k.becomes(fd, readyWrite)
		k.receiveFails(fd, unix.EAGAIN)
	},
	"an error comes before the datagrams": func(k *kernelSide) {
		a, from := k.datagrams()
		b, to := k.datagrams()
		require.Zero(k.t, k.sys.connect(b, from))
		k.sends(a, "x", to)
		k.becomes(b, readyRead|readyWrite)
		k.close(a)
		k.sends(b, "y", netip.AddrPort{})
		k.becomes(b, readyRead|readyWrite|readyError)
		k.receiveFails(b, unix.ECONNREFUSED)
		k.receives(b, 8, "x", from, false)
	},
}
