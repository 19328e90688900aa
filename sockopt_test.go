//go:build linux || darwin

package stepio

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestTCPConnSocketOptions(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	get := func(level, name int) int {
		v, err := unix.GetsockoptInt(c.FD(), level, name)
		require.NoError(t, err)
		return v
	}
	require.NoError(t, c.SetNoDelay(false))
	assert.Zero(t, get(unix.IPPROTO_TCP, unix.TCP_NODELAY))
	require.NoError(t, c.SetNoDelay(true))
	assert.NotZero(t, get(unix.IPPROTO_TCP, unix.TCP_NODELAY))

	assert.Zero(t, get(unix.SOL_SOCKET, unix.SO_KEEPALIVE), "off by default")
	require.NoError(t, c.SetKeepAlive(true))
	assert.NotZero(t, get(unix.SOL_SOCKET, unix.SO_KEEPALIVE))
	require.NoError(t, c.SetKeepAlivePeriod(90*time.Second+1))
	assert.Equal(t, 91, get(unix.IPPROTO_TCP, tcpKeepIdle), "rounded up")
	assert.Equal(t, 91, get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL))
	assert.Panics(t, func() { _ = c.SetKeepAlivePeriod(0) })

	require.NoError(t, c.SetReadBuffer(32<<10))
	assert.GreaterOrEqual(t, get(unix.SOL_SOCKET, unix.SO_RCVBUF), 32<<10)
	require.NoError(t, c.SetWriteBuffer(32<<10))
	assert.GreaterOrEqual(t, get(unix.SOL_SOCKET, unix.SO_SNDBUF), 32<<10)

	assert.Panics(t, func() { _ = c.SetLinger(1) }, "it would block the loop")
	require.NoError(t, c.SetLinger(0))
	require.NoError(t, c.SetLinger(-1))
	require.NoError(t, c.SetLinger(0))
	require.NoError(t, c.Close())
	_, err := peer.recvAll()
	assert.ErrorIs(t, err, unix.ECONNRESET, "a linger of 0 resets")
	for _, err := range []error{
		c.SetNoDelay(true), c.SetKeepAlive(true), c.SetKeepAlivePeriod(1), c.SetReadBuffer(1),
		c.SetWriteBuffer(1), c.SetLinger(0),
	} {
		assert.ErrorIs(t, err, net.ErrClosed)
	}
}
