package loopback

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

// A socket there gets what is sent to it, and nothing that is sent to its port of
// 127.0.0.1.
func TestOwnGetsNothingThatIsForAnother(t *testing.T) {
	assert.True(t, netip.MustParsePrefix("127.64.0.0/10").Contains(Own()))
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(Own(), 0)))
	require.NoError(t, err)
	defer func() { assert.NoError(t, conn.Close()) }()
	own := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	other, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), own.Port())))
	if err != nil {
		t.Skip("somebody else has that port of 127.0.0.1:", err)
	}
	defer func() { assert.NoError(t, other.Close()) }()
	for _, c := range []struct {
		text string
		to   *net.UDPConn
	}{{"for another", other}, {"for us", conn}} {
		_, err = other.WriteToUDPAddrPort([]byte(c.text), c.to.LocalAddr().(*net.UDPAddr).AddrPort())
		require.NoError(t, err)
	}
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, 20)
	n, _, err := conn.ReadFromUDPAddrPort(buf)
	require.NoError(t, err)
	assert.Equal(t, "for us", string(buf[:n]))
}
