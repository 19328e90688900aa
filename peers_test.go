//go:build linux || darwin

package stepio

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// peer is the other end of a connection: a raw socket, used without the loop.
// Its methods may be called from any goroutine; they wait at most patience.
type peer struct {
	t  testing.TB
	fd int
}

// pair is a connection of the loop and its peer. The connection is closed when
// the test has ended, at the latest.
func (w *world) pair() (*TCPConn, *peer) {
	near, far := tcpPair(w.t)
	c := newTCPConn(w.Loop, near, false)
	w.conns = append(w.conns, c)
	return c, newPeer(w.t, far)
}

func newPeer(t testing.TB, fd int) *peer {
	p := &peer{t, fd}
	t.Cleanup(p.close)
	return p
}

// connect is a new connection to addr.
func connect(t testing.TB, addr netip.AddrPort) *peer {
	fd := streamSocket(t)
	sa, errno := toSockaddr(addr)
	require.Zero(t, errno)
	require.NoError(t, unix.Connect(fd, sa))
	require.NoError(t, unix.SetNonblock(fd, true))
	return newPeer(t, fd)
}

// tcpPair is two connected TCP sockets that do not block.
func tcpPair(t testing.TB) (near, far int) {
	ln := streamSocket(t)
	defer func() { require.NoError(t, unix.Close(ln)) }()
	require.NoError(t, unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(ln, 1))
	addr, err := unix.Getsockname(ln)
	require.NoError(t, err)
	far = streamSocket(t)
	require.NoError(t, unix.Connect(far, addr))
	near, _, err = unix.Accept(ln)
	require.NoError(t, err)
	for _, fd := range []int{near, far} {
		unix.CloseOnExec(fd)
		require.NoError(t, unix.SetNonblock(fd, true))
		require.NoError(t, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	}
	return near, far
}

func streamSocket(t testing.TB) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	unix.CloseOnExec(fd)
	return fd
}

// socketPair is two connected Unix sockets that do not block: pollable
// descriptors that are no TCPConn. They are closed when the test has ended.
func socketPair(t testing.TB) (near, far int) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	require.NoError(t, err)
	for _, fd := range fds {
		closeLater(t, fd)
	}
	return fds[0], fds[1]
}

// pipe is a pipe that does not block.
func pipe(t testing.TB) (r, w int) {
	var fds [2]int
	require.NoError(t, unix.Pipe(fds[:]))
	for _, fd := range fds {
		closeLater(t, fd)
	}
	return fds[0], fds[1]
}

// closeLater makes fd one that does not block and closes it when the test ends.
func closeLater(t testing.TB, fd int) {
	unix.CloseOnExec(fd)
	require.NoError(t, unix.SetNonblock(fd, true))
	t.Cleanup(func() { assert.NoError(t, unix.Close(fd)) })
}

// send sends all of data.
func (p *peer) send(data []byte) {
	for len(data) > 0 {
		n, err := unix.Write(p.fd, data)
		if err == unix.EAGAIN && p.wait(unix.POLLOUT) {
			continue
		}
		if !assert.NoError(p.t, err, "peer: write") {
			return
		}
		data = data[n:]
	}
}

// recv receives n bytes; less when the input ends first.
func (p *peer) recv(n int) []byte {
	data, err := p.recvUpTo(n)
	if err != io.EOF {
		assert.NoError(p.t, err, "peer: read")
	}
	return data
}

// recvAll receives until the end of input, which is nil, or an error.
func (p *peer) recvAll() ([]byte, error) {
	data, err := p.recvUpTo(1 << 30)
	if err == io.EOF {
		err = nil
	}
	return data, err
}

func (p *peer) recvUpTo(n int) (data []byte, err error) {
	buf := make([]byte, 64<<10)
	for len(data) < n {
		m, err := unix.Read(p.fd, buf[:min(len(buf), n-len(data))])
		switch {
		case err == unix.EAGAIN:
			if !p.wait(unix.POLLIN) {
				return data, errors.New("peer: nothing comes")
			}
		case err != nil:
			return data, err
		case m == 0:
			return data, io.EOF
		default:
			data = append(data, buf[:m]...)
		}
	}
	return data, nil
}

// fill sends until the connection takes no more, and says how much that was.
func (p *peer) fill() (n int) {
	chunk := make([]byte, 64<<10)
	for {
		m, err := unix.Write(p.fd, chunk)
		if err != nil {
			assert.Equal(p.t, unix.EAGAIN, err)
			return n
		}
		n += m
	}
}

func (p *peer) wait(events int16) bool {
	return assert.True(p.t, pollFD(p.fd, events, patience), "peer: waited in vain")
}

// pollFD waits until a descriptor is ready.
func pollFD(fd int, events int16, limit time.Duration) bool {
	for end := time.Now().Add(limit); ; {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds[:], int(max(0, time.Until(end))/time.Millisecond))
		if err != unix.EINTR {
			return n == 1
		}
	}
}

// arrived waits until the kernel has something for c.
func arrived(c *TCPConn) {
	pollFD(c.FD(), unix.POLLIN, patience)
}

func (p *peer) closeWrite() { assert.NoError(p.t, unix.Shutdown(p.fd, unix.SHUT_WR)) }

// close ends the connection. Closing twice does nothing.
func (p *peer) close() {
	if p.fd >= 0 {
		assert.NoError(p.t, unix.Close(p.fd))
		p.fd = -1
	}
}

// reset ends the connection with a reset.
func (p *peer) reset() {
	assert.NoError(p.t, unix.SetsockoptLinger(p.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	p.close()
}

// newUnownedPeer is a peer whose descriptor another closes.
func newUnownedPeer(t testing.TB, fd int) *peer { return &peer{t, fd} }

// lowerFDLimit leaves the process room for so many more descriptors until the
// test ends, or until what it returns is called.
func lowerFDLimit(t testing.TB, room int) (restore func()) {
	var was unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	// The limit is on numbers, and a descriptor gets the lowest one that is free.
	for range room {
		fd, err := unix.Dup(0)
		require.NoError(t, err)
		defer func() { require.NoError(t, unix.Close(fd)) }()
	}
	fd, err := unix.Dup(0)
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	lowered := was
	lowered.Cur = uint64(fd)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered))
	restored := false
	restore = func() {
		if !restored {
			restored = true
			assert.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
		}
	}
	t.Cleanup(restore)
	return restore
}
