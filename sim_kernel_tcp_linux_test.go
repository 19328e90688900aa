package stepio

import (
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// How a connection begins, and how bytes go through it.
var kernelStreamCases = map[string]func(k *kernelSide){
	"a socket that is not connected": func(k *kernelSide) {
		fd := k.stream()
		k.becomes(fd, readyWrite|readyHangup)
		k.readFails(fd, unix.ENOTCONN)
		k.writeFails(fd, unix.EPIPE)
		require.Equal(k.t, unix.ENOTCONN, k.sys.shutdown(fd, unix.SHUT_WR))
		_, errno := k.sys.remoteAddr(fd)
		require.Equal(k.t, unix.ENOTCONN, errno)
		_, errno = k.sys.accept(fd)
		require.Equal(k.t, unix.EINVAL, errno)
		require.Zero(k.t, k.pending(fd))
	},
	"a listening socket": func(k *kernelSide) {
		ln, addr := k.listener()
		k.becomes(ln, 0)
		k.readFails(ln, unix.ENOTCONN)
		k.writeFails(ln, unix.EPIPE)
		_, errno := k.sys.accept(ln)
		require.Equal(k.t, unix.EAGAIN, errno)
		far := k.connect(addr)
		k.becomes(ln, readyRead)
		near := k.accept(ln)
		k.becomes(ln, 0)
		_, errno = k.sys.accept(ln)
		require.Equal(k.t, unix.EAGAIN, errno)
		k.becomes(far, readyWrite)
		k.becomes(near, readyWrite)
	},
	"a connection that waits to be accepted has its bytes": func(k *kernelSide) {
		ln, addr := k.listener()
		far := k.connect(addr)
		k.becomes(far, readyWrite)
		k.write(far, "early")
		k.ends(far)
		near := k.accept(ln)
		k.becomes(near, readyRead|readyWrite|readyEnd)
		k.reads(near, "early")
		k.readFails(near, 0)
	},
	"a listener reports each connection as an edge": func(k *kernelSide) {
		ln, addr := k.listener()
		k.watch(ln, sm.Read, true)
		k.quiet(ln)
		k.connect(addr)
		k.event(ln, readyRead)
		k.quiet(ln)
		k.connect(addr)
		k.event(ln, readyRead)
		k.quiet(ln)
	},
	"connecting": func(k *kernelSide) {
		ln, addr := k.listener()
		fd := k.connect(addr)
		k.becomes(fd, readyWrite)
		require.Zero(k.t, k.pending(fd))
		far, errno := k.sys.remoteAddr(fd)
		require.Zero(k.t, errno)
		require.Equal(k.t, addr, far)
		here, errno := k.sys.localAddr(fd)
		require.Zero(k.t, errno)
		near := k.accept(ln)
		far, errno = k.sys.remoteAddr(near)
		require.Zero(k.t, errno)
		require.Equal(k.t, here, far)
		here, errno = k.sys.localAddr(near)
		require.Zero(k.t, errno)
		require.Equal(k.t, addr, here)
	},
	"connecting to nobody": func(k *kernelSide) {
		_, addr := k.bound(k.stream()) // does not listen
		fd := k.connect(addr)
		k.becomes(fd, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		_, errno := k.sys.remoteAddr(fd)
		require.Equal(k.t, unix.ENOTCONN, errno)
		require.Equal(k.t, unix.ECONNREFUSED, k.pending(fd))
		require.Zero(k.t, k.pending(fd), "it is told once")
		k.becomes(fd, readyRead|readyWrite|readyEnd|readyHangup)
		k.readFails(fd, 0)
		k.writeFails(fd, unix.EPIPE)
	},
	"a refusal that a read finds": func(k *kernelSide) {
		_, addr := k.bound(k.stream())
		fd := k.connect(addr)
		k.becomes(fd, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		k.readFails(fd, unix.ECONNREFUSED)
		k.readFails(fd, 0)
	},
	"an idle connection": func(k *kernelSide) {
		near, far := k.pair()
		for _, fd := range []int{near, far} {
			k.becomes(fd, readyWrite)
			k.readFails(fd, unix.EAGAIN)
			require.Zero(k.t, k.pending(fd))
		}
	},
	"bytes, in both directions": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "abc")
		k.write(near, "xyz")
		k.becomes(near, readyRead|readyWrite)
		k.becomes(far, readyRead|readyWrite)
		k.reads(near, "a")
		k.write(far, "def")
		k.reads(near, "bcdef")
		k.becomes(near, readyWrite)
		k.readFails(near, unix.EAGAIN)
		k.reads(far, "xyz")
	},
	"a full output": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Write, true)
		k.event(near, readyWrite)
		sent, piece := 0, make([]byte, 1<<15)
		full := func() bool { // what is under way may make room yet, also too little for an edge
			before := sent
			for {
				n, errno := k.sys.write(near, piece)
				if sent += n; errno != 0 {
					require.Equal(k.t, unix.EAGAIN, errno)
					return len(k.look(0)) == 0 && sent == before
				}
			}
		}
		for calm := 0; calm < 20; calm++ {
			if !full() {
				calm = 0
			}
		}
		k.quiet(near)
		k.writeFails(near, unix.EAGAIN)
		got, room := 0, make([]byte, 1<<15)
		for got < sent {
			n, errno := k.sys.read(far, room)
			if errno == unix.EAGAIN {
				k.look(0) // the edge may come here already
				continue
			}
			require.Zero(k.t, errno)
			got += n
		}
		k.writeFails(near, 0)
		k.readFails(near, unix.EAGAIN)
		require.NoError(k.t, k.poller.remove(near, sm.Write))
		k.becomes(near, readyWrite)
	},
	"room after a full output is an edge": func(k *kernelSide) {
		near, far := k.pair()
		piece := make([]byte, 1<<15)
		for calm := 0; calm < 20; calm++ {
			if n, errno := k.sys.write(near, piece); errno == 0 && n > 0 {
				calm = 0
			}
			k.look(0)
		}
		k.watch(near, sm.Write, true)
		k.quiet(near)
		var ready readiness
		for room := make([]byte, 1<<20); ready == 0; ready = k.look(0)[near] {
			if _, errno := k.sys.read(far, room); errno == unix.EAGAIN {
				k.event(near, readyWrite)
				return
			}
		}
		require.Equal(k.t, readyWrite, ready)
	},
}

// How a connection ends.
var kernelEndCases = map[string]func(k *kernelSide){
	"the peer ends its output": func(k *kernelSide) {
		near, far := k.pair()
		k.ends(far)
		k.becomes(near, readyRead|readyWrite|readyEnd)
		k.readFails(near, 0)
		k.readFails(near, 0)
		k.writeFails(far, unix.EPIPE)
		k.becomes(far, readyWrite)
		k.write(near, "still")
		k.reads(far, "still")
	},
	"bytes and then the end": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "abc")
		k.ends(far)
		k.becomes(near, readyRead|readyWrite|readyEnd)
		k.reads(near, "abc")
		k.readFails(near, 0)
	},
	"the end is an edge": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read, true)
		k.quiet(near)
		k.ends(far)
		k.event(near, readyRead|readyEnd)
		k.quiet(near)
	},
	"both ends": func(k *kernelSide) {
		near, far := k.pair()
		k.ends(far)
		k.becomes(near, readyRead|readyWrite|readyEnd)
		k.ends(near)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup)
		k.becomes(far, readyRead|readyWrite|readyEnd|readyHangup)
		for _, fd := range []int{near, far} {
			k.readFails(fd, 0)
			k.writeFails(fd, unix.EPIPE)
			_, errno := k.sys.remoteAddr(fd)
			require.Equal(k.t, unix.ENOTCONN, errno, "the connection is over")
			require.Equal(k.t, unix.ENOTCONN, k.sys.shutdown(fd, unix.SHUT_WR))
		}
	},
	"the end of both is an edge for who has ended first": func(k *kernelSide) {
		near, far := k.pair()
		k.ends(near)
		k.becomes(far, readyRead|readyWrite|readyEnd)
		k.watch(near, sm.Read, true)
		k.quiet(near)
		k.ends(far)
		k.event(near, readyRead|readyEnd|readyHangup)
	},
	"input that is shut": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read, true)
		k.quiet(near)
		require.Zero(k.t, k.sys.shutdown(near, unix.SHUT_RD))
		k.event(near, readyRead|readyEnd)
		require.NoError(k.t, k.poller.remove(near, sm.Read))
		k.readFails(near, 0)
		k.becomes(near, readyRead|readyWrite|readyEnd)
		k.becomes(far, readyWrite)
		k.write(far, "late")
		k.settle()
		k.reads(near, "late")
		k.readFails(near, 0)
	},
	"input that is shut keeps what has come": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "abc")
		k.settle()
		require.Zero(k.t, k.sys.shutdown(near, unix.SHUT_RD))
		k.reads(near, "abc")
		k.readFails(near, 0)
	},
	"a reset": func(k *kernelSide) {
		near, far := k.pair()
		k.resets(far)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		k.readFails(near, unix.ECONNRESET)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup)
		k.readFails(near, 0)
		k.writeFails(near, unix.EPIPE)
		_, errno := k.sys.remoteAddr(near)
		require.Equal(k.t, unix.ENOTCONN, errno)
		require.Equal(k.t, unix.ENOTCONN, k.sys.shutdown(near, unix.SHUT_WR))
	},
	"a reset that a write finds": func(k *kernelSide) {
		near, far := k.pair()
		k.resets(far)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		k.writeFails(near, unix.ECONNRESET)
		k.writeFails(near, unix.EPIPE)
		k.readFails(near, 0)
	},
	"a reset that SO_ERROR finds": func(k *kernelSide) {
		near, far := k.pair()
		k.resets(far)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		require.Equal(k.t, unix.ECONNRESET, k.pending(near))
		require.Zero(k.t, k.pending(near))
		k.readFails(near, 0)
	},
	"a reset is an edge": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read, true)
		k.quiet(near)
		k.resets(far)
		k.event(near, readyRead|readyEnd|readyHangup|readyError)
		k.quiet(near)
	},
	"what came before a reset can be read": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "abc")
		k.settle()
		k.resets(far)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		k.reads(near, "abc")
		k.readFails(near, unix.ECONNRESET)
		k.readFails(near, 0)
	},
	"a close with unread input is a reset": func(k *kernelSide) {
		near, far := k.pair()
		k.write(near, "unread")
		k.becomes(far, readyRead|readyWrite)
		k.close(far)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		k.readFails(near, unix.ECONNRESET)
	},
	"a close sends what was written": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "bye")
		k.close(far)
		k.becomes(near, readyRead|readyWrite|readyEnd)
		k.reads(near, "bye")
		k.readFails(near, 0)
	},
	"bytes for who has closed": func(k *kernelSide) {
		near, far := k.pair()
		k.close(far)
		k.becomes(near, readyRead|readyWrite|readyEnd)
		k.write(near, "too late")
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		k.readFails(near, 0)
		k.writeFails(near, unix.EPIPE)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup)
	},
	"a reset after the end": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "abc")
		k.ends(far)
		k.becomes(near, readyRead|readyWrite|readyEnd)
		k.write(near, "unread")
		k.becomes(far, readyRead|readyWrite)
		k.close(far)
		k.becomes(near, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		k.reads(near, "abc")
		k.readFails(near, 0)
		require.Equal(k.t, unix.EPIPE, k.pending(near))
		k.readFails(near, 0)
	},
	"a listener that is closed resets its queue": func(k *kernelSide) {
		ln, addr := k.listener()
		far := k.connect(addr)
		k.becomes(ln, readyRead)
		k.close(ln)
		k.becomes(far, readyRead|readyWrite|readyEnd|readyHangup|readyError)
		k.readFails(far, unix.ECONNRESET)
	},
}
